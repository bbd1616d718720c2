// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include <dartquant/core/half.hpp>
#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/grid.hpp>

/// Passes over the elements of a matrix. A block covers `element_rows` rows of `element_threads` columns, one
/// column per thread, so that neighbours read neighbours.
namespace dartquant::cuda {

inline constexpr int element_threads = 256, element_rows = 16;

[[nodiscard]] inline Grid element_grid(index_t rows, index_t cols) {
  return {.blocks_x = static_cast<int>((rows + element_rows - 1) / element_rows),
          .blocks_y = static_cast<int>((cols + element_threads - 1) / element_threads)};
}
/// Blocks of such a grid.
[[nodiscard]] inline index_t element_blocks(index_t rows, index_t cols) {
  Grid const grid = element_grid(rows, cols);
  return static_cast<index_t>(grid.blocks_x) * grid.blocks_y;
}

/// This block among all of the grid, row of blocks by row of blocks.
template <class Thread>
DARTQUANT_DEVICE index_t block_number(Thread const& thread) {
  return static_cast<index_t>(thread.block_x()) * thread.blocks_y() + thread.block_y();
}

/// f(row, col) for the elements of this thread.
template <class Thread, class F>
DARTQUANT_DEVICE void for_each_element(Thread const& thread, index_t rows, index_t cols, F const& f) {
  index_t const first = static_cast<index_t>(thread.block_x()) * element_rows,
                col = static_cast<index_t>(thread.block_y()) * element_threads + thread.index();
  if (col >= cols) return;
  index_t const last = first + element_rows < rows ? first + element_rows : rows;
  for (index_t row = first; row < last; ++row) f(row, col);
}

/// to <- from, converting.
template <class From, class To>
struct ConvertElements {
  static constexpr int threads = element_threads;
  DeviceMatrixView<From const> from;
  DeviceMatrixView<To> to;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    for_each_element(thread, to.rows(), to.cols(), [&](index_t row, index_t col) {
      if constexpr (sizeof(From) < sizeof(float))
        to(row, col) = static_cast<To>(thread.to_float(from(row, col)));
      else to(row, col) = static_cast<To>(from(row, col));
    });
  }
};

/// high + low <- x, both with at most 11 significant bits, what TF32 holds: x but for a relative 2^-23. What
/// is not finite goes to `high` as it is.
struct SplitElements {
  static constexpr int threads = element_threads;
  DeviceMatrixView<float const> x;
  DeviceMatrixView<float> high, low;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    for_each_element(thread, x.rows(), x.cols(), [&](index_t row, index_t col) {
      float const value = x(row, col);
      bool const finite = value - value == 0;
      float upper = round(value);
      if (finite && !(upper - upper == 0)) upper = truncate(value);  // the largest would become infinite
      high(row, col) = finite ? upper : value;
      low(row, col) = finite ? round(value - upper) : 0.0f;
    });
  }

 private:
  [[nodiscard]] DARTQUANT_DEVICE static float truncate(float value) {
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) & 0xFFFFE000u);
  }
  /// To the nearest, ties away from zero.
  [[nodiscard]] DARTQUANT_DEVICE static float round(float value) {
    return std::bit_cast<float>((std::bit_cast<std::uint32_t>(value) + 0x1000u) & 0xFFFFE000u);
  }
};

/// An optimizer's step, element by element; a state that the rule does not use has no rows.
template <class T, class Rule>
struct UpdateElements {
  static constexpr int threads = element_threads;
  Rule rule;
  T rate;
  DeviceMatrixView<T const> gradient;
  DeviceMatrixView<T> first, second, value;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    for_each_element(thread, value.rows(), value.cols(), [&](index_t row, index_t col) {
      T unused_first = 0, unused_second = 0;
      T& a = first.rows() > 0 ? first(row, col) : unused_first;
      T& b = second.rows() > 0 ? second(row, col) : unused_second;
      rule.update(gradient(row, col), rate, value(row, col), a, b);
    });
  }
};

/// Y_i <- X_rows[i].
template <class T>
struct GatherRows {
  static constexpr int threads = element_threads;
  DeviceMatrixView<T const> X;
  index_t const* rows;
  DeviceMatrixView<T> Y;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    for_each_element(thread, Y.rows(), Y.cols(),
                     [&](index_t row, index_t col) { Y(row, col) = X(rows[row], col); });
  }
};

/// A <- value I.
template <class T>
struct SetDiagonal {
  static constexpr int threads = element_threads;
  T value;
  DeviceMatrixView<T> A;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    for_each_element(thread, A.rows(), A.cols(),
                     [&](index_t row, index_t col) { A(row, col) = row == col ? value : T(0); });
  }
};

/// Zeros above the diagonal of a square matrix.
template <class T>
struct ClearUpper {
  static constexpr int threads = element_threads;
  DeviceMatrixView<T> A;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    for_each_element(thread, A.rows(), A.cols(), [&](index_t row, index_t col) {
      if (col > row) A(row, col) = T(0);
    });
  }
};

}  // namespace dartquant::cuda
