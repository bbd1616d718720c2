// SPDX-License-Identifier: Apache-2.0
#include "activation_charts.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include <fmt/core.h>

#include "svg_chart.hpp"

namespace dartquant::program {
namespace {

using Anchor = Svg::Anchor;

/// Rows of cells under one heading per column; what a cell says, and how hot it is.
struct Grid {
  std::vector<std::string> rows, columns;
  std::vector<double> values;  ///< [rows * columns], shares; 0: not quantized
};

std::string format_error(double percent) {
  int const decimals = percent >= 9.995 ? 1 : percent >= 0.0995 ? 2 : 3;
  return fmt::format("{:.{}f}", percent, decimals);
}

/// The logarithm of an error between the smallest and the largest, 0.08 to 1.
double heat_of(double value, ErrorRange const& range) {
  if (!(range.most > range.least)) return 0.5;
  return 0.08 + 0.92 * std::log(value / range.least) / std::log(range.most / range.least);
}

std::string draw(Grid const& grid, ErrorRange const& range, std::string_view description) {
  constexpr double left = 104, cell_height = 24, top = 84, width = 560;
  double const cell_width =
      (width - left - 46) / static_cast<double>(grid.columns.size());  // 46: the last heading leans out
  Svg svg(width, top + cell_height * static_cast<double>(grid.rows.size()) + 4, description);
  for (std::size_t j = 0; j < grid.columns.size(); ++j)
    svg.slanted_text(left + cell_width * (static_cast<double>(j) + 0.5), top - 8, "label", grid.columns[j]);
  for (std::size_t i = 0; i < grid.rows.size(); ++i) {
    double const y = top + cell_height * static_cast<double>(i);
    svg.text(left - 8, y + 16, Anchor::end, "label", grid.rows[i]);
    for (std::size_t j = 0; j < grid.columns.size(); ++j) {
      double const x = left + cell_width * static_cast<double>(j),
                   value = grid.values[i * grid.columns.size() + j];
      if (!(value > 0)) {
        svg.text(x + cell_width / 2, y + 16, Anchor::middle, "tick", "–");
        continue;
      }
      double const heat = heat_of(value, range);
      svg.cell(x + 1, y + 1, cell_width - 2, cell_height - 2, heat,
               fmt::format("{}, {}: {:.4g} %", grid.rows[i], grid.columns[j], 100 * value));
      svg.cell_text(x + cell_width / 2, y + 16, heat, format_error(100 * value));
    }
  }
  return svg.text();
}

/// All layers of one site as one distribution.
struct Pooled {
  std::vector<double> density = std::vector<double>(histogram_bins);
  double kurtosis = 0, whip = 0, max_over_rms = 0, outside = 0;
};

Pooled pool(Portrait const& portrait, Site site) {
  Pooled result;
  double total = 0, layers = 0;
  for (SiteStatistics const& s : portrait.sites) {
    if (s.site != site) continue;
    ++layers;
    for (std::size_t bin = 0; bin < s.histogram.size(); ++bin) {
      double const count = static_cast<double>(s.histogram[bin]);
      total += count;
      if (bin == 0 || bin > histogram_bins) result.outside += count;
      else result.density[bin - 1] += count;
    }
    result.kurtosis += s.kurtosis;
    result.whip += s.whip;
    result.max_over_rms += s.max_over_rms;
  }
  for (double& value : result.density) value /= total * 2 * histogram_limit / histogram_bins;
  result.outside /= total;
  for (double* const mean : {&result.kurtosis, &result.whip, &result.max_over_rms}) *mean /= layers;
  return result;
}

double gaussian(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); }

/// The uniform density of unit RMS: from -sqrt(3) to sqrt(3).
std::vector<std::pair<double, double>> uniform_outline(Axis const& x, Axis const& y) {
  double const end = std::numbers::sqrt3, height = 1 / (2 * end);
  return {{x.at(-4), y.at(0)},       {x.at(-end), y.at(0)}, {x.at(-end), y.at(height)},
          {x.at(end), y.at(height)}, {x.at(end), y.at(0)},  {x.at(4), y.at(0)}};
}

index_t layers_of(Portrait const& portrait) {
  return portrait.sites.empty() ? 0 : portrait.sites.back().layer + 1;
}

}  // namespace

std::string histogram_chart(Portrait const& portrait, Site site) {
  constexpr double width = 320, bottom = 178, shown = 4;
  Pooled const pooled = pool(portrait, site);
  double const tallest = *std::max_element(pooled.density.begin(), pooled.density.end());
  Svg svg(width, bottom + 22,
          fmt::format("Histogram of the {}, {}", dartquant::name_of(site), portrait.label));
  Axis const x(-shown, shown, 8, width - 8), y(0, 1.08 * std::max(tallest, 0.45), bottom, 24);
  for (double const tick : x.ticks(8)) {
    svg.line(x.at(tick), bottom, x.at(tick), bottom + 4, "grid");
    svg.text(x.at(tick), bottom + 16, Anchor::middle, "tick", format_tick(tick));
  }
  std::vector<std::pair<double, double>> outline{{x.at(-shown), bottom}}, bell;
  double const bin = 2 * histogram_limit / histogram_bins;
  for (int i = 0; i < histogram_bins; ++i) {
    double const first = -histogram_limit + i * bin, value = pooled.density[static_cast<std::size_t>(i)];
    if (first < -shown - 1e-9 || first > shown - bin + 1e-9) continue;
    outline.emplace_back(x.at(first), y.at(value));
    outline.emplace_back(x.at(first + bin), y.at(value));
  }
  outline.emplace_back(x.at(shown), bottom);
  for (double at = -shown; at <= shown; at += 0.1) bell.emplace_back(x.at(at), y.at(gaussian(at)));
  svg.curve(outline, "area", fmt::format("{:.3g} % lie beyond 6 RMS", 100 * pooled.outside));
  svg.curve(bell, "gaussian");
  svg.curve(uniform_outline(x, y), "uniform");
  svg.line(8, bottom, width - 8, bottom, "base");
  svg.text(8, 14, Anchor::start, "title", portrait.label);
  svg.text(width - 8, 14, Anchor::end, "note",
           fmt::format("Whip {:.3f} · kurtosis {:.1f} · max {:.1f} RMS", pooled.whip, pooled.kurtosis,
                       pooled.max_over_rms));
  return svg.text();
}

double loudest_channel(Portrait const& portrait, Site site) {
  double loudest = 1;
  for (SiteStatistics const& s : portrait.sites)
    if (s.site == site)
      for (double const rms : s.channel_rms) loudest = std::max(loudest, rms);
  return loudest;
}

std::string channel_map(Portrait const& portrait, Site site, double loudest) {
  constexpr double width = 320, left = 22, top = 24;
  index_t const layers = layers_of(portrait);
  double const cell_height = layers > 20 ? 8 : 16;
  Svg svg(width, top + cell_height * static_cast<double>(layers) + 18,
          fmt::format("Loudness of the channels of the {}, {}", dartquant::name_of(site), portrait.label));
  svg.text(left, 14, Anchor::start, "title", portrait.label);
  svg.text(width - 4, 14, Anchor::end, "note",
           fmt::format("loudest {:.1f}", loudest_channel(portrait, site)));
  for (SiteStatistics const& s : portrait.sites) {
    if (s.site != site || s.channel_rms.empty()) continue;
    std::size_t const channels = s.channel_rms.size(), blocks = std::min<std::size_t>(channels, 64);
    double const cell_width = (width - left - 4) / static_cast<double>(blocks),
                 y = top + cell_height * static_cast<double>(s.layer);
    if (layers <= 20 || s.layer % 4 == 0)
      svg.text(left - 5, y + cell_height - 4, Anchor::end, "tick", fmt::format("{}", s.layer));
    for (std::size_t block = 0; block < blocks; ++block) {
      std::size_t const first = block * channels / blocks, last = (block + 1) * channels / blocks;
      double const rms = *std::max_element(s.channel_rms.begin() + static_cast<std::ptrdiff_t>(first),
                                           s.channel_rms.begin() + static_cast<std::ptrdiff_t>(last));
      double const heat = loudest > 1 ? 0.12 + 0.88 * std::log(std::max(rms, 1.0)) / std::log(loudest) : 0.12;
      svg.cell(left + cell_width * static_cast<double>(block), y, cell_width + 0.3, cell_height - 1, heat,
               fmt::format("layer {}, channels {} to {}: {:.2f}", s.layer, first, last - 1, rms));
    }
  }
  svg.text((left + width) / 2, top + cell_height * static_cast<double>(layers) + 13, Anchor::middle, "axis",
           "channels");
  return svg.text();
}

void ErrorRange::include(double error) {
  if (!(error > 0)) return;
  least = std::min(least, error);
  most = std::max(most, error);
}

void ErrorRange::include(QuantizationErrors const& errors) {
  for (SiteError const& error : errors.sites) include(error.relative);
  for (WeightError const& error : errors.weights) include(error.relative);
}

std::string error_map(SchemeSummary const& scheme) {
  Grid grid;
  for (std::size_t site = 0; site < site_count; ++site)
    grid.columns.emplace_back(dartquant::name_of(static_cast<Site>(site)));
  grid.columns.emplace_back("weights");
  for (MethodSummary const& method : scheme.methods) {
    if (!method.first().errors) continue;
    grid.rows.push_back(method.name());
    for (double const error : mean_errors(*method.first().errors)) grid.values.push_back(error);
  }
  ErrorRange range;
  for (double const error : grid.values) range.include(error);
  return draw(grid, range, "Quantization error of every site, method by method, in percent");
}

std::string layer_error_map(QuantizationErrors const& errors, ErrorRange const& range) {
  Grid grid;
  for (std::size_t site = 0; site < site_count; ++site)
    grid.columns.emplace_back(dartquant::name_of(static_cast<Site>(site)));
  for (std::size_t linear = 0; linear < linear_count; ++linear)
    grid.columns.push_back("W " + std::string(dartquant::name_of(static_cast<Linear>(linear))));
  std::size_t const layers = errors.sites.size() / site_count;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    grid.rows.push_back(fmt::format("layer {}", layer));
    for (std::size_t site = 0; site < site_count; ++site)
      grid.values.push_back(errors.sites[layer * site_count + site].relative);
    for (std::size_t linear = 0; linear < linear_count; ++linear)
      grid.values.push_back(errors.weights[layer * linear_count + linear].relative);
  }
  return draw(grid, range, "Quantization error of every layer, in percent");
}

}  // namespace dartquant::program
