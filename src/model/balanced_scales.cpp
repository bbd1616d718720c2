// SPDX-License-Identifier: Apache-2.0
#include "model/balanced_scales.hpp"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <utility>

#include <dartquant/transform/rotation.hpp>

#include "model/weights.hpp"

namespace dartquant::detail {
namespace {

/// The root of the sum of squares of each column, over all these weights.
std::vector<double> column_norms(FoldedWeights const& weights, index_t layer,
                                 std::initializer_list<Linear> readers) {
  std::vector<double> squares;
  for (LayerLinear const& linear : weights.linears(layer)) {
    if (std::ranges::find(readers, linear.linear) == readers.end()) continue;
    RowMatrix<double> const W = weights.weight(layer, linear);
    squares.resize(static_cast<std::size_t>(W.cols()), 0.0);
    for (index_t j = 0; j < W.cols(); ++j) squares[static_cast<std::size_t>(j)] += W.col(j).squaredNorm();
  }
  for (double& each : squares) each = std::sqrt(each);
  return squares;
}

/// The RMS of each channel of a site after R1, from its rows about their mean and the mean.
std::vector<double> channel_rms(Cpu const& cpu, RowMatrix<float> X, std::vector<double> const& mean,
                                RowMatrix<double> const& r1) {
  RowMatrix<double> m = Eigen::Map<RowMatrix<double> const>(mean.data(), 1, X.cols());
  if (r1.size() != 0) {
    X = apply(cpu, r1, X);
    m = (m * r1).eval();
  }
  double const rows = static_cast<double>(std::max<index_t>(X.rows(), 1));
  std::vector<double> rms(mean.size());
  for (index_t j = 0; j < X.cols(); ++j)
    rms[static_cast<std::size_t>(j)] =
        std::sqrt(X.col(j).cast<double>().squaredNorm() / rows + m(0, j) * m(0, j));
  return rms;
}

}  // namespace

std::vector<double> balance(std::vector<double> const& a, std::vector<double> const& w) {
  double const least_a = 1e-6 * *std::ranges::max_element(a), least_w = 1e-6 * *std::ranges::max_element(w);
  std::vector<double> scale(a.size(), 1.0);
  double logarithms = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] > least_a && w[i] > least_w) scale[i] = std::sqrt(a[i] / w[i]);
    logarithms += std::log(scale[i]) / static_cast<double>(a.size());
  }
  for (double& each : scale) each /= std::exp(logarithms);
  return scale;
}

void add_balanced_scales(Cpu const& cpu, Model const& model, ChannelPowers const& powers,
                         Rotations& rotations) {
  Rotations residual;
  residual.r1 = rotations.r1;
  FoldedWeights const weights(cpu, model, &residual, {.r1 = residual.r1.size() != 0}, NormGains::folded);
  rotations.layers.resize(powers.means.size());
  for (std::size_t i = 0; i < rotations.layers.size(); ++i) {
    auto const layer = static_cast<index_t>(i);
    auto const rms = [&](std::size_t site, std::vector<double> const& mean) {
      index_t const first = powers.starts[site], count = powers.starts[site + 1] - first;
      return channel_rms(cpu, powers.rows.middleRows(first, count), mean, residual.r1);
    };
    std::vector<double> down = powers.down[i];
    for (double& each : down) each = std::sqrt(each);
    LayerTransforms& found = rotations.layers[i];
    found.attention_scale.emplace(
        balance(rms(2 * i, powers.means[i].attention_shift),
                column_norms(weights, layer, {Linear::q_proj, Linear::k_proj, Linear::v_proj})));
    found.mlp_scale.emplace(balance(rms(2 * i + 1, powers.means[i].mlp_shift),
                                    column_norms(weights, layer, {Linear::gate_proj, Linear::up_proj})));
    found.down_scale.emplace(balance(down, column_norms(weights, layer, {Linear::down_proj})));
    release_pages(model.checkpoint());
  }
}

}  // namespace dartquant::detail
