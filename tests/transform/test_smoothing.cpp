// SPDX-License-Identifier: Apache-2.0
#include <dartquant/transform/smoothing.hpp>
#include <dartquant/transform/transform.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/synthetic.hpp"

using namespace dartquant;
using dartquant::testing::gaussian;
using dartquant::testing::outlier_activations;

namespace {

std::vector<double> peaks_of(MatrixView<double const> X) {
  std::vector<double> peaks(static_cast<std::size_t>(X.cols()), 0.0);
  raise_channel_peaks(Cpu(2), X, peaks);
  return peaks;
}

double const not_a_number = std::numeric_limits<double>::quiet_NaN();
double const infinity = std::numeric_limits<double>::infinity();

}  // namespace

TEST_CASE("channel peaks grow batch after batch", "[smoothing]") {
  RowMatrix<float> const X = gaussian<float>(70, 130, 1), Y = gaussian<float>(3, 130, 2);
  std::vector<double> peaks(130, 0.0);
  raise_channel_peaks(Cpu(3), X, peaks);
  raise_channel_peaks(Cpu(1), Y, peaks);
  for (index_t j = 0; j < 130; ++j)
    REQUIRE(peaks[static_cast<std::size_t>(j)] ==
            static_cast<double>(std::max(X.col(j).cwiseAbs().maxCoeff(), Y.col(j).cwiseAbs().maxCoeff())));
}

TEST_CASE("smoothing scales follow the formula and its floors", "[smoothing]") {
  std::vector<double> const a{8, 1e-9, 0, 2, 3}, w{2, 1, 1, 0, 3};
  std::vector<double> const s = smoothing_scale(a, w).scale();
  REQUIRE(s[0] == Approx(std::pow(8, 0.6) / std::pow(2, 0.4)));
  REQUIRE(s[1] == 0.01);  // (1e-5)^0.6 = 0.001 before the floor
  REQUIRE(s[2] == 1);     // a channel that is silent
  REQUIRE(s[3] == Approx(std::pow(2, 0.6) / std::pow(1e-5, 0.4)));
  REQUIRE(s[4] == Approx(std::pow(3, 0.2)));
  REQUIRE(smoothing_scale(a, w, {.alpha = 1}).scale()[0] == 8);
  REQUIRE(smoothing_scale(a, w, {.alpha = 0}).scale()[0] == 0.5);
}

TEST_CASE("a smoothed layer computes the same with smaller activation outliers", "[smoothing]") {
  Cpu const cpu(2);
  RowMatrix<double> X = outlier_activations<double>(50, 96, 1), W = gaussian<double>(20, 96, 2);
  X.col(5).setZero();
  W.col(7).setZero();
  RowMatrix<double> const before = X * W.transpose();
  double const outlier_before = X.cwiseAbs().maxCoeff() / X.cwiseAbs().mean();
  Transform const chain = Transform(96).then(smoothing_scale(peaks_of(X), peaks_of(W)));
  chain.apply(cpu, X);
  chain.fold(cpu, W);
  REQUIRE((X * W.transpose() - before).cwiseAbs().maxCoeff() < 1e-12);
  REQUIRE(X.cwiseAbs().maxCoeff() / X.cwiseAbs().mean() < outlier_before);
  chain.apply_inverse(cpu, X);
  REQUIRE((X * W.transpose() - before).cwiseAbs().maxCoeff() > 1e-3);
}

TEST_CASE("the division moves into the layer before, its bias, or a norm's gain", "[smoothing]") {
  Cpu const cpu(2);
  RowMatrix<double> const X = gaussian<double>(9, 40, 3), gain = gaussian<double>(1, 40, 4);
  RowMatrix<double> up = gaussian<double>(40, 40, 5), bias = gaussian<double>(40, 1, 6), divided = gain;
  RowMatrix<double> Y = (X * up.transpose()).rowwise() + bias.col(0).transpose();
  RowMatrix<double> scaled = X.array().rowwise() * gain.row(0).array();
  DiagonalScale const scale = smoothing_scale(peaks_of(Y), peaks_of(up));
  scale.fold_outputs(cpu, up);
  scale.fold_outputs(cpu, bias);
  scale.apply(cpu, Y);
  RowMatrix<double> const direct = (X * up.transpose()).rowwise() + bias.col(0).transpose();
  REQUIRE((direct - Y).cwiseAbs().maxCoeff() < 1e-12);
  scale.apply(cpu, divided);
  scale.apply(cpu, scaled);
  REQUIRE((X.array().rowwise() * divided.row(0).array() - scaled.array()).abs().maxCoeff() < 1e-12);
}

TEST_CASE("heads of a group share scales, so that v_proj carries them exactly", "[smoothing]") {
  Cpu const cpu(1);
  index_t const heads = 6, kv_heads = 2, head_dim = 4, tokens = 5, hidden = 16;
  RowMatrix<double> const X = gaussian<double>(tokens, hidden, 1);
  RowMatrix<double> v = gaussian<double>(kv_heads * head_dim, hidden, 2),
                    o = gaussian<double>(hidden, heads * head_dim, 3);
  auto const attention = [&] {  // a fixed mixture of tokens per head stands for the softmax
    RowMatrix<double> const values = X * v.transpose();
    RowMatrix<double> mixed(tokens, heads * head_dim);
    for (index_t h = 0; h < heads; ++h)
      mixed.middleCols(h * head_dim, head_dim) =
          gaussian<double>(tokens, tokens, 10 + static_cast<std::uint64_t>(h)) *
          values.middleCols(h / 3 * head_dim, head_dim);
    return mixed;
  };
  RowMatrix<double> const before = attention() * o.transpose();
  DiagonalScale const wanted = smoothing_scale(peaks_of(attention()), peaks_of(o));
  HeadScales const shared = share_head_scales(wanted, heads, kv_heads);
  REQUIRE(shared.values.channels() == kv_heads * head_dim);
  for (std::size_t j = 0; j < 24; ++j) {
    REQUIRE(shared.inputs.scale()[j] >= wanted.scale()[j]);
    REQUIRE(shared.inputs.scale()[j] == shared.values.scale()[j / 12 * 4 + j % 4]);
  }
  shared.values.fold_outputs(cpu, v);
  shared.inputs.fold(cpu, o);
  REQUIRE((attention() * o.transpose() - before).cwiseAbs().maxCoeff() < 1e-12);
  REQUIRE(share_head_scales(wanted, 6, 6).values.scale() == wanted.scale());
}

TEST_CASE("singular scales and sizes that do not fit get a sentence", "[smoothing]") {
  std::vector<double> const good{1, 2}, bad{1, not_a_number}, endless{infinity, 1}, negative{-1, 1},
      three{1, 2, 3};
  REQUIRE_THROWS_AS(smoothing_scale(good, three), InvalidArgument);
  REQUIRE_THROWS_WITH(smoothing_scale(bad, good),
                      "[smoothing_scale] activation peak nan of channel 1: must be "
                      "finite and not negative");
  REQUIRE_THROWS_WITH(smoothing_scale(good, endless),
                      "[smoothing_scale] weight peak inf of channel 0: must be finite and not negative");
  REQUIRE_THROWS_AS(smoothing_scale(negative, good), InvalidArgument);
  REQUIRE_THROWS_WITH(smoothing_scale(good, good, {.alpha = 1.5}),
                      "[SmoothingOptions] alpha 1.5: must be in [0, 1]");
  REQUIRE_THROWS_AS(smoothing_scale(good, good, {.smallest_peak = 0}), InvalidArgument);
  REQUIRE_THROWS_AS(smoothing_scale(good, good, {.smallest_scale = infinity}), InvalidArgument);
  RowMatrix<float> X = gaussian<float>(2, 2, 1);
  X(1, 0) = static_cast<float>(not_a_number);
  std::vector<double> peaks{0, 0};
  REQUIRE_THROWS_WITH(
      raise_channel_peaks(Cpu(1), X, peaks),
      "[raise_channel_peaks] the value at row 1, channel 0 is nan: every value must be finite");
  REQUIRE(peaks == std::vector<double>{0, 0});
  REQUIRE_THROWS_WITH(share_head_scales(DiagonalScale(good), 3, 2),
                      "[share_head_scales] 3 heads and 2 KV heads: the second must divide the first");
  REQUIRE_THROWS_AS(share_head_scales(DiagonalScale(three), 2, 1), InvalidArgument);
  REQUIRE_THROWS_WITH(DiagonalScale(good).fold_outputs(Cpu(1), MatrixView<float>(X.data(), 4, 1)),
                      "[DiagonalScale] outputs of 4 x 1: there are 2 scales");
}

TEST_CASE("a chain can be continued by a chain", "[smoothing][transform]") {
  Transform const first = Transform(2).then(DiagonalScale({1, 2})),
                  second = Transform(2).then(DiagonalScale({3, 4})).then(Permutation({1, 0}));
  REQUIRE(first.then(second).steps().size() == 3);
  REQUIRE((first.then(second).matrix() - first.matrix() * second.matrix()).cwiseAbs().maxCoeff() < 1e-15);
  REQUIRE_THROWS_WITH(first.then(Transform(3)),
                      "[Transform] a chain for 3 channels after a chain for 2: the sizes must agree");
}
