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

/// Whether the factor of a row is -1, for the output whose signs begin at `base`.
DARTQUANT_HD inline bool base_factor_negative(std::int8_t const* base, int order, int row) {
  auto const negative = [&](int other) { return base[other * order] < 0; };
  int const inside = row % 4;
  bool const own = negative(row);
  return inside == 0 ? own : own != negative(inside == 3 ? row - 1 : row - inside);
}

/// The sum but for s0, of as many of four rows as there are. A product with +-1 is exact, so an FMA is a sum.
DARTQUANT_HD inline float sum_of_four(float x0, float x1, float x2, float x3, float s01, float s02, float s23,
                                      int rows) {
  if (rows == 1) return x0;
  float const two = std::fmaf(s01, x1, x0);
  if (rows == 2) return two;
  return std::fmaf(s02, rows == 3 ? x2 : std::fmaf(s23, x3, x2), two);
}

/// Every block X [order, length] of the tile, length >= 4, becomes base^T X. A thread forms 4 outputs of 4
/// vectors of columns: 64 sums in registers, per row of the base one vector of signs (the same for a whole
/// warp) and four of values for 64 FMAs. -0 + x is x for every x. Precondition: tile.order / 4 * columns / 4
/// <= threads.
template <class Thread>
DARTQUANT_DEVICE void multiply_base(Thread const& thread, RowTile const& tile, TileFloats floats) {
  auto* const signs = reinterpret_cast<float*>(thread.shared() + tile.signs_at);
  int const order = tile.order, width = (order + 3) / 4 * 4;
  int const length = static_cast<int>(tile.block_columns.divisor);  // in vectors
  int const columns = tile.tile_rows * static_cast<int>(tile.row_blocks.divisor) * length;
  int const quarter = (columns + 3) / 4;
  int const outputs = thread.index() / quarter * 4;
  bool const works = outputs < width;
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
    for (int i = thread.index(); i < rows * width; i += thread.count()) {
      int const j = i / width, output = i - j * width;
      signs[i] = output < order && base_factor_negative(tile.base + output, order, first + j) ? -1.0f : 1.0f;
    }
    thread.synchronize();
    auto const add = [&](int j, int left) {  // from row first + j on, of which there are `left`
      Float4 s[4];
#pragma unroll
      for (int r = 0; r < 4; ++r)
        s[r] = *reinterpret_cast<Float4 const*>(signs + (r < left ? j + r : j) * width + outputs);
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        Float4 x[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) x[r] = floats.vector(at[q] + (first + (r < left ? j + r : j)) * length);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            float const four = sum_of_four(x[0].x[e], x[1].x[e], x[2].x[e], x[3].x[e], s[1].x[i], s[2].x[i],
                                           s[3].x[i], left);
            sums[4 * q + i][e] = std::fmaf(s[0].x[i], four, sums[4 * q + i][e]);
          }
      }
    };
    int const whole = works ? rows / 4 * 4 : 0;
    for (int j = 0; j < whole; j += 4) add(j, 4);
    if (works && whole < rows) add(whole, rows - whole);
    thread.synchronize();
  }
  for (int q = 0; q < 4; ++q)
    for (int i = 0; i < 4; ++i)
      if (works && outputs + i < order && thread.index() % quarter + q * quarter < columns)
        floats.vector(at[q] + (outputs + i) * length) = {
            {sums[4 * q + i][0], sums[4 * q + i][1], sums[4 * q + i][2], sums[4 * q + i][3]}};
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
        s[r] = base_factor_negative(tile.base + i, order, base_row) ? -1.0f : 1.0f;
      }
      sum += s[0] * sum_of_four(x[0], x[1], x[2], x[3], s[1], s[2], s[3], order - j);
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
