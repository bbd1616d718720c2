// SPDX-License-Identifier: Apache-2.0
#include "quality_charts.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/core.h>

#include "svg_chart.hpp"
#include "units.hpp"

namespace dartquant::program {
namespace {

using Anchor = Svg::Anchor;
using Methods = std::vector<MethodSummary const*>;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double shortest = 0.01;  ///< seconds: less is drawn here
constexpr double width = 520, left = 112, row_height = 26, top = 26;

Methods best_first(SchemeSummary const& scheme) {
  Methods methods;
  for (MethodSummary const& method : scheme.methods) methods.push_back(&method);
  std::stable_sort(methods.begin(), methods.end(), [](MethodSummary const* a, MethodSummary const* b) {
    return a->perplexity.mean < b->perplexity.mean;
  });
  return methods;
}

double median(std::vector<double> values) {
  auto const middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// The end of an axis of perplexity: the worst method, unless it would squeeze all others.
double highest_shown(SchemeSummary const& scheme, double lowest) {
  std::vector<double> means;
  for (MethodSummary const& method : scheme.methods) means.push_back(method.perplexity.mean);
  double const limit = lowest + 2.5 * (median(means) - lowest);
  double highest = lowest;
  for (MethodSummary const& method : scheme.methods) {
    if (method.perplexity.mean > limit) continue;
    highest = std::max(highest, method.perplexity.mean);
    if (method.perplexity.has_interval())
      highest = std::max(highest, std::min(method.perplexity.high, limit));
    for (Result const& seed : method.seeds)
      highest = std::max(highest, std::min(seed.evaluation.perplexity, limit));
  }
  return highest + 0.04 * (highest - lowest);
}

std::string describe_interval(Estimate const& value, double factor, int decimals) {
  std::string text = fmt::format("{:.{}f}", factor * value.mean, decimals);
  if (value.has_interval())
    text += fmt::format(" [{:.{}f}, {:.{}f}]", factor * value.low, decimals, factor * value.high, decimals);
  return text;
}

void whisker(Svg& svg, Axis const& x, double y, Estimate const& value, double factor,
             std::string const& look) {
  if (!value.has_interval()) return;
  svg.line(x.at(factor * value.low), y, x.at(factor * value.high), y, look);
}

/// A value beyond the axis: an arrow at its end.
void arrow(Svg& svg, double x, double y, double direction, std::string const& look) {
  svg.curve({{x - 7 * direction, y - 5}, {x, y}, {x - 7 * direction, y + 5}}, "arrow " + look);
}

/// The look of the line of one method among others; beyond five they repeat.
std::string line_look(std::size_t index) { return fmt::format("line{}", index % 5); }

/// A text beside a chart, at the height of what it names.
struct Label {
  double y = 0;
  std::string look;
  std::string_view content;
};

/// Writes labels one below the other, as near to their heights as their own height allows.
void place_labels(Svg& svg, double x, std::vector<Label>& labels) {
  std::stable_sort(labels.begin(), labels.end(), [](Label const& a, Label const& b) { return a.y > b.y; });
  double next = infinity;
  for (Label& label : labels) {  // from the bottom up
    label.y = std::min(label.y, next);
    next = label.y - 14;
    svg.text(x, label.y + 4, Anchor::start, "label " + label.look, label.content);
  }
}

void mark(Svg& svg, Axis const& x, double y, double value, std::string const& look,
          std::string const& tooltip) {
  if (x.holds(value)) svg.circle(x.at(value), y, 5, "dot " + look, tooltip);
  else arrow(svg, x.at(value), y, x.at(value) > (x.first() + x.last()) / 2 ? 1 : -1, look);
}

}  // namespace

std::string look_of(MethodSummary const& method, SchemeSummary const& scheme, Comparison const& comparison) {
  if (&method == &scheme.best()) return "best";
  return method.method() == comparison.reference ? "reference" : "other";
}

std::string perplexity_chart(SchemeSummary const& scheme, Comparison const& comparison) {
  Methods const methods = best_first(scheme);
  double const bottom = top + row_height * static_cast<double>(methods.size()) + 8,
               original = comparison.baseline.perplexity;
  Svg svg(width, bottom + 38, "Perplexity of every method");
  double const lowest = std::min(original, methods.front()->perplexity.mean);
  Axis const x(lowest - 0.02 * (highest_shown(scheme, lowest) - lowest), highest_shown(scheme, lowest), left,
               width - 84);
  svg.bottom_axis(x, top, bottom, 5, "perplexity, lower is better");
  svg.line(x.at(original), top - 6, x.at(original), bottom, "original-line");
  svg.text(x.at(original) - 2, top - 11, Anchor::start, "note", fmt::format("original {:.3f}", original));
  if (MethodSummary const* const reference = scheme.reference(comparison))
    svg.line(x.at(reference->perplexity.mean), top, x.at(reference->perplexity.mean), bottom,
             "reference-line");
  for (std::size_t i = 0; i < methods.size(); ++i) {
    MethodSummary const& method = *methods[i];
    std::string const look = look_of(method, scheme, comparison);
    double const y = top + row_height * (static_cast<double>(i) + 0.5) + 4;
    svg.text(left - 10, y + 4, Anchor::end, "label " + look, method.name());
    whisker(svg, x, y, method.perplexity, 1, "whisker " + look);
    for (Result const& seed : method.seeds)
      if (x.holds(seed.evaluation.perplexity) && method.seeds.size() > 1)
        svg.circle(x.at(seed.evaluation.perplexity), y, 2.2, "seed " + look,
                   fmt::format("seed {}: {:.4f}", seed.seed, seed.evaluation.perplexity));
    mark(svg, x, y, method.perplexity.mean, look,
         method.name() + ": " + describe_interval(method.perplexity, 1, 4));
    svg.text(width - 4, y + 4, Anchor::end, "value " + look, fmt::format("{:.4f}", method.perplexity.mean));
  }
  return svg.text();
}

std::string change_chart(SchemeSummary const& scheme, Comparison const& comparison) {
  Methods methods = best_first(scheme);
  std::erase_if(methods, [](MethodSummary const* method) { return !method->change; });
  if (methods.empty()) return {};
  std::vector<double> sizes;
  for (MethodSummary const* method : methods) sizes.push_back(std::abs(100 * method->change->mean));
  double const limit = std::max(3.5 * median(sizes), 1e-6);
  double reach = 0;
  for (MethodSummary const* method : methods)
    for (Estimate const& value : {*method->change, *method->change_over_windows}) {
      if (std::abs(100 * value.mean) > limit) continue;
      for (double const end : {value.mean, value.low, value.high})
        if (!std::isnan(end)) reach = std::max(reach, std::min(std::abs(100 * end), limit));
    }
  double const bottom = top + row_height * static_cast<double>(methods.size()) + 4;
  Svg svg(width, bottom + 38, "Paired differences of perplexity");
  Axis const x(-1.06 * reach, 1.06 * reach, left, width - 158);
  svg.bottom_axis(
      x, top - 6, bottom, 5,
      fmt::format("change of perplexity against {}, %", dartquant::name_of(comparison.reference)));
  svg.line(x.at(0), top - 8, x.at(0), bottom, "zero-line");
  svg.text(x.at(0) - 8, top - 11, Anchor::end, "note", "better");
  svg.text(x.at(0) + 8, top - 11, Anchor::start, "note", "worse");
  for (std::size_t i = 0; i < methods.size(); ++i) {
    MethodSummary const& method = *methods[i];
    Estimate const& seeds = *method.change;
    Estimate const& shown = seeds.has_interval() ? seeds : *method.change_over_windows;
    std::string const look = !shown.excludes_zero() ? "other" : shown.mean < 0 ? "best" : "reference";
    double const y = top + row_height * (static_cast<double>(i) + 0.5);
    svg.text(left - 10, y + 4, Anchor::end, "label " + look, method.name());
    whisker(svg, x, y + 7, *method.change_over_windows, 100, "thin " + look);
    whisker(svg, x, y, seeds, 100, "whisker " + look);
    mark(
        svg, x, y, 100 * seeds.mean, look,
        fmt::format("{}: over seeds {} %, over windows {} %", method.name(), describe_interval(seeds, 100, 2),
                    describe_interval(*method.change_over_windows, 100, 2)));
    std::string const range =
        shown.has_interval() ? fmt::format("  [{:+.1f}, {:+.1f}]", 100 * shown.low, 100 * shown.high) : "";
    svg.text(width - 4, y + 4, Anchor::end, "value " + look,
             fmt::format("{:+.1f}{}", 100 * seeds.mean, range));
  }
  return svg.text();
}

std::string time_chart(SchemeSummary const& scheme, Comparison const& comparison) {
  constexpr double bottom = 270, chart_left = 46;
  Methods methods = best_first(scheme);
  std::erase_if(methods, [](MethodSummary const* m) { return !(m->learning_seconds.mean > 0); });
  if (methods.empty()) return {};
  double longest = 0.1, low = infinity, high = 0;
  for (MethodSummary const* method : methods) {
    longest = std::max(longest, method->learning_seconds.mean);
    low = std::min(low, method->perplexity.mean);
    high = std::max(high, method->perplexity.mean);
  }
  double const margin = std::max(0.12 * (high - low), 1e-3 * low);
  Svg svg(width, bottom + 40, "Learning time against perplexity");
  Axis const x(shortest, 2 * longest, chart_left, width - 90, Axis::Kind::logarithmic),
      y(low - margin, high + margin, bottom, 14);
  svg.bottom_axis(x, 14, bottom, 5, "seconds of learning (logarithmic)");
  svg.left_axis(y, chart_left, width - 90, 5);
  svg.text(4, 8, Anchor::start, "note", "perplexity");
  std::vector<Label> labels;
  for (MethodSummary const* method : methods) {
    std::string const look = look_of(*method, scheme, comparison);
    double const seconds = std::max(method->learning_seconds.mean, shortest);
    double const cx = x.at(seconds), cy = y.at(method->perplexity.mean);
    double const row = labels.empty() ? cy : std::min(cy, labels.back().y - 14);  // best first: upwards
    labels.push_back({row, look, dartquant::name_of(method->method())});
    svg.line(cx, cy, width - 84, row, "leader");
    svg.circle(cx, cy, 5.5, "dot " + look,
               fmt::format("{}: {}, perplexity {:.4f}", method->name(),
                           format_seconds(method->learning_seconds.mean), method->perplexity.mean));
  }
  place_labels(svg, width - 82, labels);
  return svg.text();
}

std::string loss_chart(LearnedObjective objective, Comparison const& comparison) {
  constexpr double bottom = 236, chart_left = 54, right = width - 100;
  constexpr double soonest = 1e-5;  // seconds; small models learn in milliseconds
  std::vector<ModelCalibration const*> runs;
  double low = infinity, high = -infinity, first = infinity, last = 0;
  for (ModelCalibration const& found : comparison.calibrations) {
    MethodTraits const& method = traits(found.method);
    std::size_t const values = std::min(found.r1_loss.size(), found.r1_seconds.size());
    if (!method.learns() || method.objective != objective || values < 2) continue;
    runs.push_back(&found);
    for (std::size_t i = 0; i < values; ++i) {
      low = std::min(low, found.r1_loss[i]);
      high = std::max(high, found.r1_loss[i]);
      first = std::min(first, std::max(found.r1_seconds[i], soonest));
      last = std::max(last, found.r1_seconds[i]);
    }
  }
  if (runs.empty() || !(high > low) || !(last > first)) return {};
  Svg svg(width, bottom + 38, "Loss of R1 over time");
  double const margin = 0.06 * (high - low);
  Axis const x(first, last, chart_left, right, Axis::Kind::logarithmic),
      y(low - margin, high + margin, bottom, 10);
  svg.left_axis(y, chart_left, right, 5);
  svg.bottom_axis(x, 10, bottom, 5, "seconds of learning R1 (logarithmic)");
  std::vector<Method> seen;
  std::vector<Label> labels;
  for (ModelCalibration const* const run : runs) {
    if (seen.empty() || seen.back() != run->method) {
      seen.push_back(run->method);
      labels.push_back(
          {y.at(run->r1_loss.back()), line_look(seen.size() - 1), dartquant::name_of(run->method)});
    }
    std::vector<std::pair<double, double>> points;
    for (std::size_t i = 0; i < std::min(run->r1_loss.size(), run->r1_seconds.size()); ++i)
      points.emplace_back(x.at(std::max(run->r1_seconds[i], first)), y.at(run->r1_loss[i]));
    svg.circle(points.back().first, points.back().second, 2.6, line_look(seen.size() - 1));
    svg.curve(
        points, "curve " + line_look(seen.size() - 1),
        fmt::format("{} seed {}: {:.5g}", dartquant::name_of(run->method), run->seed, run->r1_loss.back()));
  }
  place_labels(svg, right + 6, labels);
  return svg.text();
}

}  // namespace dartquant::program
