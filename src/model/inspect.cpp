// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>

#include <dartquant/model/site_statistics.hpp>

namespace dartquant {
namespace {

/// Sums over the values of one site of one layer.
struct Moments {
  double squares = 0, fourths = 0, largest = 0, peak_ratio = 0, whip = 0;
  index_t values = 0, tokens = 0;
  std::array<index_t, histogram_bins + 2> histogram{};
  Eigen::ArrayXd channel_squares{};  ///< of tokens at unit RMS [channels]; empty before the first token

  void add_token(Eigen::Ref<Eigen::ArrayXd const> const& x) {
    Eigen::ArrayXd const squared = x.square();
    double const sum = squared.sum(), rms = std::sqrt(sum / static_cast<double>(x.size()));
    double const peak = x.abs().maxCoeff();
    squares += sum;
    fourths += squared.square().sum();
    largest = std::max(largest, peak);
    values += x.size();
    if (!(rms > 0)) return;  // a token of zeros has no shape
    ++tokens;
    peak_ratio += peak / rms;
    whip += (-x.abs() / rms).exp().mean();
    add_shape(x / rms);
  }
  void add_shape(Eigen::Ref<Eigen::ArrayXd const> const& x) {
    if (channel_squares.size() == 0) channel_squares.setZero(x.size());
    if (channel_squares.size() == x.size()) channel_squares += x.square();  // a shared expert may be wider
    constexpr double per_unit = histogram_bins / (2 * histogram_limit);
    for (double const value : x) {
      double const bin = std::floor((value + histogram_limit) * per_unit) + 1;
      ++histogram[static_cast<std::size_t>(std::clamp(bin, 0.0, histogram_bins + 1.0))];
    }
  }
  void add(Moments const& other) {
    squares += other.squares;
    fourths += other.fourths;
    largest = std::max(largest, other.largest);
    peak_ratio += other.peak_ratio;
    whip += other.whip;
    values += other.values;
    tokens += other.tokens;
    for (std::size_t bin = 0; bin < histogram.size(); ++bin) histogram[bin] += other.histogram[bin];
    if (channel_squares.size() == 0) channel_squares = other.channel_squares;
    else if (other.channel_squares.size() == channel_squares.size()) channel_squares += other.channel_squares;
  }
};

/// Partial sums over fixed ranges of tokens, added in order.
void add_rows(Cpu const& cpu, MatrixView<float const> X, Moments& total) {
  constexpr index_t grain = 64;
  std::vector<Moments> partial(static_cast<std::size_t>((X.rows() + grain - 1) / grain));
  cpu.parallel_for(X.rows(), grain, [&](index_t first, index_t last) {
    Eigen::ArrayXd x;
    for (index_t row = first; row < last; ++row) {
      x = as_eigen(X.row(row)).transpose().cast<double>();
      partial[static_cast<std::size_t>(first / grain)].add_token(x);
    }
  });
  for (Moments const& part : partial) total.add(part);
}

SiteStatistics summarize(Site site, index_t layer, Moments const& moments) {
  SiteStatistics result{.site = site, .layer = layer, .max = moments.largest};
  double const mean_square = moments.squares / static_cast<double>(moments.values);
  result.rms = std::sqrt(mean_square);
  if (mean_square > 0)
    result.kurtosis = moments.fourths / static_cast<double>(moments.values) / (mean_square * mean_square) - 3;
  if (moments.tokens > 0) {
    result.max_over_rms = moments.peak_ratio / static_cast<double>(moments.tokens);
    result.whip = moments.whip / static_cast<double>(moments.tokens);
    Eigen::ArrayXd const channels = (moments.channel_squares / static_cast<double>(moments.tokens)).sqrt();
    result.channel_rms.assign(channels.begin(), channels.end());
  }
  result.histogram.assign(moments.histogram.begin(), moments.histogram.end());
  return result;
}

}  // namespace

std::vector<SiteStatistics> inspect(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                                    ForwardOptions options) {
  std::vector<std::array<Moments, site_count>> moments(static_cast<std::size_t>(model.config().layers));
  options.gains = NormGains::folded;
  options.observer = [&](Site site, index_t layer, index_t, MatrixView<float const> X) {
    add_rows(cpu, X, moments[static_cast<std::size_t>(layer)][static_cast<std::size_t>(site)]);
  };
  static_cast<void>(hidden_states(cpu, model, windows, options));
  std::vector<SiteStatistics> result;
  for (index_t layer = 0; layer < model.config().layers; ++layer)
    for (std::size_t site = 0; site < site_count; ++site)
      result.push_back(
          summarize(static_cast<Site>(site), layer, moments[static_cast<std::size_t>(layer)][site]));
  return result;
}

}  // namespace dartquant
