// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <dartquant/cuda/row_tile.cuh>

namespace dartquant::cuda::detail {

// As the CPU does (RowKernels::multiply_base), rows go into the sums four at a time, those of signs s0 .. s3
// as
//
//     s0 ((x0 + s0 s1 x1) + s0 s2 (x2 + s2 s3 x3)):
//
// row 0, 1, 2 and 3 of four bring the factors s0, s0 s1, s0 s2 and s2 s3.

/// Whether the factor of a row is -1, for output i.
DARTQUANT_HD inline bool base_factor_negative(std::int8_t const* base, int order, int row, int i) {
  int const other = row % 4 == 3 ? row - 1 : row / 4 * 4;
  int const sign = base[row * order + i];
  return (row % 4 == 0 ? sign : sign * base[other * order + i]) < 0;
}

/// The sum but for s0. A product with +-1 is exact, so an FMA is a sum.
DARTQUANT_HD inline float sum_of_four(float x0, float x1, float x2, float x3, float s01, float s02,
                                      float s23) {
  return std::fmaf(s02, std::fmaf(s23, x3, x2), std::fmaf(s01, x1, x0));
}
/// Of as many of the four as there are.
DARTQUANT_HD inline float sum_of_rows(int rows, float const (&x)[4], float const (&s)[4]) {
  return rows == 1   ? x[0]
         : rows == 2 ? std::fmaf(s[1], x[1], x[0])
         : rows == 3 ? std::fmaf(s[2], x[2], std::fmaf(s[1], x[1], x[0]))
                     : sum_of_four(x[0], x[1], x[2], x[3], s[1], s[2], s[3]);
}

/// Every block X [order, length] of the tile, length >= 4, becomes base^T X. A thread forms 4 outputs of 4
/// vectors of columns: 64 sums in registers, per row of the base one vector of signs (the same for a whole
/// warp) and four of values for 64 FMAs. -0 + x is x for every x. Preconditions: tile.order is a
/// multiple of 4, tile.order / 4 * columns / 4 <= threads.
template <class Thread>
DARTQUANT_DEVICE void multiply_base(Thread const& thread, RowTile const& tile, TileFloats floats) {
  auto* const signs = reinterpret_cast<std::uint8_t*>(thread.shared() + tile.signs_at);
  int const order = tile.order;
  int const length = static_cast<int>(tile.block_columns.divisor);  // in vectors
  int const columns = tile.tile_rows * static_cast<int>(tile.row_blocks.divisor) * length;
  int const quarter = (columns + 3) / 4;
  int outputs = thread.index() / quarter * 4;
  outputs = outputs < order ? outputs : 0;  // all take part, so that a warp may wait for itself
  int at[4];
  for (int q = 0; q < 4; ++q) {
    int column = thread.index() % quarter + q * quarter;
    column = column < columns ? column : columns - 1;
    auto const block = static_cast<int>(tile.block_columns.quotient(static_cast<std::uint32_t>(column)));
    auto const row = static_cast<int>(tile.row_blocks.quotient(static_cast<std::uint32_t>(block)));
    int const in_row = block - row * static_cast<int>(tile.row_blocks.divisor);
    at[q] = row * (tile.pitch / 4) + in_row * order * length + (column - block * length);
  }
  float sums[16][4];
  for (int i = 0; i < 16; ++i)
    for (int e = 0; e < 4; ++e) sums[i][e] = -0.0f;
  for (int first = 0; first < order; first += tile.slab) {
    int const rows = order - first < tile.slab ? order - first : tile.slab;
#pragma unroll 1
    for (int i = thread.index(); i < rows * order; i += thread.count()) {
      int const j = i / order, output = i - j * order;
      signs[i] = base_factor_negative(tile.base, order, first + j, output)
                     ? 0xBF
                     : 0x3F;  // the top bytes of -1 and 1
    }
    thread.synchronize();
    std::uint8_t const* signs_at = signs + outputs;
    int const end = (first + rows) * length;
    for (int offset = first * length; offset < end; signs_at += 4 * order, offset += 4 * length) {
      std::uint32_t bytes[4];
      for (int r = 0; r < 4; ++r) bytes[r] = *reinterpret_cast<std::uint32_t const*>(signs_at + r * order);
      for (int q = 0; q < 4; ++q)
        for (int e = 0; e < 4; ++e) {  // one column at a time, and nothing read ahead: registers are short
          thread.synchronize_warp();
          float x[4];
          for (int r = 0; r < 4; ++r) x[r] = floats.vector(at[q] + offset + r * length).x[e];
          auto const rest = static_cast<std::uint32_t>(thread.here(0x80));  // nor factors kept
          for (int i = 0; i < 4; ++i) {
            float s[4];
            for (int r = 0; r < 4; ++r) s[r] = thread.sign_of_byte(bytes[r], i, rest);
            float const four = sum_of_four(x[0], x[1], x[2], x[3], s[1], s[2], s[3]);
            sums[4 * q + i][e] = std::fmaf(s[0], four, sums[4 * q + i][e]);
          }
        }
    }
    thread.synchronize();
  }
  int const index = thread.here(thread.index()), own = index / quarter * 4, column = index % quarter;
  if (own < order) {  // found again, for registers are short
    for (int q = 0; q < 4; ++q)
      for (int i = 0; i < 4; ++i)
        if (column + q * quarter < columns)
          floats.vector(at[q] + (own + i) * length) = {
              {sums[4 * q + i][0], sums[4 * q + i][1], sums[4 * q + i][2], sums[4 * q + i][3]}};
  }
  thread.synchronize();
}

/// The same for any length, one value at a time through a second copy of the tile.
template <class Thread>
DARTQUANT_DEVICE void multiply_base_plainly(Thread const& thread, RowTile const& tile, TileFloats floats) {
  auto* const copy = reinterpret_cast<float*>(thread.shared() + tile.copy_at);
  int const order = tile.order, length = 1 << tile.log_length;
  int const count = tile.tile_rows * tile.cols;
  for (int n = thread.index(); n < count; n += thread.count()) {
    int const row = n / tile.cols, col = n - row * tile.cols;
    int const block = col / (order * length), inside = col - block * order * length;
    int const i = inside / length;
    int const first = row * tile.pitch + block * order * length + (inside - i * length);
    float sum = -0.0f;
    for (int j = 0; j < order; j += 4) {
      float x[4], s[4];
      for (int r = 0; r < 4; ++r) {
        int const base_row = j + r < order ? j + r : j;
        x[r] = floats[first + base_row * length];
        s[r] = base_factor_negative(tile.base, order, base_row, i) ? -1.0f : 1.0f;
      }
      sum += s[0] * sum_of_rows(order - j, x, s);
    }
    copy[n] = sum;
  }
  thread.synchronize();
  for (int n = thread.index(); n < count; n += thread.count()) {
    int const row = n / tile.cols;
    floats[row * tile.pitch + (n - row * tile.cols)] = copy[n];
  }
  thread.synchronize();
}

}  // namespace dartquant::cuda::detail
