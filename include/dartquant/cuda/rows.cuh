// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/grid.hpp>
#include <dartquant/cuda/sums.cuh>

namespace dartquant::cuda {

/// Blocks of kernels that give each row to a warp.
inline constexpr int row_threads = 256, rows_per_block = row_threads / 32;

[[nodiscard]] inline Grid row_grid(index_t rows) {
  return {.blocks_x = static_cast<int>((rows + rows_per_block - 1) / rows_per_block)};
}

/// Every row divided by its root mean square, summed in FP64; rows of zeros stay.
template <class T>
struct NormalizeRows {
  static constexpr int threads = row_threads;
  DeviceMatrixView<T> Y;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    index_t const row = static_cast<index_t>(thread.block_x()) * rows_per_block + thread.warp();
    if (row >= Y.rows()) return;  // whole warps
    double squares = 0;
    for (index_t col = thread.lane(); col < Y.cols(); col += 32) {
      double const value = static_cast<double>(Y(row, col));
      squares += value * value;
    }
    squares = warp_sum(thread, squares);
    if (!(squares > 0)) return;
    using std::sqrt;
    double const factor = sqrt(static_cast<double>(Y.cols()) / squares);
    for (index_t col = thread.lane(); col < Y.cols(); col += 32)
      Y(row, col) = static_cast<T>(static_cast<double>(Y(row, col)) * factor);
  }
};

}  // namespace dartquant::cuda
