// SPDX-License-Identifier: Apache-2.0
#include "html_report.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/core.h>

#include "activation_charts.hpp"
#include "html_style.hpp"
#include "quality_charts.hpp"
#include "svg_chart.hpp"
#include "units.hpp"

namespace dartquant::program {
namespace {

using Schemes = std::vector<SchemeSummary>;

std::string figure(std::string const& picture, std::string const& caption) {
  if (picture.empty()) return {};
  return fmt::format("<figure>{}<figcaption>{}</figcaption></figure>\n", picture, caption);
}

std::string section(std::string const& title, std::string const& explanation, std::string const& content) {
  if (content.empty()) return {};
  return fmt::format("<section><h2>{}</h2>\n<p>{}</p>\n{}</section>\n", title, explanation, content);
}

/// "-1.62 %", and the interval that goes with it below.
std::string change_cell(MethodSummary const& method) {
  if (!method.change) return "–";
  bool const seeds = method.change->has_interval();
  Estimate const& shown = seeds ? *method.change : *method.change_over_windows;
  std::string text = fmt::format("{:+.2f} %", 100 * method.change->mean);
  if (shown.has_interval())
    text += fmt::format(" <small>[{:+.2f}, {:+.2f}]{}</small>", 100 * shown.low, 100 * shown.high,
                        seeds ? "" : " windows");
  return text;
}

/// Such as "< 0.1 s", as markup.
std::string seconds_text(double seconds) { return escape_markup(format_seconds(seconds)); }

std::string plus_minus_cell(Estimate const& value) {
  std::string text = fmt::format("{:.4f}", value.mean);
  if (value.has_interval()) text += fmt::format(" <small>± {:.4f}</small>", value.high - value.mean);
  return text;
}

std::string row(std::string const& look, std::vector<std::string> const& cells) {
  std::string text = fmt::format("<tr class=\"{}\">", look);
  for (std::string const& cell : cells) text += "<td>" + cell + "</td>";
  return text + "</tr>\n";
}

std::string quality_table(SchemeSummary const& scheme, Comparison const& comparison) {
  std::string text = fmt::format(
      "<figure class=\"table\"><table><thead><tr><th>{}</th><th>perplexity</th><th>against {}</th><th>gap "
      "closed</th><th>KL</th><th>same top-1</th><th>Whip / "
      "channel</th><th>learning</th><th>evaluation</th><th>"
      "peak memory</th></tr></thead><tbody>\n",
      scheme.scheme.name(), dartquant::name_of(comparison.reference));
  text += row("original", {"original", fmt::format("{:.4f}", comparison.baseline.perplexity), "–", "–", "–",
                           "–", fmt::format("{:.4f}", comparison.whip_before), "–", "–", "–"});
  for (MethodSummary const& method : scheme.methods) {
    double seconds = 0;
    for (Result const& seed : method.seeds)
      seconds += seed.evaluation_seconds / static_cast<double>(method.seeds.size());
    text += row(look_of(method, scheme, comparison),
                {method.name(), plus_minus_cell(method.perplexity), change_cell(method),
                 method.gap_closed ? fmt::format("{:.0f} %", 100 * method.gap_closed->mean) : "–",
                 plus_minus_cell(method.kl), fmt::format("{:.2f} %", 100 * method.top1_agreement),
                 fmt::format("{:.4f}", method.whip_per_channel),
                 method.learning_seconds.mean > 0 ? seconds_text(method.learning_seconds.mean) : "–",
                 seconds_text(seconds), method.peak > 0 ? format_bytes(method.peak) : "not measured"});
  }
  return text + "</tbody></table></figure>\n";
}

/// What the numbers allow to say about the best method, in one sentence.
std::string verdict(SchemeSummary const& scheme, Comparison const& comparison) {
  MethodSummary const& best = scheme.best();
  std::string const name(dartquant::name_of(comparison.reference));
  if (!best.change)
    return fmt::format("At {}, {} has the lowest perplexity, {:.4f} (original {:.4f}).", scheme.scheme.name(),
                       best.name(), best.perplexity.mean, comparison.baseline.perplexity);
  bool const seeds = best.change->has_interval();
  Estimate const& shown = seeds ? *best.change : *best.change_over_windows;
  std::string text =
      fmt::format("At {}, {} has the lowest perplexity, {:.4f}: {:+.2f} % against {}", scheme.scheme.name(),
                  best.name(), best.perplexity.mean, 100 * best.change->mean, name);
  if (!shown.has_interval()) return text + ", with no interval.";
  text += fmt::format(" (95 % interval over {}: {:+.2f} to {:+.2f})", seeds ? "seeds" : "windows of text",
                      100 * shown.low, 100 * shown.high);
  return text + (shown.excludes_zero() ? "; the interval excludes zero."
                                       : "; the interval includes zero: the two cannot be told apart.");
}

std::string card(std::string const& value, std::string const& what) {
  return fmt::format("<div class=\"card\"><b>{}</b><span>{}</span></div>\n", value, what);
}

std::string headline(Comparison const& comparison, Schemes const& schemes) {
  SchemeSummary const& scheme = schemes.front();
  MethodSummary const& best = scheme.best();
  std::string text;
  for (SchemeSummary const& each : schemes)
    text += "<p class=\"lead\">" + verdict(each, comparison) + "</p>\n";
  text += "<div class=\"cards\">\n";
  text += card(fmt::format("{:.3f}", comparison.baseline.perplexity), "perplexity of the original");
  text += card(fmt::format("{:.3f}", best.perplexity.mean),
               fmt::format("{} at {}", best.name(), scheme.scheme.name()));
  if (best.change) {
    text += card(fmt::format("{:+.2f} %", 100 * best.change->mean),
                 fmt::format("against {}", dartquant::name_of(comparison.reference)));
    text += card(
        fmt::format("{:.0f} %", 100 * best.gap_closed->mean),
        fmt::format("of the gap from {} to the original closed", dartquant::name_of(comparison.reference)));
  }
  text += card(seconds_text(best.learning_seconds.mean), fmt::format("to learn {}", best.name()));
  return text + "</div>\n";
}

std::string quality(Comparison const& comparison, SchemeSummary const& scheme) {
  std::string charts =
      figure(perplexity_chart(scheme, comparison),
             "Mean and 95 % interval over seeds; small dots are seeds. An arrow lies beyond the axis.");
  charts += figure(change_chart(scheme, comparison),
                   "Paired with the baseline: the thick line is the interval over seeds, the thin one below "
                   "over windows of text. An interval that crosses "
                   "zero shows no difference.");
  charts +=
      figure(time_chart(scheme, comparison),
             fmt::format("Seconds of learning per rotation set, without the capture of activations that all "
                         "methods share ({}). Up to 0.01 s at the left edge.",
                         seconds_text(comparison.capture_seconds)));
  charts += figure(
      error_map(scheme),
      "Error of what is rounded, sum |x − Q(x)|² / sum |x|², in percent, mean over layers, first seed. "
      "Bright is worse (logarithmic).");
  return quality_table(scheme, comparison) + "<div class=\"wide\">" + charts + "</div>\n";
}

std::string losses(Comparison const& comparison) {
  std::string charts;
  std::vector<LearnedObjective> seen;
  for (ModelCalibration const& found : comparison.calibrations) {
    LearnedObjective const objective = traits(found.method).objective;
    if (std::find(seen.begin(), seen.end(), objective) != seen.end()) continue;
    seen.push_back(objective);
    std::string const chart = loss_chart(objective, comparison);
    if (!chart.empty()) charts += "<figure>" + chart + "</figure>\n";
  }
  return charts.empty() ? "" : "<div class=\"wide\">" + charts + "</div>\n";
}

struct ShownSite {
  Site site;
  char const* title;
};
constexpr ShownSite shown_sites[] = {{Site::up_proj_input, "up_proj input, turned by R1"},
                                     {Site::o_proj_input, "o_proj input, turned by R2"},
                                     {Site::down_proj_input, "down_proj input, turned by R4"}};

std::string histograms(Comparison const& comparison) {
  std::string text;
  for (auto const& [site, title] : shown_sites) {
    if (comparison.portraits.empty()) continue;
    text += fmt::format("<h3>{}</h3>\n<div class=\"three\">", title);
    for (Portrait const& portrait : comparison.portraits)
      text += "<figure>" + histogram_chart(portrait, site) + "</figure>\n";
    text += "</div>\n";
  }
  return text;
}

std::string outliers(Comparison const& comparison) {
  std::string text;
  for (auto const& [site, title] : shown_sites) {
    if (comparison.portraits.empty()) continue;
    double loudest = 1;
    for (Portrait const& portrait : comparison.portraits)
      loudest = std::max(loudest, loudest_channel(portrait, site));
    text +=
        fmt::format("<h3>{} <small>1 <span class=\"ramp\"></span> {:.1f}</small></h3>\n<div class=\"three\">",
                    title, loudest);
    for (Portrait const& portrait : comparison.portraits)
      text += "<figure>" + channel_map(portrait, site, loudest) + "</figure>\n";
    text += "</div>\n";
  }
  return text;
}

std::string layers(Comparison const& comparison, Schemes const& schemes) {
  std::string text;
  for (SchemeSummary const& scheme : schemes) {
    std::vector<MethodSummary const*> shown{&scheme.best()};
    MethodSummary const* const reference = scheme.reference(comparison);
    if (reference != nullptr && reference != shown.front()) shown.insert(shown.begin(), reference);
    std::erase_if(shown, [](MethodSummary const* method) { return !method->first().errors; });
    ErrorRange range;
    for (MethodSummary const* method : shown) range.include(*method->first().errors);
    for (MethodSummary const* method : shown)
      text += figure(layer_error_map(*method->first().errors, range),
                     fmt::format("{}, {}", method->name(), scheme.scheme.name()));
  }
  return text.empty() ? "" : "<div class=\"wide\">" + text + "</div>\n";
}

std::string facts(Comparison const& comparison) {
  std::string text = "<figure class=\"table\"><table class=\"facts\"><tbody>\n";
  for (Fact const& fact : comparison.facts)
    text +=
        fmt::format("<tr><td>{}</td><td>{}</td></tr>\n", escape_markup(fact.what), escape_markup(fact.value));
  return text + "</tbody></table></figure>\n";
}

}  // namespace

std::string to_html(Comparison const& comparison) {
  Schemes const schemes = summarize(comparison);
  std::string const name = escape_markup(comparison.model);
  std::string text = fmt::format(
      "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head><meta "
      "charset=\"utf-8\"/>"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{} – rotations "
      "compared</title>\n<style>{}</style></head>\n<body><main>\n<h1>{}</h1>\n",
      name, html_style, name);
  text += headline(comparison, schemes);
  for (SchemeSummary const& scheme : schemes)
    text += section(
        "Quality at " + scheme.scheme.name(),
        "Perplexity and KL divergence to the original on the same text, ± half of the 95 % interval over "
        "seeds. “Gap closed” is the share of the way from the baseline to the original.",
        quality(comparison, scheme));
  text +=
      section("Activations before and after",
              "Values of all layers at unit RMS. A 4-bit grid wants them <i>uniform</i> "
              "(<span class=\"key solid\"></span>); a random rotation makes them Gaussian "
              "(<span class=\"key dashed\"></span>). Whip is 0.523 for a Gaussian and 0.475 for a uniform "
              "distribution.",
              histograms(comparison));
  text += section("Where the outliers are",
                  "Every row is a layer, every cell a block of channels: the RMS of its loudest channel, "
                  "where 1 is an even "
                  "share (logarithmic colours).",
                  outliers(comparison));
  text +=
      section("How the rotations learned",
              "Loss of R1 over time, one picture per objective and one line per seed.", losses(comparison));
  text += section(
      "Error layer by layer",
      "Relative squared error in percent of the inputs and of the weights (W) that are rounded, first seed.",
      layers(comparison, schemes));
  text += section("How this was made",
                  "Time and memory belong to the machine; everything else follows from these settings.",
                  facts(comparison));
  return text + "</main></body></html>\n";
}

}  // namespace dartquant::program
