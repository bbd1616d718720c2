// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/elements.cuh>
#include <dartquant/cuda/grid.hpp>

namespace dartquant::cuda {

/// A <- strictly_lower(A - A^T), zeros elsewhere. One block per tile on or below the diagonal; the mirrored
/// tile goes through shared memory, so both are read along their rows.
template <class T>
struct SkewLower {
  static constexpr int threads = 256, tile = 32;
  static constexpr std::size_t shared_bytes = sizeof(T) * tile * (tile + 1);
  DeviceMatrixView<T> A;

  [[nodiscard]] static Grid grid(index_t size) {
    int const tiles = static_cast<int>((size + tile - 1) / tile);
    return {.blocks_x = tiles, .blocks_y = tiles, .shared_bytes = shared_bytes};
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    if (thread.block_y() > thread.block_x()) return;  // whole blocks
    index_t const n = A.rows(), down = static_cast<index_t>(thread.block_x()) * tile,
                  across = static_cast<index_t>(thread.block_y()) * tile;
    int const lane = thread.lane();
    T* const mirror = reinterpret_cast<T*>(thread.shared());
    for (int r = thread.warp(); r < tile; r += threads / 32)
      if (across + r < n && down + lane < n) mirror[r * (tile + 1) + lane] = A(across + r, down + lane);
    thread.synchronize();
    for (int r = thread.warp(); r < tile; r += threads / 32) {
      index_t const row = down + r, col = across + lane;
      if (row < n && col < n) {
        if (row > col) A(row, col) -= mirror[lane * (tile + 1) + r];
        else A(row, col) = T(0);
      }
      if (down != across && across + r < n && down + lane < n) A(across + r, down + lane) = T(0);
    }
  }
};

/// to <- from^T, converting; with `signs` [cols], column j of `to` is multiplied by signs[j].
template <class From, class To>
struct TransposeElements {
  static constexpr int threads = element_threads;
  DeviceMatrixView<From const> from;
  double const* signs;
  DeviceMatrixView<To> to;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    for_each_element(thread, to.rows(), to.cols(), [&](index_t row, index_t col) {
      From const value = from(col, row);
      to(row, col) = static_cast<To>(signs == nullptr ? value : static_cast<From>(signs[col]) * value);
    });
  }
};

/// The lower factor out of the packed result of a Householder QR: L(i, k) = signs[k] packed(i, k) for i >= k,
/// zeros above, signs[k] that of packed(k, k), so that diag(L) >= 0.
struct TakeLowerFactor {
  static constexpr int threads = element_threads;
  DeviceMatrixView<double const> packed;
  DeviceMatrixView<double> L;
  double* signs;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    for_each_element(thread, L.rows(), L.cols(), [&](index_t row, index_t col) {
      double const sign = packed(col, col) < 0 ? -1 : 1;
      L(row, col) = row < col ? 0 : sign * packed(row, col);
      if (row == col) signs[col] = sign;
    });
  }
};

}  // namespace dartquant::cuda
