// SPDX-License-Identifier: Apache-2.0
#include "svg_chart.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include <fmt/core.h>

namespace dartquant::program {
namespace {

/// Bytes of the UTF-8 character at the front of `text`; 0 where there is none that XML may hold.
std::size_t character_bytes(std::string_view text) {
  auto const byte = [&](std::size_t i) {
    return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i]));
  };
  if (byte(0) < 0x80) return byte(0) >= 0x20 || text[0] == '\n' || text[0] == '\t' ? 1 : 0;
  std::size_t const count = byte(0) >= 0xF0 ? 4 : byte(0) >= 0xE0 ? 3 : 2;
  if (byte(0) < 0xC2 || byte(0) > 0xF4 || text.size() < count) return 0;
  std::uint32_t code = byte(0) & (0x7Fu >> count);
  for (std::size_t i = 1; i < count; ++i) {
    if ((byte(i) & 0xC0u) != 0x80u) return 0;
    code = code << 6 | (byte(i) & 0x3Fu);
  }
  constexpr std::array<std::uint32_t, 5> least{0, 0, 0x80, 0x800, 0x10000};
  bool const surrogate = code >= 0xD800 && code <= 0xDFFF, none = code == 0xFFFE || code == 0xFFFF;
  return code >= least[count] && code <= 0x10FFFF && !surrogate && !none ? count : 0;
}

std::string_view anchor_name(Svg::Anchor anchor) {
  return anchor == Svg::Anchor::start ? "start" : anchor == Svg::Anchor::middle ? "middle" : "end";
}

/// 1, 2 or 5 times a power of ten, at least `step`.
double round_step(double step) {
  double const power = std::pow(10, std::floor(std::log10(step)));
  for (double const factor : {1.0, 2.0, 5.0})
    if (factor * power >= step * (1 - 1e-9)) return factor * power;
  return 10 * power;
}

}  // namespace

std::string escape_markup(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    std::size_t const bytes = character_bytes(text);
    switch (bytes == 1 ? text[0] : bytes == 0 ? '\0' : 'x') {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      case '\'':
        result += "&#39;";
        break;
      case '\0':
        result += "\xEF\xBF\xBD";
        break;
      default:
        result += text.substr(0, bytes);
    }
    text.remove_prefix(std::max<std::size_t>(bytes, 1));
  }
  return result;
}

Axis::Axis(double low, double high, double first, double last, Kind kind)
    : low_(low), high_(high), first_(first), last_(last), kind_(kind) {
  if (high_ > low_) return;
  double const margin = low_ != 0 ? 0.05 * std::abs(low_) : 1;
  low_ -= margin;
  high_ += margin;
}

double Axis::position(double value) const {
  if (kind_ == Kind::linear) return (value - low_) / (high_ - low_);
  return std::log(std::max(value, 1e-300) / low_) / std::log(high_ / low_);
}

double Axis::at(double value) const {
  return first_ + std::clamp(position(value), 0.0, 1.0) * (last_ - first_);
}

std::vector<double> Axis::ticks(int count) const {
  std::vector<double> values;
  if (kind_ == Kind::logarithmic) {
    bool const narrow = high_ / low_ < 1000;
    for (double power = std::pow(10, std::floor(std::log10(low_))); power <= high_; power *= 10)
      for (double const factor : {1.0, 2.0, 5.0})
        if (holds(factor * power) && (factor == 1 || narrow)) values.push_back(factor * power);
    return values;
  }
  double const step = round_step((high_ - low_) / count);
  for (double i = std::ceil(low_ / step - 1e-9); i * step <= high_ + 1e-9 * step; ++i)
    values.push_back(i * step == 0 ? 0 : i * step);
  return values;
}

std::string format_tick(double value) { return std::abs(value) < 1e-12 ? "0" : fmt::format("{:.4g}", value); }

Svg::Svg(double width, double height, std::string_view description)
    : width_(width),
      body_(fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:g} {:g}\" role=\"img\" "
                        "aria-label=\"{}\">",
                        width, height, escape_markup(description))) {}

void Svg::close(std::string_view name, std::string_view tooltip) {
  if (tooltip.empty()) body_ += "/>";
  else body_ += fmt::format("><title>{}</title></{}>", escape_markup(tooltip), name);
}

void Svg::line(double x1, double y1, double x2, double y2, std::string_view look) {
  body_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\"/>", x1, y1,
                       x2, y2, look);
}

void Svg::rect(double x, double y, double width, double height, std::string_view look,
               std::string_view tooltip) {
  body_ += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" class=\"{}\"", x,
                       y, width, height, look);
  close("rect", tooltip);
}

void Svg::cell(double x, double y, double width, double height, double heat, std::string_view tooltip) {
  body_ += fmt::format("<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.1f}\" fill=\"{}\"", x, y,
                       width, height, heat_color(heat));
  close("rect", tooltip);
}

void Svg::circle(double x, double y, double radius, std::string_view look, std::string_view tooltip) {
  body_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:g}\" class=\"{}\"", x, y, radius, look);
  close("circle", tooltip);
}

void Svg::curve(std::vector<std::pair<double, double>> const& points, std::string_view look,
                std::string_view tooltip) {
  body_ += fmt::format("<polyline class=\"{}\" points=\"", look);
  for (auto const& [x, y] : points) body_ += fmt::format("{:.1f},{:.1f} ", x, y);
  body_ += '"';
  close("polyline", tooltip);
}

void Svg::text(double x, double y, Anchor anchor, std::string_view look, std::string_view content) {
  body_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" class=\"{}\">{}</text>", x, y,
                       anchor_name(anchor), look, escape_markup(content));
}

void Svg::slanted_text(double x, double y, std::string_view look, std::string_view content) {
  body_ += fmt::format("<text transform=\"translate({:.1f} {:.1f}) rotate(-38)\" class=\"{}\">{}</text>", x,
                       y, look, escape_markup(content));
}

void Svg::cell_text(double x, double y, double heat, std::string_view content) {
  text(x, y, Anchor::middle, heat > 0.6 ? "on-bright" : "on-dark", content);
}

void Svg::bottom_axis(Axis const& x, double top, double bottom, int count, std::string_view title) {
  for (double const tick : x.ticks(count)) {
    line(x.at(tick), top, x.at(tick), bottom, "grid");
    text(x.at(tick), bottom + 15, Anchor::middle, "tick", format_tick(tick));
  }
  if (!title.empty()) text((x.first() + x.last()) / 2, bottom + 31, Anchor::middle, "axis", title);
}

void Svg::left_axis(Axis const& y, double left, double right, int count) {
  for (double const tick : y.ticks(count)) {
    line(left, y.at(tick), right, y.at(tick), "grid");
    text(left - 6, y.at(tick) + 4, Anchor::end, "tick", format_tick(tick));
  }
}

std::string heat_color(double heat) {
  // Nine anchors of the "magma" map of matplotlib (CC0), its lightness rising evenly.
  static constexpr std::array<std::array<double, 3>, 9> anchors{{{0, 0, 4},
                                                                 {28, 16, 68},
                                                                 {79, 18, 123},
                                                                 {129, 37, 129},
                                                                 {181, 54, 122},
                                                                 {229, 80, 100},
                                                                 {251, 135, 97},
                                                                 {254, 194, 135},
                                                                 {252, 253, 191}}};
  double const place = std::clamp(std::isfinite(heat) ? heat : 1.0, 0.0, 1.0) * (anchors.size() - 1);
  auto const below = std::min<std::size_t>(static_cast<std::size_t>(place), anchors.size() - 2);
  double const part = place - static_cast<double>(below);
  std::array<int, 3> color{};
  for (std::size_t i = 0; i < 3; ++i)
    color[i] = static_cast<int>(std::lround((1 - part) * anchors[below][i] + part * anchors[below + 1][i]));
  return fmt::format("#{:02x}{:02x}{:02x}", color[0], color[1], color[2]);
}

}  // namespace dartquant::program
