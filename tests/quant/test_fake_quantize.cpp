// SPDX-License-Identifier: Apache-2.0
#include <dartquant/quant/quantize.hpp>

#include <cmath>
#include <limits>

#include "data.hpp"
#include "support/catch.hpp"

using namespace dartquant;
using quant_test::all_granularities;
using quant_test::both_symmetries;
using quant_test::normal_matrix;

namespace {

/// The definition, value by value: range of the block, then Quantizer.
template <class T>
RowMatrix<T> expected(RowMatrix<T> const& X, QuantizeOptions const& options) {
  RowMatrix<T> Y = X;
  auto const block = scale_block(options.granularity, X.rows(), X.cols());
  auto const clip = static_cast<T>(options.clip_ratio);
  for (index_t i = 0; i < X.rows(); i += block.rows)
    for (index_t j = 0; j < X.cols(); j += block.cols) {
      auto const values =
          X.block(i, j, std::min(block.rows, X.rows() - i), std::min(block.cols, X.cols() - j));
      auto const quantizer =
          range_quantizer(clip * values.minCoeff(), clip * values.maxCoeff(), options.bits, options.symmetry);
      for (index_t a = 0; a < values.rows(); ++a)
        for (index_t b = 0; b < values.cols(); ++b) Y(i + a, j + b) = quantizer.round_trip(values(a, b));
    }
  return Y;
}

}  // namespace

TEMPLATE_TEST_CASE("fake_quantize is the definition, block by block", "[fake_quantize]", float, double) {
  Cpu const cpu(2);
  std::uint64_t seed = 0;
  for (auto const& [rows, cols] : {std::pair(1, 1), std::pair(1, 37), std::pair(5, 1), std::pair(3, 8),
                                   std::pair(7, 129), std::pair(33, 1000)}) {
    auto const X = normal_matrix<TestType>(rows, cols, ++seed, 20);
    for (int bits = 2; bits <= 8; ++bits)
      for (auto const symmetry : both_symmetries)
        for (auto const granularity : all_granularities()) {
          QuantizeOptions const options{
              .bits = bits, .granularity = granularity, .symmetry = symmetry, .clip_ratio = 0.9};
          RowMatrix<TestType> Y = X;
          fake_quantize(cpu, Y, options);
          CAPTURE(rows, cols, bits, granularity.group);
          REQUIRE(Y == expected<TestType>(X, options));
        }
  }
}

TEST_CASE("a strided view is quantized alone", "[fake_quantize]") {
  Cpu const cpu(1);
  RowMatrix<float> const X = normal_matrix(9, 40, 5);
  for (auto const granularity : all_granularities()) {
    RowMatrix<float> Y = X, inner = X.block(2, 7, 5, 21);
    fake_quantize(cpu, Y.block(2, 7, 5, 21), {.granularity = granularity});
    fake_quantize(cpu, inner, {.granularity = granularity});
    REQUIRE(Y.block(2, 7, 5, 21) == inner);
    Y.block(2, 7, 5, 21) = X.block(2, 7, 5, 21);
    REQUIRE(Y == X);
  }
}

TEST_CASE("empty matrices stay empty", "[fake_quantize]") {
  Cpu const cpu(1);
  for (auto const granularity : all_granularities()) {
    RowMatrix<float> none(0, 8), narrow(8, 0);
    fake_quantize(cpu, none, {.granularity = granularity});
    fake_quantize(cpu, narrow, {.granularity = granularity});
    auto const Q = quantize(cpu, none, {.granularity = granularity});
    REQUIRE(Q.rows() == 0);
    REQUIRE(dequantize(cpu, Q).cols() == 8);
    REQUIRE(dequantize(cpu, quantize(cpu, narrow, {.granularity = granularity})).rows() == 8);
  }
}

TEST_CASE("degenerate rows: zeros, constants, denormals, huge values", "[fake_quantize]") {
  Cpu const cpu(1);
  float const huge = std::numeric_limits<float>::max(), tiny = std::numeric_limits<float>::denorm_min();
  for (int bits = 2; bits <= 8; ++bits)
    for (auto const symmetry : both_symmetries) {
      RowMatrix<float> X(8, 5);
      X << 0, 0, 0, 0, 0,                      //
          2.5f, 2.5f, 2.5f, 2.5f, 2.5f,        //
          -7, -7, -7, -7, -7,                  //
          tiny, -tiny, 0, tiny, 3 * tiny,      //
          huge, -huge, 0, huge / 2, 1,         //
          1e-30f, 2e-30f, -1e-30f, 0, 5e-31f,  //
          -0.0f, 0, -0.0f, 0, 0,               //
          3, 4, 5, 6, 7;
      RowMatrix<float> const before = X;
      fake_quantize(cpu, X, {.bits = bits, .symmetry = symmetry});
      REQUIRE(X.allFinite());
      CHECK(X.row(0).isZero(0));
      CHECK(X.row(6).isZero(0));
      CHECK(X.row(1).isApprox(before.row(1), 1e-6f));
      CHECK(X.row(2).isApprox(before.row(2), 1e-6f));
      CHECK(X.row(3).cwiseAbs().maxCoeff() <= std::numeric_limits<float>::min());
      CHECK(X(4, 0) > 0);
      CHECK(X(4, 1) < 0);
      CHECK(X(7, 4) == Approx(7.0f));
    }
}

TEST_CASE("more bits, smaller groups: less error", "[fake_quantize]") {
  Cpu const cpu(2);
  auto const X = normal_matrix(64, 512, 8, 100);
  auto const error = [&](QuantizeOptions const& options) {
    RowMatrix<float> Y = X;
    fake_quantize(cpu, Y, options);
    return quantization_error(cpu, X, Y);
  };
  for (auto const symmetry : both_symmetries)
    for (int bits = 2; bits < 8; ++bits)
      CHECK(error({.bits = bits + 1, .symmetry = symmetry}) < error({.bits = bits, .symmetry = symmetry}));
  CHECK(error({.granularity = per_group(32)}) < error({.granularity = per_row}));
  CHECK(error({.granularity = per_row}) < error({.granularity = per_tensor}));
  // Uniform values: the error of rounding is scale^2 / 12, the mean square 1/3.
  RowMatrix<float> U(64, 4096);
  Philox const random(4);
  for (index_t i = 0; i < U.size(); ++i)
    U.data()[i] = static_cast<float>(2 * random.uniform(static_cast<std::uint64_t>(i)) - 1);
  RowMatrix<float> V = U;
  fake_quantize(cpu, V, {.bits = 8});
  CHECK(quantization_error(cpu, U, V) == Approx(1.0 / (127.0 * 127.0) / 4).epsilon(0.02));
}

TEST_CASE("KV options: one asymmetric scale per token and head", "[fake_quantize]") {
  Cpu const cpu(1);
  auto X = normal_matrix(6, 4 * 16, 12);
  X.middleCols(16, 16) *= 1000;  // one loud head must not hurt the others
  auto const options = kv_options(4, 16);
  CHECK(options.granularity == per_group(16));
  CHECK(options.symmetry == Symmetry::asymmetric);
  CHECK(options.clip_ratio == 1);
  RowMatrix<float> Y = X;
  fake_quantize(cpu, Y, options);
  for (int head = 0; head < 4; ++head) {
    RowMatrix<float> alone = X.middleCols(16 * head, 16);
    fake_quantize(cpu, alone, {.symmetry = Symmetry::asymmetric});
    CHECK(Y.middleCols(16 * head, 16) == alone);
  }
}

TEST_CASE("the same bytes for 1, 2 and 4 threads", "[fake_quantize]") {
  auto const X = normal_matrix(203, 333, 17, 50);
  for (auto const granularity : {per_tensor, per_row, per_column, per_group(32)})
    for (auto const search : {ClipSearch::none, ClipSearch::mse}) {
      auto const Z = X.topRows(search == ClipSearch::mse ? 40 : 203);
      QuantizeOptions const options{
          .granularity = granularity, .symmetry = Symmetry::asymmetric, .clip_search = search};
      RowMatrix<float> one = Z;
      fake_quantize(Cpu(1), one, options);
      for (int const threads : {2, 4}) {
        Cpu const cpu(threads);
        RowMatrix<float> many = Z;
        fake_quantize(cpu, many, options);
        REQUIRE(many == one);
        REQUIRE(dequantize(cpu, quantize(cpu, Z, options)) == one);
        REQUIRE(quantization_error(cpu, Z, one) == quantization_error(Cpu(1), Z, one));
      }
    }
}

TEST_CASE("a value that is not finite is named", "[fake_quantize][error]") {
  Cpu const cpu(2);
  float const nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  for (auto const granularity : all_granularities())
    for (float const bad : {nan, inf, -inf}) {
      auto X = normal_matrix(300, 100, 1);
      X(211, 17) = bad;
      QuantizeOptions const options{.granularity = granularity};
      CHECK_THROWS_WITH(quantize(cpu, X, options),
                        Catch::Contains("[quantize] the value at row 211, channel 17 is ") &&
                            Catch::Contains("only finite values can be quantized"));
      CHECK_THROWS_AS(quantize_int8(cpu, X, options), InvalidArgument);
      CHECK_THROWS_WITH(fake_quantize(cpu, X, options), Catch::Contains("row 211, channel 17"));
    }
  auto X = normal_matrix(4, 9, 2);
  X(1, 8) = nan;  // the tail of a row
  X(3, 0) = inf;
  CHECK_THROWS_WITH(
      fake_quantize(cpu, X, {.clip_search = ClipSearch::mse}),
      "[fake_quantize] the value at row 1, channel 8 is nan: only finite values can be quantized");
}

TEST_CASE("options out of range are refused", "[fake_quantize][error]") {
  Cpu const cpu(1);
  RowMatrix<float> X = normal_matrix(2, 4, 3);
  for (int const bits : {-1, 0, 1, 9, 16})
    CHECK_THROWS_WITH(fake_quantize(cpu, X, {.bits = bits}),
                      Catch::Contains(std::to_string(bits) + " bits: choose between 2 and 8"));
  for (double const ratio : {0.0, -0.5, 1.01, std::nan("")})
    CHECK_THROWS_WITH(fake_quantize(cpu, X, {.clip_ratio = ratio}),
                      Catch::Contains("it must be above 0 and at most 1"));
  CHECK_THROWS_WITH(fake_quantize(cpu, X, {.clip_ratio = 0.9, .clip_search = ClipSearch::mse}),
                    "[QuantizeOptions] clip ratio 0.9 together with the clip search: the search chooses the "
                    "ratio, leave it at 1");
  CHECK_THROWS_WITH(fake_quantize(cpu, X, {.granularity = per_group(0)}),
                    "[per_group] group of 0 channels: at least one is needed");
  CHECK_THROWS_WITH(quantize(cpu, X, {.bits = 8}),
                    "[IntMatrix] 8 bits do not fit a storage of 4: use quantize_int8");
}

TEST_CASE("quantization_error is relative and exact in simple cases", "[quantization_error]") {
  Cpu const cpu(1);
  RowMatrix<float> X(1, 4), Y(1, 4);
  X << 1, 2, 3, 4;
  Y << 1, 2, 3, 5;
  CHECK(quantization_error(cpu, X, Y) == 1.0 / 30);
  CHECK(quantization_error(cpu, X, X) == 0);
  RowMatrix<float> const zero = RowMatrix<float>::Zero(1, 4);
  CHECK(quantization_error(cpu, zero, zero) == 0);
  CHECK(quantization_error(cpu, zero, X) == std::numeric_limits<double>::infinity());
  CHECK_THROWS_WITH(quantization_error(cpu, X, RowMatrix<float>(2, 4)),
                    "[quantization_error] 1 x 4 against 2 x 4: the shapes must agree");
}
