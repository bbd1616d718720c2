// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/random.hpp>

namespace dartquant::testing {

/// Independent normal numbers.
template <class T = double>
[[nodiscard]] RowMatrix<T> gaussian(index_t rows, index_t cols, std::uint64_t seed) {
  RowMatrix<T> M(rows, cols);
  Philox const random(seed);
  for (index_t i = 0; i < M.size(); ++i)
    M.data()[i] = static_cast<T>(random.normal(static_cast<std::uint64_t>(i)));
  return M;
}

/// Activations like those behind an RMSNorm: Laplace values mixed through a few directions, some channels
/// with a large mean and five times the spread of the others, every row of unit RMS.
template <class T = float>
[[nodiscard]] RowMatrix<T> outlier_activations(index_t tokens, index_t channels, std::uint64_t seed) {
  Philox const random(seed, 1);
  auto const laplace = [&](index_t i) {
    double const u = random.uniform(static_cast<std::uint64_t>(i)) - 0.5;
    return std::copysign(std::log(1 - 2 * std::abs(u) + 1e-9), -u);
  };
  index_t const mixed = 8;
  RowMatrix<double> const A = gaussian(mixed, channels, seed + 1);
  RowMatrix<double> B(tokens, mixed), X(tokens, channels);
  for (index_t i = 0; i < B.size(); ++i) B.data()[i] = laplace(i);
  X.noalias() = 0.3 * B * A;
  for (index_t i = 0; i < X.size(); ++i) X.data()[i] += laplace(B.size() + i);
  for (index_t j = 3; j < channels; j += 24) X.col(j) = 5 * X.col(j).array() + 10;
  Cpu(1).normalize_rows<double>(X);
  return X.template cast<T>();
}

}  // namespace dartquant::testing
