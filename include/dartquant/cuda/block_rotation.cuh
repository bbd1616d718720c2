// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>

#include <dartquant/cuda/grid.hpp>
#include <dartquant/cuda/row_tile.cuh>

namespace dartquant::cuda {

/// Y <- P(X) blockdiag(R_0, R_1, ...): 64 rows of one block of at most 128 channels per block of threads. A
/// value is the sum over i, from 0 upwards by FMAs, of x_i R(i, j); so it is defined to the bit, and within
/// block * 2^-24 * |x| |R_j| of the exact product.
///
/// A thread forms 4 rows of 8 channels; per step of the sum it reads 4 values of x and two vectors of R from
/// shared memory for 32 FMAs. 128 FMAs per value are about 5 times what memory takes for 16-bit values on an
/// H100: arithmetic is the bound, not memory.
struct RotateBlocks {
  static constexpr int threads = 256, blocks = 2, tile_rows = 64, pitch = tile_rows + 1, largest = 128;
  StoredRows x, y;
  std::int32_t const* permutation = nullptr;  ///< [cols], or null
  float const* rotations = nullptr;           ///< [count, block, block]
  index_t rows = 0;
  int cols = 0, block = 0;
  int each = 0;  ///< 1: every block has a rotation of its own

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    auto* const R = reinterpret_cast<float*>(thread.shared());  // [block, 128]
    float* const values = R + block * largest;                  // [block, pitch]: channel by channel
    index_t const first_row = static_cast<index_t>(thread.block_x()) * tile_rows;
    int const first = thread.block_y() * block;
    load_rotation(thread, R);
    load_values(thread, first_row, first, values);
    thread.synchronize();

    int const row = thread.index() / 16 * 4, col = thread.index() % 16 * 4;  // and the 4 channels 64 further
    float sums[8][4] = {};
    for (int i = 0; i < block; ++i) {
      Float4 const low = *reinterpret_cast<Float4 const*>(R + i * largest + col);
      Float4 const high = *reinterpret_cast<Float4 const*>(R + i * largest + 64 + col);
      for (int r = 0; r < 4; ++r) {
        float const value = values[i * pitch + row + r];
        for (int e = 0; e < 4; ++e) sums[r][e] = std::fmaf(value, low.x[e], sums[r][e]);
        for (int e = 0; e < 4; ++e) sums[4 + r][e] = std::fmaf(value, high.x[e], sums[4 + r][e]);
      }
    }
    unrolled<8>([&](auto index) {
      constexpr int r = index % 4, side = index / 4 * 64;
      int const count = block - side - col;
      if (first_row + row + r < rows && count > 0)
        store_vector(thread, sums[index], 1.0f, y.data, y.type,
                     (first_row + row + r) * y.stride + first + side + col, count,
                     y.vectors != 0 && count >= 4);
    });
  }

 private:
  template <class Thread>
  DARTQUANT_DEVICE void load_rotation(Thread const& thread, float* R) const {
    float const* const from =
        rotations + (each != 0 ? static_cast<index_t>(thread.block_y()) * block * block : 0);
    for (int n = thread.index(); n < block * largest; n += threads) {
      int const i = n / largest, j = n % largest;
      R[n] = j < block ? from[i * block + j] : 0.0f;
    }
  }

  template <class Thread>
  DARTQUANT_DEVICE void load_values(Thread const& thread, index_t first_row, int first, float* values) const {
    for (int n = thread.index(); n < tile_rows * block; n += threads) {
      int const r = n / block, i = n - r * block;
      std::uint32_t source = static_cast<std::uint32_t>(first + i);
      if (permutation != nullptr) {
        auto const last = static_cast<std::uint32_t>(cols - 1);
        source = static_cast<std::uint32_t>(permutation[first + i]);
        source = source < last ? source : last;
      }
      values[i * pitch + r] = first_row + r < rows
                                  ? load(thread, (first_row + r) * x.stride + static_cast<index_t>(source))
                                  : 0.0f;
    }
  }

  template <class Thread>
  DARTQUANT_DEVICE float load(Thread const& thread, index_t at) const {
    if (x.type == ElementType::float32) return static_cast<float const*>(x.data)[at];
    if (x.type == ElementType::float16) return thread.to_float(static_cast<Half const*>(x.data)[at]);
    return thread.to_float(static_cast<BFloat16 const*>(x.data)[at]);
  }
};

/// The blocks of threads of a rotation, and its shared memory: 97 KiB for 128 channels.
[[nodiscard]] inline Grid grid_of(RotateBlocks const& body) {
  return {.blocks_x = static_cast<int>((body.rows - 1) / RotateBlocks::tile_rows + 1),
          .blocks_y = body.cols / body.block,
          .shared_bytes =
              static_cast<std::size_t>(4 * body.block * (RotateBlocks::largest + RotateBlocks::pitch))};
}

}  // namespace dartquant::cuda
