// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace dartquant::program {

/// The style sheet of the report. Blue and vermilion of Okabe and Ito's palette, which every kind of colour
/// vision tells apart, each with a tone for a dark page.
inline constexpr char html_style[] = R"css(
:root { --paper: #fbfaf7; --card: #ffffff; --ink: #1d1f24; --soft: #5d626c; --rule: #e4e1d9; --best: #0072b2;
  --reference: #c4500a; --other: #7d838d; --third: #00795a; --fourth: #a4497c; --area: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #131519; --card: #1b1e24; --ink: #e9e7e2; --soft: #a2a7b0; --rule: #30343c; --best: #56b4e9;
    --reference: #f0894a; --other: #8d939d; --third: #3cc29a; --fourth: #e08fbd;
    --area: #56b4e9; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; font-size: 16px; }
main { max-width: 1160px; margin: 0 auto; padding: 40px 20px 80px; }
h1, h2 { font-family: "Iowan Old Style", Palatino, "Palatino Linotype", Georgia, serif; font-weight: 600;
  line-height: 1.2; }
h1 { font-size: 2.3rem; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.5rem; margin: 56px 0 6px; padding-top: 18px; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 22px 0 4px; }
p { margin: 0 0 14px; max-width: 74ch; color: var(--soft); overflow-wrap: anywhere; }
p.lead { font-size: 1.12rem; color: var(--ink); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 24px 0 8px; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 12px 16px; }
.card b { display: block; font-size: 1.6rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 0.85rem; }
.wide { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 16px; }
.three { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(290px, 100%), 1fr)); gap: 16px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 14px 14px 10px; overflow-x: auto; }
figure.table { padding: 4px 14px; margin-bottom: 16px; }
figcaption { color: var(--soft); font-size: 0.85rem; margin-top: 6px; }
svg { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 0.86rem; }
th, td { padding: 7px 7px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th { color: var(--soft); font-weight: 500; font-size: 0.8rem; }
th:first-child, td:first-child { text-align: left; padding-left: 2px; }
tr:last-child td { border-bottom: 0; }
tr.best td { font-weight: 650; } tr.best td:first-child { color: var(--best); }
tr.reference td:first-child { color: var(--reference); }
small { color: var(--soft); font-weight: 400; }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
table.facts td:first-child { color: var(--soft); white-space: nowrap; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; font-size: 12px;
  fill: var(--ink); font-variant-numeric: tabular-nums; }
svg .tick, svg .axis, svg .note { fill: var(--soft); font-size: 11px; }
svg .title { font-weight: 600; } svg .label { font-size: 12px; }
svg .on-dark, svg .on-bright { font-size: 11px; fill: #ffffff; } svg .on-bright { fill: #1d1f24; }
svg text.best { fill: var(--best); font-weight: 600; } svg text.reference { fill: var(--reference); font-weight: 600; }
.grid { stroke: var(--rule); stroke-width: 1; }
.base, .zero-line { stroke: var(--soft); stroke-width: 1.2; }
.original-line { stroke: var(--ink); stroke-width: 1.4; stroke-dasharray: 4 3; }
.reference-line { stroke: var(--reference); stroke-width: 1.2; stroke-dasharray: 2 3; }
.leader { stroke: var(--rule); stroke-width: 1; }
.whisker { stroke-width: 3; stroke-linecap: round; opacity: 0.55; } .thin { stroke-width: 1; opacity: 0.8; }
.whisker.best, .thin.best { stroke: var(--best); } .whisker.reference, .thin.reference { stroke: var(--reference); }
.whisker.other, .thin.other { stroke: var(--other); }
.dot { stroke: var(--card); stroke-width: 1.5; } .seed { opacity: 0.6; }
circle.best { fill: var(--best); } circle.reference { fill: var(--reference); } circle.other { fill: var(--other); }
.arrow { fill: none; stroke-width: 2; } .arrow.best { stroke: var(--best); } .arrow.other { stroke: var(--other); }
.arrow.reference { stroke: var(--reference); }
.curve { fill: none; stroke-width: 1.6; stroke-linejoin: round; opacity: 0.75; }
.line0 { stroke: var(--best); } .line1 { stroke: var(--reference); } .line2 { stroke: var(--third); }
.line3 { stroke: var(--fourth); } .line4 { stroke: var(--other); }
circle.line0, text.line0 { fill: var(--best); } circle.line1, text.line1 { fill: var(--reference); }
circle.line2, text.line2 { fill: var(--third); } circle.line3, text.line3 { fill: var(--fourth); }
circle.line4, text.line4 { fill: var(--other); } text.label { stroke: none; }
.area { fill: var(--area); fill-opacity: 0.28; stroke: var(--area); stroke-width: 1; }
.gaussian { fill: none; stroke: var(--soft); stroke-width: 1.3; stroke-dasharray: 4 3; }
.uniform { fill: none; stroke: var(--reference); stroke-width: 1.5; }
.key { display: inline-block; width: 22px; height: 0; border-top: 2px solid var(--soft); vertical-align: 4px; }
.key.dashed { border-top-style: dashed; } .key.solid { border-color: var(--reference); }
.ramp { display: inline-block; width: 90px; height: 9px; border-radius: 3px; vertical-align: 0;
  background: linear-gradient(90deg, #1c1044, #812581, #e55064, #fec287, #fcfdbf); }
@media (max-width: 600px) { main { padding: 22px 12px 48px; } h1 { font-size: 1.7rem; } figure { padding: 10px 8px; } }
@media print { body { background: #ffffff; } figure { break-inside: avoid; } }
)css";

}  // namespace dartquant::program
