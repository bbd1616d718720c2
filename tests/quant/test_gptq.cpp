// SPDX-License-Identifier: Apache-2.0
#include <dartquant/quant/gptq.hpp>

#include <Eigen/Cholesky>
#include <Eigen/LU>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "quant/data.hpp"
#include "support/catch.hpp"
#include "support/synthetic.hpp"

using namespace dartquant;
using dartquant::testing::outlier_activations;
using quant_test::both_symmetries;
using quant_test::normal_matrix;

namespace {

Hessian hessian_of(MatrixView<float const> X, std::string name = {}) {
  Hessian hessian(X.cols(), std::move(name));
  hessian.add(Cpu(1), X);
  return hessian;
}

template <int Bits>
std::vector<int> levels_of(IntMatrix<Bits> const& Q) {
  std::vector<int> all;
  for (index_t i = 0; i < Q.rows(); ++i)
    for (index_t j = 0; j < Q.cols(); ++j) all.push_back(Q.level(i, j));
  return all;
}

template <int Bits>
void require_equal(IntMatrix<Bits> const& A, IntMatrix<Bits> const& B) {
  REQUIRE(levels_of(A) == levels_of(B));
  REQUIRE(as_eigen(A.scales()) == as_eigen(B.scales()));
  REQUIRE(as_eigen(A.zero_points()) == as_eigen(B.zero_points()));
}

/// GPTQ as the paper writes it: the inverse formed, one column at a time, everything updated at once, scales
/// per row from the weight as it came.
RowMatrix<double> plain_gptq(RowMatrix<float> const& W, RowMatrix<double> H, GptqOptions const& options) {
  index_t const n = W.cols();
  std::vector<index_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), index_t{0});
  if (options.order == GptqOrder::act_order)
    std::ranges::stable_sort(order, [&](index_t a, index_t b) { return H(a, a) > H(b, b); });
  H.diagonal().array() += options.damping * H.diagonal().mean();
  RowMatrix<double> const P = RowMatrix<double>::Identity(n, n)(Eigen::all, order);
  RowMatrix<double> const inverse = (P.transpose() * H * P).inverse();
  RowMatrix<double> const U = inverse.llt().matrixU();
  Int8Matrix const scales = quantize_int8(Cpu(1), W, options.quantize);
  RowMatrix<double> w = W.cast<double>() * P, Q(W.rows(), n);
  for (index_t i = 0; i < W.rows(); ++i)
    for (index_t j = 0; j < n; ++j) {
      index_t const channel = order[static_cast<std::size_t>(j)];
      auto const quantizer = scales.quantizer(i, channel);
      Q(i, channel) = static_cast<double>(quantizer.round_trip(static_cast<float>(w(i, j))));
      w.row(i).tail(n - j) -= (w(i, j) - Q(i, channel)) / U(j, j) * U.row(j).tail(n - j);
    }
  return Q;
}

float const infinity = std::numeric_limits<float>::infinity();

}  // namespace

TEST_CASE("the Hessian is the sum over all batches", "[gptq]") {
  RowMatrix<float> const X = outlier_activations(1500, 300, 1);
  Hessian batches(300, "layer"), threads(300);
  batches.add(Cpu(1), MatrixView<float const>(X).rows(0, 1100));
  batches.add(Cpu(1), X.bottomRows(400).cast<double>().eval());
  threads.add(Cpu(3), MatrixView<float const>(X).rows(0, 1100));
  threads.add(Cpu(3), X.bottomRows(400));
  RowMatrix<double> const expected = X.cast<double>().transpose() * X.cast<double>();
  for (index_t i = 0; i < 300; ++i)
    for (index_t j = 0; j <= i; ++j) {
      if (std::abs(batches.sum()(i, j) - expected(i, j)) > 1e-9) FAIL("entry " << i << ", " << j);
      if (batches.sum()(i, j) != threads.sum()(i, j)) FAIL("threads change entry " << i << ", " << j);
    }
  REQUIRE(batches.tokens() == 1500);
  RowMatrix<float> const W = normal_matrix(3, 300, 1), Q = normal_matrix(3, 300, 2);
  REQUIRE(proxy_loss(Cpu(2), batches, W, Q) ==
          Approx((X * (W - Q).transpose()).squaredNorm() / 1500).epsilon(1e-4));
}

TEST_CASE("GPTQ's output error is below rounding to nearest", "[gptq]") {
  Cpu const cpu(2);
  RowMatrix<float> const X = outlier_activations(600, 160, 2), W = normal_matrix(40, 160, 3, 50);
  Hessian const hessian = hessian_of(X);
  for (Symmetry const symmetry : both_symmetries)
    for (Granularity const granularity : {per_row, per_group(32), per_group(48)})
      for (GptqOrder const order : {GptqOrder::natural, GptqOrder::act_order})
        for (ClipSearch const search : {ClipSearch::none, ClipSearch::mse}) {
          GptqOptions options;
          options.quantize.granularity = granularity;
          options.quantize.symmetry = symmetry;
          options.quantize.clip_search = search;
          options.order = order;
          auto const found = gptq(cpu, W, hessian, options);
          auto const nearest = quantize(cpu, W, options.quantize);
          REQUIRE(found.report.loss == Approx(proxy_loss(cpu, hessian, W, dequantize(cpu, found.weight))));
          REQUIRE(found.report.rtn_loss == Approx(proxy_loss(cpu, hessian, W, dequantize(cpu, nearest))));
          REQUIRE(found.report.loss < 0.7 * found.report.rtn_loss);
          REQUIRE(found.report.damping == 0.01);
          REQUIRE(found.report.warnings.empty());
        }
}

TEST_CASE("with uncorrelated inputs of equal power GPTQ is rounding to nearest", "[gptq]") {
  RowMatrix<float> const W = normal_matrix(9, 50, 4, 20);
  Hessian const hessian(RowMatrix<double>::Identity(50, 50) * 700, 700);
  for (Symmetry const symmetry : both_symmetries)
    for (Granularity const granularity : {per_row, per_group(16)})
      for (GptqOrder const order : {GptqOrder::natural, GptqOrder::act_order}) {
        GptqOptions options;
        options.quantize.granularity = granularity;
        options.quantize.symmetry = symmetry;
        options.order = order;
        options.block = 24;
        require_equal(gptq(Cpu(1), W, hessian, options).weight, quantize(Cpu(1), W, options.quantize));
        options.quantize.bits = 3;
        require_equal(gptq_int8(Cpu(1), W, hessian, options).weight,
                      quantize_int8(Cpu(1), W, options.quantize));
      }
}

TEST_CASE("blocks and threads do not change what one column at a time computes", "[gptq]") {
  RowMatrix<float> const X = outlier_activations(400, 90, 5), W = normal_matrix(70, 90, 6);
  Hessian const hessian = hessian_of(X);
  for (Granularity const granularity : {per_row, per_group(20)})
    for (GptqOrder const order : {GptqOrder::natural, GptqOrder::act_order}) {
      GptqOptions options;
      options.quantize.granularity = granularity;
      options.order = order;
      options.block = 1000;
      auto const whole = gptq(Cpu(1), W, hessian, options);
      for (index_t const block : {1, 16, 48}) {
        options.block = block;
        auto const one = gptq(Cpu(1), W, hessian, options), three = gptq(Cpu(3), W, hessian, options);
        REQUIRE(levels_of(one.weight) == levels_of(whole.weight));
        require_equal(one.weight, three.weight);
        REQUIRE(one.report.loss == three.report.loss);
      }
      if (granularity == per_row) {  // also against the formulas, with an explicit inverse
        RowMatrix<double> const plain =
                                    plain_gptq(W, X.cast<double>().transpose() * X.cast<double>(), options),
                                found = dequantize(Cpu(1), whole.weight).cast<double>();
        index_t same = 0;
        for (index_t i = 0; i < 70; ++i) same += static_cast<index_t>(found.row(i) == plain.row(i));
        REQUIRE(same + whole.report.rtn_rows == 70);
        REQUIRE(whole.report.rtn_rows <= 7);
      }
    }
}

TEST_CASE("act-order keeps every level at its own channel and groups consecutive", "[gptq]") {
  // Diagonal H: the order alone cannot change anything, wherever the large channels are.
  RowMatrix<float> const W = normal_matrix(5, 24, 7);
  RowMatrix<double> H = RowMatrix<double>::Zero(24, 24);
  for (index_t j = 0; j < 24; ++j) H(j, j) = static_cast<double>((j * 7) % 24 + 1);
  GptqOptions options;
  options.quantize.granularity = per_group(8);
  options.order = GptqOrder::act_order;
  require_equal(gptq(Cpu(1), W, Hessian(H, 10), options).weight, quantize(Cpu(1), W, options.quantize));
  // A permuted problem has the permuted solution.
  RowMatrix<float> const X = outlier_activations(200, 24, 8);
  std::vector<index_t> const source = sample_without_replacement(24, 24, Philox(3));
  options.quantize.granularity = per_row;
  auto const found = gptq(Cpu(1), W, hessian_of(X), options).weight;
  auto const moved =
      gptq(Cpu(1), W(Eigen::all, source).eval(), hessian_of(X(Eigen::all, source).eval()), options).weight;
  for (index_t i = 0; i < 5; ++i)
    for (index_t j = 0; j < 24; ++j)
      REQUIRE(moved.level(i, j) == found.level(i, source[static_cast<std::size_t>(j)]));
}

TEST_CASE("three channels: never below the optimum, often at it", "[gptq]") {
  index_t optimal = 0;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    RowMatrix<float> const X = normal_matrix(12, 3, 2 * seed) * normal_matrix(3, 3, 1000 + seed),
                           W = normal_matrix(1, 3, 2 * seed + 1);
    Hessian const hessian = hessian_of(X);
    GptqOptions options;
    options.damping = 1e-6;
    options.quantize.bits = 3;
    auto const found = gptq(Cpu(1), W, hessian, options);
    RowMatrix<float> Q(1, 3);
    float const scale = found.weight.scale(0, 0);
    double best = std::numeric_limits<double>::infinity();
    for (int code = 0; code < 512; ++code) {
      for (int j = 0; j < 3; ++j) Q(0, j) = scale * static_cast<float>((code >> (3 * j)) % 8 - 4);
      best = std::min(best, proxy_loss(Cpu(1), hessian, W, Q));
    }
    REQUIRE(found.report.loss >= best * (1 - 1e-9));
    REQUIRE(found.report.loss <= found.report.rtn_loss);
    optimal += static_cast<index_t>(found.report.loss <= best * (1 + 1e-9));
  }
  CAPTURE(optimal);
  REQUIRE(optimal >= 20);
}

TEST_CASE("zero, duplicate and linearly dependent channels survive", "[gptq]") {
  RowMatrix<float> X = outlier_activations(300, 40, 9);
  RowMatrix<float> const W = normal_matrix(6, 40, 10);
  X.col(4).setZero();
  X.col(31).setZero();
  X.col(9) = X.col(8);
  X.col(20) = X.col(21) - X.col(22);
  for (double const damping : {0.0, 0.01})
    for (DeadChannels const dead : {DeadChannels::round, DeadChannels::zero})
      for (GptqOrder const order : {GptqOrder::natural, GptqOrder::act_order}) {
        GptqOptions options;
        options.damping = damping;
        options.dead = dead;
        options.order = order;
        auto const found = gptq(Cpu(1), W, hessian_of(X, "down_proj"), options);
        REQUIRE(found.report.loss < found.report.rtn_loss);
        REQUIRE(found.report.dead_channels == std::vector<index_t>{4, 31});
        REQUIRE(found.report.tokens_needed == 38);
        REQUIRE((found.report.damping > damping) == (damping == 0));
        REQUIRE(found.report.warnings.size() == (damping == 0 ? 1u : 0u));
        auto const nearest = quantize(Cpu(1), W, options.quantize);
        for (index_t i = 0; i < 6; ++i)
          REQUIRE(found.weight.level(i, 31) == (dead == DeadChannels::zero ? 0 : nearest.level(i, 31)));
      }
  REQUIRE(gptq(Cpu(1), W, hessian_of(X, "down_proj"), {.damping = 0}).report.warnings[0] ==
          "[gptq] down_proj: damping raised from 0 to 1e-06: with less the Hessian is singular");
  X.setZero();
  require_equal(gptq(Cpu(1), W, hessian_of(X)).weight, quantize(Cpu(1), W));
}

TEST_CASE("too few tokens are said, with the number that is needed", "[gptq]") {
  RowMatrix<float> const X = outlier_activations(12, 40, 11), W = normal_matrix(3, 40, 12);
  auto const found = gptq(Cpu(1), W, hessian_of(X, "o_proj"));
  REQUIRE(found.report.tokens == 12);
  REQUIRE(found.report.tokens_needed == 40);
  REQUIRE(found.report.loss <= found.report.rtn_loss);
  REQUIRE(found.report.warnings.size() == 1);
  REQUIRE(
      found.report.warnings[0] ==
      "[gptq] o_proj: 12 tokens for 40 live channels: at least 40 are needed to see every direction, several "
      "times as many to fit it");
  REQUIRE_NOTHROW(gptq(Cpu(1), W, hessian_of(X.topRows(1).eval())));
  REQUIRE_THROWS_WITH(gptq(Cpu(1), W, Hessian(40, "o_proj")),
                      "[gptq] o_proj: 0 tokens: at least one is needed, 40 to see every direction");
}

TEST_CASE("bad input to GPTQ is refused with the layer's name", "[gptq]") {
  Cpu const cpu(1);
  RowMatrix<float> X = normal_matrix(8, 4, 1), W = normal_matrix(2, 4, 2);
  Hessian hessian = hessian_of(X, "layers.3.up_proj");
  RowMatrix<double> const before = as_eigen(hessian.sum());
  X(5, 2) = std::numeric_limits<float>::quiet_NaN();
  REQUIRE_THROWS_WITH(
      hessian.add(cpu, X),
      "[Hessian::add] layers.3.up_proj: the input at token 5, channel 2 is nan: only finite inputs "
      "can be calibrated on");
  REQUIRE(as_eigen(hessian.sum()) == before);
  REQUIRE(hessian.tokens() == 8);
  REQUIRE_THROWS_AS(hessian.add(cpu, normal_matrix(2, 5, 3)), InvalidArgument);
  REQUIRE_THROWS_WITH(gptq(cpu, normal_matrix(2, 5, 3), hessian),
                      "[gptq] layers.3.up_proj: weight of 2 x 5: the Hessian has 4 channels");
  W(1, 3) = infinity;
  REQUIRE_THROWS_WITH(
      gptq(cpu, W, hessian),
      "[gptq] layers.3.up_proj: the weight at row 1, channel 3 is inf: only finite values can be "
      "quantized");
  W(1, 3) = 0;
  REQUIRE_THROWS_AS(gptq(cpu, W, hessian, {.quantize = {.bits = 8}}), InvalidArgument);
  REQUIRE_THROWS_AS(gptq(cpu, W, hessian, {.quantize = {.granularity = per_column}}), InvalidArgument);
  REQUIRE_THROWS_WITH(gptq(cpu, W, hessian, {.damping = -1}),
                      "[GptqOptions] damping -1: must be finite and not negative");
  REQUIRE_THROWS_AS(gptq(cpu, W, hessian, {.block = 0}), InvalidArgument);
  REQUIRE_THROWS_AS(Hessian(0), InvalidArgument);
  REQUIRE_THROWS_AS(Hessian(RowMatrix<double>(2, 3), 1), InvalidArgument);
  RowMatrix<double> skew = RowMatrix<double>::Identity(2, 2);
  skew(0, 1) = 0.5;
  REQUIRE_THROWS_WITH(
      Hessian(skew, 1, "q_proj"),
      "[Hessian] q_proj: entries (1, 0) are 0 and 0.5: a finite symmetric matrix with a diagonal "
      "that is not negative is needed");
  RowMatrix<double> indefinite = RowMatrix<double>::Identity(2, 2);
  indefinite(0, 1) = indefinite(1, 0) = 1;
  REQUIRE_NOTHROW(gptq(cpu, W.leftCols(2).eval(), Hessian(indefinite, 1)));
  REQUIRE(gptq(cpu, RowMatrix<float>(0, 4), hessian).weight.rows() == 0);
}
