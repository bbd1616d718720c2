// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <dartquant/cuda/row_tile.cuh>

namespace dartquant::cuda::detail {

/// Every block X [order, length] of the tile, length >= 4, becomes base^T X. A thread forms 4 outputs of 4
/// vectors of columns: 64 sums in registers, per row of the base one vector of signs (the same for a whole
/// warp) and four of values for 64 FMAs. A product with +-1 is exact, so the FMA is the addition of
/// portable.cpp, and -0 + x is x for every x. Precondition: tile.order / 4 * columns / 4 <= threads.
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
      signs[i] = output < order && tile.base[(first + j) * order + output] < 0 ? -1.0f : 1.0f;
    }
    thread.synchronize();
    for (int j = 0; works && j < rows; ++j) {
      Float4 const s = *reinterpret_cast<Float4 const*>(signs + j * width + outputs);
      for (int q = 0; q < 4; ++q) {
        Float4 const x = floats.vector(at[q] + (first + j) * length);
        for (int i = 0; i < 4; ++i)
          for (int e = 0; e < 4; ++e) sums[4 * q + i][e] = std::fmaf(s.x[i], x.x[e], sums[4 * q + i][e]);
      }
    }
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
    for (int j = 0; j < order; ++j) {
      float const x = floats[first + j * length];
      sum += tile.base[j * order + i] < 0 ? -x : x;
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
