// SPDX-License-Identifier: Apache-2.0
#include <dartquant/quant/learned_clip.hpp>

#include <limits>

#include "quant/data.hpp"
#include "support/catch.hpp"
#include "support/synthetic.hpp"

using namespace dartquant;
using dartquant::testing::outlier_activations;
using quant_test::both_symmetries;
using quant_test::normal_matrix;

namespace {

Hessian hessian_of(MatrixView<float const> X) {
  Hessian hessian(X.cols(), "up_proj");
  hessian.add(Cpu(1), X);
  return hessian;
}

}  // namespace

TEST_CASE("learned clipping lowers the output error more than clips fitted on the weight", "[learned_clip]") {
  RowMatrix<float> const X = outlier_activations(300, 96, 1), W = normal_matrix(40, 96, 2);
  Hessian const hessian = hessian_of(X);
  for (Symmetry const symmetry : both_symmetries)
    for (Granularity const granularity : {per_row, per_group(20), per_group(32)}) {
      LearnedClipOptions options;
      options.quantize.symmetry = symmetry;
      options.quantize.granularity = granularity;
      options.quantize.bits = 3;
      auto const one = learned_clip(Cpu(1), W, hessian, options),
                 three = learned_clip(Cpu(3), W, hessian, options);
      REQUIRE(as_eigen(one.weight.bytes()) == as_eigen(three.weight.bytes()));
      REQUIRE(as_eigen(one.weight.scales()) == as_eigen(three.weight.scales()));
      QuantizeOptions searched = options.quantize;
      searched.clip_search = ClipSearch::mse;
      double const by_weight =
          proxy_loss(Cpu(1), hessian, W, dequantize(Cpu(1), quantize(Cpu(1), W, searched)));
      CAPTURE(one.rtn_loss, by_weight, one.loss);
      REQUIRE(one.loss < 0.8 * one.rtn_loss);
      REQUIRE(one.loss < by_weight);
      REQUIRE(one.rtn_loss == Approx(proxy_loss(Cpu(1), hessian, W,
                                                dequantize(Cpu(1), quantize(Cpu(1), W, options.quantize)))));
      auto const wide = learned_clip_int8(Cpu(1), W, hessian, options);
      REQUIRE(dequantize(Cpu(1), wide.weight) == dequantize(Cpu(1), one.weight));
    }
}

TEST_CASE("a row that needs no clipping keeps its range", "[learned_clip]") {
  RowMatrix<float> W(2, 16);
  for (index_t j = 0; j < 16; ++j) {
    W(0, j) = static_cast<float>(j % 15 - 7);
    W(1, j) = 0;
  }
  auto const found = learned_clip(Cpu(1), W, hessian_of(normal_matrix(50, 16, 3)));
  REQUIRE(found.loss == 0);
  REQUIRE(dequantize(Cpu(1), found.weight) == W);
}

TEST_CASE("bad input to learned clipping is refused", "[learned_clip]") {
  Cpu const cpu(1);
  Hessian const hessian = hessian_of(normal_matrix(8, 4, 1));
  RowMatrix<float> W = normal_matrix(2, 4, 2);
  REQUIRE_THROWS_AS(learned_clip(cpu, W, hessian, {.rounds = 0}), InvalidArgument);
  REQUIRE_THROWS_AS(learned_clip(cpu, W, hessian, {.quantize = {.granularity = per_tensor}}),
                    InvalidArgument);
  REQUIRE_THROWS_AS(learned_clip(cpu, W, hessian, {.quantize = {.clip_ratio = 0.9}}), InvalidArgument);
  REQUIRE_THROWS_AS(learned_clip(cpu, W, Hessian(4)), InvalidArgument);
  REQUIRE_THROWS_AS(learned_clip(cpu, normal_matrix(2, 5, 2), hessian), InvalidArgument);
  W(0, 1) = std::numeric_limits<float>::quiet_NaN();
  REQUIRE_THROWS_WITH(
      learned_clip(cpu, W, hessian),
      "[learned_clip] up_proj: the weight at row 0, channel 1 is nan: only finite values can be "
      "quantized");
}
