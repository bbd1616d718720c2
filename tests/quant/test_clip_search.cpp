// SPDX-License-Identifier: Apache-2.0
#include <dartquant/quant/clip_search.hpp>
#include <dartquant/quant/quantize.hpp>

#include <cmath>

#include "data.hpp"
#include "support/catch.hpp"

using namespace dartquant;
using quant_test::both_symmetries;
using quant_test::normal_matrix;

namespace {

double norm_2_4(MatrixView<float const> X, MatrixView<float const> Y) {
  double sum = 0;
  for (index_t i = 0; i < X.rows(); ++i)
    for (index_t j = 0; j < X.cols(); ++j)
      sum += std::pow(std::abs(static_cast<double>(X(i, j)) - static_cast<double>(Y(i, j))), 2.4);
  return sum;
}

/// The reference search, written as the reference does: every factor in turn, strictly better wins.
double best_norm(MatrixView<float const> row, int bits, Symmetry symmetry) {
  double best = INFINITY;
  float const low = as_eigen(row).minCoeff(), high = as_eigen(row).maxCoeff();
  for (int i = 0; i < 80; ++i) {
    auto const p = static_cast<float>(1.0 - i / 100.0);
    auto const quantizer = range_quantizer(p * low, p * high, bits, symmetry);
    double sum = 0;
    for (index_t j = 0; j < row.cols(); ++j)
      sum += std::pow(std::abs(static_cast<double>(row(0, j) - quantizer.round_trip(row(0, j)))), 2.4);
    best = std::min(best, sum);
  }
  return best;
}

}  // namespace

TEST_CASE("|e|^2.4 to six digits", "[clip_search]") {
  double worst = 0;
  for (double e = 1e-12; e < 1e6; e *= 1.001) {
    auto const error = static_cast<float>(e);
    worst = std::max(worst, std::abs(static_cast<double>(detail::power_2_4(error)) /
                                         std::pow(static_cast<double>(error), 2.4) -
                                     1));
  }
  CHECK(worst < 2e-6);
  CHECK(detail::power_2_4(0.0f) == 0.0f);
  CHECK(detail::power_2_4(-2.0f) == detail::power_2_4(2.0f));
}

TEST_CASE("the search finds the best of the 80 factors and is never worse than no clipping",
          "[clip_search]") {
  Cpu const cpu(2);
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    auto const X = normal_matrix(2, 61 + static_cast<index_t>(seed) * 40, seed, seed % 3 == 0 ? 0 : 40);
    for (int const bits : {2, 3, 4, 8})
      for (auto const symmetry : both_symmetries) {
        RowMatrix<float> searched = X, plain = X;
        fake_quantize(cpu, searched, {.bits = bits, .symmetry = symmetry, .clip_search = ClipSearch::mse});
        fake_quantize(cpu, plain, {.bits = bits, .symmetry = symmetry});
        for (index_t i = 0; i < X.rows(); ++i) {
          MatrixView<float const> const row = X.middleRows(i, 1);
          double const found = norm_2_4(row, searched.middleRows(i, 1));
          CHECK(found <= norm_2_4(row, plain.middleRows(i, 1)) * (1 + 4e-6));
          CHECK(found == Approx(best_norm(row, bits, symmetry)).epsilon(4e-6));
        }
      }
  }
}

TEST_CASE("heavy tails are clipped, strictly better", "[clip_search]") {
  Cpu const cpu(1);
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    RowMatrix<float> X = normal_matrix(1, 2048, seed);
    X(0, 100) = 8;  // an outlier worth less than the resolution it costs
    for (auto const symmetry : both_symmetries)
      for (auto const granularity : {per_row, per_tensor}) {
        RowMatrix<float> searched = X, plain = X;
        fake_quantize(cpu, searched,
                      {.granularity = granularity, .symmetry = symmetry, .clip_search = ClipSearch::mse});
        fake_quantize(cpu, plain, {.granularity = granularity, .symmetry = symmetry});
        CHECK(norm_2_4(X, searched) < 0.9 * norm_2_4(X, plain));
      }
  }
}

TEST_CASE("rows that are exact without clipping are left unclipped", "[clip_search]") {
  Cpu const cpu(1);
  RowMatrix<float> X(3, 15);
  for (int j = 0; j < 15; ++j) {
    X(0, j) = static_cast<float>(j - 7);
    X(1, j) = 0;
    X(2, j) = 1e-20f * static_cast<float>(j - 7);
  }
  auto const Q = quantize(cpu, X, {.clip_search = ClipSearch::mse});
  CHECK(Q.scale(0, 0) == 1.0f);
  CHECK(Q.scale(1, 0) == 1.0f);
  CHECK(Q.scale(2, 0) == Approx(1e-20f));
  CHECK(Q.level(2, 0) == -7);
}

TEST_CASE("every group and every column is searched for itself", "[clip_search]") {
  Cpu const cpu(1);
  RowMatrix<float> const X = normal_matrix(48, 96, 77, 60);
  QuantizeOptions options{.granularity = per_group(32), .clip_search = ClipSearch::mse};
  RowMatrix<float> grouped = X;
  fake_quantize(cpu, grouped, options);
  RowMatrix<float> part = X.middleCols(32, 32);
  options.granularity = per_row;
  fake_quantize(cpu, part, options);
  CHECK(grouped.middleCols(32, 32) == part);

  RowMatrix<float> columns = X, transposed = X.transpose();
  options.granularity = per_column;
  fake_quantize(cpu, columns, options);
  options.granularity = per_row;
  fake_quantize(cpu, transposed, options);
  // The sum over a column adds in another order; the norms agree.
  for (index_t j = 0; j < X.cols(); ++j) {
    RowMatrix<float> const original = X.col(j), a = columns.col(j), b = transposed.row(j).transpose();
    CHECK(norm_2_4(original, a) == Approx(norm_2_4(original, b)).epsilon(4e-6));
  }
}
