// SPDX-License-Identifier: Apache-2.0
#include <dartquant/quant/matmul.hpp>
#include <dartquant/quant/quantize.hpp>

#include <cmath>

#include "data.hpp"
#include "support/catch.hpp"

using namespace dartquant;
using quant_test::all_granularities;
using quant_test::both_symmetries;
using quant_test::normal_matrix;
using quant_test::random_levels;

namespace {

using Exact = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Dequantize, then multiply in double.
template <class X, class W>
void check_product(X const& x, W const& w, RowMatrix<float> const& Y, double rounding) {
  Exact const a = x.template cast<double>(), b = w.template cast<double>();
  Exact const exact = a * b.transpose(), size = a.cwiseAbs() * b.cwiseAbs().transpose();
  REQUIRE(Y.rows() == exact.rows());
  REQUIRE(Y.cols() == exact.cols());
  for (index_t i = 0; i < Y.rows(); ++i)
    for (index_t j = 0; j < Y.cols(); ++j)
      REQUIRE(std::abs(static_cast<double>(Y(i, j)) - exact(i, j)) <= rounding * size(i, j));
}

template <int BitsX, int BitsW>
void check_integers(IntMatrix<BitsX> const& X, IntMatrix<BitsW> const& W) {
  auto const Y = matmul(Cpu(2), X, W);
  for (index_t i = 0; i < X.rows(); ++i)
    for (index_t o = 0; o < W.rows(); ++o) {
      long long centered = 0, raw = 0, sum_x = 0, sum_w = 0;
      for (index_t j = 0; j < X.cols(); ++j) {
        centered += (X.level(i, j) - X.zero_point(i, j)) * (W.level(o, j) - W.zero_point(o, j));
        raw += X.level(i, j) * W.level(o, j);
        sum_x += X.level(i, j);
        sum_w += W.level(o, j);
      }
      REQUIRE(std::abs(centered) < (1 << 24));  // a float holds it
      REQUIRE(static_cast<long long>(Y(i, o)) == centered);
      if (X.block().cols == X.cols() && W.block().cols == W.cols() && X.cols() > 0) {
        // The correction by row sums that a kernel applies to raw products.
        long long const zx = X.zero_point(i, 0), zw = W.zero_point(o, 0);
        REQUIRE(raw - zx * sum_w - zw * sum_x + X.cols() * zx * zw == centered);
      }
    }
}

}  // namespace

TEST_CASE("int4 x int4 sums are exact integers", "[matmul]") {
  std::uint64_t seed = 1;
  for (index_t const channels : {0, 1, 2, 7, 64, 129, 1000})
    for (auto const x : both_symmetries)
      for (auto const w : both_symmetries)
        for (auto const granularity : {per_row, per_group(5), per_group(64)}) {
          seed += 2;
          QuantizeOptions const weights{.granularity = granularity, .symmetry = w};
          check_integers(random_levels<4>(3, channels, {.symmetry = x}, seed),
                         random_levels<4>(67, channels, weights, seed + 1));
          check_integers(random_levels<8>(65, channels, {.bits = 8, .symmetry = x}, seed),
                         random_levels<4>(2, channels, weights, seed + 1));
        }
}

TEST_CASE("the largest 8-bit levels do not overflow in a long sum", "[matmul]") {
  QuantizeOptions const options{.bits = 8, .symmetry = Symmetry::asymmetric};
  Int8Matrix X(1, 70000, options), W(1, 70000, options);
  for (index_t j = 0; j < 70000; ++j) {
    X.set_level(0, j, 255);
    W.set_level(0, j, 255);
  }
  CHECK(matmul(Cpu(1), X, W)(0, 0) == static_cast<float>(70000.0 * 255 * 255));
  X.zero_points()(0, 0) = 255;
  CHECK(matmul(Cpu(1), X, W)(0, 0) == 0.0f);
}

TEST_CASE("matmul equals dequantize, then multiply", "[matmul]") {
  Cpu const cpu(2);
  std::uint64_t seed = 100;
  for (auto const& [tokens, out, in] :
       {std::tuple(1, 1, 1), std::tuple(1, 70, 33), std::tuple(5, 3, 129), std::tuple(66, 66, 40)})
    for (auto const symmetry : both_symmetries)
      for (auto const wide : all_granularities())
        for (auto const fine : all_granularities()) {
          seed += 2;
          auto const X = normal_matrix(tokens, in, seed, 30), W = normal_matrix(out, in, seed + 1);
          auto const W4 = quantize(cpu, W, {.granularity = fine, .symmetry = symmetry});
          auto const X4 = quantize(cpu, X, {.granularity = wide, .symmetry = Symmetry::asymmetric});
          auto const X8 = quantize_int8(cpu, X, {.bits = 8, .granularity = wide, .symmetry = symmetry});
          auto const W8 = quantize_int8(cpu, W, {.bits = 8, .granularity = fine});
          auto const w4 = dequantize(cpu, W4), w8 = dequantize(cpu, W8);
          // Dequantized factors carry a rounding of 2^-24 each, the result one more; FP64 sums add little.
          double const rounding = 3.1 * std::ldexp(1.0, -24);
          check_product(dequantize(cpu, X4), w4, matmul(cpu, X4, W4), rounding);
          check_product(dequantize(cpu, X8), w4, matmul(cpu, X8, W4), rounding);
          check_product(dequantize(cpu, X8), w8, matmul(cpu, X8, W8), rounding);
          // Float products and sums: `in` roundings of 2^-24 and those of the tiles.
          double const sums = (in + 8) * std::ldexp(1.0, -24);
          check_product(X, w4, matmul(cpu, X, W4), sums);
          check_product(X, w8, matmul(cpu, X, W8), sums);
        }
}

TEST_CASE("a bias is added to every token", "[matmul]") {
  Cpu const cpu(1);
  auto const X = normal_matrix(4, 16, 1), W = normal_matrix(3, 16, 2);
  auto const X4 = quantize(cpu, X);
  auto const W4 = quantize(cpu, W);
  std::vector<float> const bias{1, -2, 1000};
  RowMatrix<float> const plain = matmul(cpu, X4, W4), shifted = matmul(cpu, X4, W4, bias);
  RowMatrix<float> const float_plain = matmul(cpu, X, W4), float_shifted = matmul(cpu, X, W4, bias);
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 3; ++j) {
      float const b = bias[static_cast<std::size_t>(j)];
      CHECK(shifted(i, j) == Approx(plain(i, j) + b).epsilon(1e-6));
      CHECK(float_shifted(i, j) == float_plain(i, j) + b);
    }
}

TEST_CASE("a strided X and empty sizes", "[matmul]") {
  Cpu const cpu(1);
  RowMatrix<float> const wide = normal_matrix(5, 40, 3);
  auto const W4 = quantize(cpu, normal_matrix(6, 16, 4));
  RowMatrix<float> const inner = wide.middleCols(9, 16);
  CHECK(matmul(cpu, wide.middleCols(9, 16), W4) == matmul(cpu, inner, W4));
  CHECK(matmul(cpu, quantize(cpu, wide.middleCols(9, 16)), W4) == matmul(cpu, quantize(cpu, inner), W4));
  RowMatrix<float> const none(0, 16), narrow(3, 0);
  CHECK(matmul(cpu, quantize(cpu, none), W4).rows() == 0);
  CHECK(matmul(cpu, none, W4).cols() == 6);
  CHECK(matmul(cpu, quantize(cpu, narrow), quantize(cpu, narrow)).isZero(0));
}

TEST_CASE("the product has the same bytes for any number of threads", "[matmul]") {
  auto const X = normal_matrix(200, 96, 5), W = normal_matrix(130, 96, 6);
  auto const X4 = quantize(Cpu(1), X, {.symmetry = Symmetry::asymmetric});
  auto const W4 = quantize(Cpu(1), W, {.granularity = per_group(32)});
  auto const one = matmul(Cpu(1), X4, W4);
  auto const one_float = matmul(Cpu(1), X, W4);
  for (int const threads : {2, 4}) {
    CHECK(matmul(Cpu(threads), X4, W4) == one);
    CHECK(matmul(Cpu(threads), X, W4) == one_float);
  }
}

TEST_CASE("shapes that do not fit are refused", "[matmul][error]") {
  Cpu const cpu(1);
  auto const X4 = quantize(cpu, normal_matrix(2, 8, 1)), W4 = quantize(cpu, normal_matrix(3, 9, 2));
  CHECK_THROWS_WITH(matmul(cpu, X4, W4), "[matmul] X is 2 x 8 and W is 3 x 9: the channels must agree");
  CHECK_THROWS_WITH(matmul(cpu, normal_matrix(2, 8, 1), W4), Catch::Contains("the channels must agree"));
  std::vector<float> const bias(2);
  CHECK_THROWS_WITH(matmul(cpu, W4, W4, bias),
                    "[matmul] bias of 2 values for 3 outputs: give one per output, or none");
}
