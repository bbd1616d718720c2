// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/matrix.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/quant/int_matrix.hpp>
#include <dartquant/quant/options.hpp>

#include <vector>

namespace quant_test {

/// Standard normal values; every `outlier_every`-th of a random order is 30 times larger (0: none).
template <class T = float>
dartquant::RowMatrix<T> normal_matrix(dartquant::index_t rows, dartquant::index_t cols, std::uint64_t seed,
                                      std::uint64_t outlier_every = 0) {
  dartquant::Philox const values(seed, 0), places(seed, 1);
  dartquant::RowMatrix<T> X(rows, cols);
  for (dartquant::index_t i = 0; i < X.size(); ++i) {
    auto const at = static_cast<std::uint64_t>(i);
    bool const outlier = outlier_every > 0 && places.below(at, outlier_every) == 0;
    X.data()[i] = static_cast<T>(values.normal(at) * (outlier ? 30.0 : 1.0));
  }
  return X;
}

inline std::vector<dartquant::Granularity> all_granularities() {
  return {dartquant::per_tensor,   dartquant::per_row,      dartquant::per_column,   dartquant::per_group(1),
          dartquant::per_group(3), dartquant::per_group(8), dartquant::per_group(64)};
}

inline constexpr dartquant::Symmetry both_symmetries[] = {dartquant::Symmetry::symmetric,
                                                          dartquant::Symmetry::asymmetric};

/// Random levels and zero points, all scales 1: products are sums of integers.
template <int Bits>
[[nodiscard]] dartquant::IntMatrix<Bits> random_levels(dartquant::index_t rows, dartquant::index_t cols,
                                                       dartquant::QuantizeOptions const& options,
                                                       std::uint64_t seed) {
  dartquant::IntMatrix<Bits> Q(rows, cols, options);
  dartquant::Philox const random(seed);
  auto const [lowest, highest] = dartquant::levels(options.bits, options.symmetry);
  auto const count = static_cast<std::uint64_t>(highest - lowest + 1);
  std::uint64_t at = 0;
  for (dartquant::index_t i = 0; i < rows; ++i)
    for (dartquant::index_t j = 0; j < cols; ++j)
      Q.set_level(i, j, lowest + static_cast<int>(random.below(at++, count)));
  if (options.symmetry == dartquant::Symmetry::asymmetric)
    for (dartquant::index_t i = 0; i < Q.zero_points().rows(); ++i)
      for (dartquant::index_t j = 0; j < Q.zero_points().cols(); ++j)
        Q.zero_points()(i, j) = static_cast<int>(random.below(at++, count));
  return Q;
}

}  // namespace quant_test
