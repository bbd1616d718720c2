// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/quantization_errors.hpp>
#include <dartquant/model/site_statistics.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

using Place = std::pair<Site, index_t>;

/// Every value that an observer of the same forward pass sees, in double.
std::map<Place, RowMatrix<double>> seen(Model const& model, TokenWindows const& windows,
                                        ForwardOptions options) {
  std::map<Place, RowMatrix<double>> values;
  options.observer = [&](Site site, index_t layer, index_t, MatrixView<float const> X) {
    values[{site, layer}] = as_eigen(X).cast<double>();  // few windows: one call
  };
  (void)hidden_states(Cpu(1), model, windows, options);
  return values;
}

/// Rounds one group of values: 2^bits levels from the lowest to the highest, zero among them.
void round_asymmetric(double* x, index_t count, int bits) {
  double const low = std::min(0.0, *std::min_element(x, x + count)),
               high = std::max(0.0, *std::max_element(x, x + count)), steps = (1 << bits) - 1;
  double const scale = (high - low) / steps, zero = std::nearbyint(-low / scale);
  for (index_t i = 0; i < count; ++i)
    x[i] = scale * (std::clamp(std::nearbyint(x[i] / scale) + zero, 0.0, steps) - zero);
}

double relative_error(RowMatrix<double> const& X, index_t group, int bits) {
  RowMatrix<double> rounded = X;
  for (index_t first = 0; first < X.size(); first += group)
    round_asymmetric(rounded.data() + first, group, bits);
  return (rounded - X).squaredNorm() / X.squaredNorm();
}

}  // namespace

TEST_CASE("inspect describes every site of every layer", "[inspect]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const tokens = some_tokens(4, 32, 64);
  std::vector<SiteStatistics> const found = inspect(Cpu(2), model, tokens);
  REQUIRE(found.size() == 2 * site_count);
  REQUIRE(found[0].site == Site::q_proj_input);
  REQUIRE(found[0].rms == Approx(1).epsilon(1e-3));
  REQUIRE(found[0].max_over_rms > 1);
  REQUIRE(found[0].max >= found[0].max_over_rms * found[0].rms * 0.99);
  REQUIRE(found[0].kurtosis > 3);  // the outlier channels
  for (SiteStatistics const& site : found) {
    REQUIRE(site.whip > 0.367);
    REQUIRE(site.whip < 1);
  }
  std::vector<SiteStatistics> const again = inspect(Cpu(1), model, tokens);
  for (std::size_t i = 0; i < found.size(); ++i) REQUIRE(again[i].kurtosis == found[i].kurtosis);
}

TEST_CASE("the histogram and the channels count what an observer sees", "[inspect]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const tokens = some_tokens(4, 40, 64);  // 160 tokens: several ranges of work
  ForwardOptions options;
  options.gains = NormGains::folded;
  auto const values = seen(model, tokens, options);
  for (SiteStatistics const& found : inspect(Cpu(2), model, tokens)) {
    INFO(name_of(found.site) << " of layer " << found.layer);
    RowMatrix<double> X = values.at({found.site, found.layer});
    for (index_t row = 0; row < X.rows(); ++row)
      X.row(row) /= std::sqrt(X.row(row).squaredNorm() / static_cast<double>(X.cols()));
    REQUIRE(found.histogram.size() == histogram_bins + 2);
    REQUIRE(std::accumulate(found.histogram.begin(), found.histogram.end(), index_t{0}) == X.size());
    double const width = 2 * histogram_limit / histogram_bins;
    for (double const edge : {-6.0, -1.0, 0.0, 2.0, 6.0}) {
      auto const bins = 1 + std::lround((edge + histogram_limit) / width);
      index_t const below =
          std::accumulate(found.histogram.begin(), found.histogram.begin() + bins, index_t{0});
      REQUIRE(std::abs(below - (X.array() < edge).count()) <= 2);  // values on an edge
    }
    REQUIRE(found.channel_rms.size() == static_cast<std::size_t>(X.cols()));
    for (index_t channel = 0; channel < X.cols(); ++channel)
      REQUIRE(found.channel_rms[static_cast<std::size_t>(channel)] ==
              Approx(std::sqrt(X.col(channel).squaredNorm() / static_cast<double>(X.rows()))));
  }
}

TEST_CASE("the error of a site is that of rounding what it meets", "[errors]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const tokens = some_tokens(2, 32, 64);
  ForwardOptions options;
  options.quantization.scheme = {.weights = 16, .activations = 4, .kv = 8};
  auto const values = seen(model, tokens, options);
  QuantizationErrors const found = quantization_errors(Cpu(2), model, tokens, options);
  REQUIRE(found.sites.size() == 2 * site_count);
  for (SiteError const& error : found.sites) {
    INFO(name_of(error.site) << " of layer " << error.layer);
    RowMatrix<double> const& X = values.at({error.site, error.layer});
    bool const cache = error.site == Site::key || error.site == Site::value;
    double const expected = relative_error(X, cache ? index_t{8} : X.cols(), cache ? 8 : 4);
    REQUIRE(error.relative == Approx(expected).epsilon(0.01));
    REQUIRE(error.relative > 0);
  }
  REQUIRE(found.weights.size() == 2 * linear_count);
  for (WeightError const& error : found.weights) REQUIRE(error.relative == 0);

  options.quantization.o_proj_input = Quantization::OutputInput::per_head;
  QuantizationErrors const per_head = quantization_errors(Cpu(1), model, tokens, options);
  REQUIRE(per_head.sites[0].relative == found.sites[0].relative);  // before the first o_proj
  REQUIRE(per_head.sites[3].relative ==
          Approx(relative_error(values.at({Site::o_proj_input, 0}), 8, 4)).epsilon(0.01));
  REQUIRE(per_head.sites[3].relative < found.sites[3].relative);
}

TEST_CASE("the error of a weight is that of its quantizer", "[errors]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const tokens = some_tokens(1, 8, 64);
  ForwardOptions options;
  options.quantization.scheme.weights = 4;
  options.quantization.weight_clip = ClipSearch::none;
  QuantizationErrors const four = quantization_errors(Cpu(2), model, tokens, options);
  for (SiteError const& error : four.sites) REQUIRE(error.relative == 0);
  RowMatrix<double> const W = model.checkpoint().read_matrix<double>("model.layers.1.mlp.up_proj.weight");
  double noise = 0;
  for (index_t row = 0; row < W.rows(); ++row) {
    double const scale = W.row(row).cwiseAbs().maxCoeff() / 7;
    for (double const w : W.row(row)) noise += std::pow(w - scale * std::nearbyint(w / scale), 2);
  }
  WeightError const& up = four.weights[linear_count + static_cast<std::size_t>(Linear::up_proj)];
  REQUIRE(up.linear == Linear::up_proj);
  REQUIRE(up.layer == 1);
  REQUIRE(up.relative == Approx(noise / W.squaredNorm()).epsilon(0.01));

  options.quantization.scheme = {.weights = 3, .activations = 8, .kv = 4};
  QuantizationErrors const three = quantization_errors(Cpu(1), model, tokens, options);
  for (std::size_t i = 0; i < four.weights.size(); ++i)
    REQUIRE(three.weights[i].relative > 2 * four.weights[i].relative);
  options.quantization.arithmetic = Arithmetic::integer;
  QuantizationErrors const integers = quantization_errors(Cpu(1), model, tokens, options);
  for (std::size_t i = 0; i < three.weights.size(); ++i)
    REQUIRE(integers.weights[i].relative == three.weights[i].relative);
}
