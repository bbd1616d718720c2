// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/platform.hpp>

/// What the factorisations of triangle_block.cuh keep their matrices in, and the product of two tiles.
namespace dartquant::cuda {

inline constexpr int tile_order = 16;

/// A lower triangle of `count` x `count` tiles, those of a row of tiles side by side. The rows of a tile are
/// 16 bytes further apart than they are long, so that accesses of 16 bytes down a column do not collide in
/// the banks of shared memory.
struct TileTriangle {
  static constexpr int row = tile_order + 2, size = tile_order * row;
  double* data;
  int count;

  [[nodiscard]] DARTQUANT_HD static constexpr int tiles(int count) { return count * (count + 1) / 2; }
  [[nodiscard]] DARTQUANT_HD double* tile(int down, int across) const {
    return data + (down * (down + 1) / 2 + across) * size;
  }
  [[nodiscard]] DARTQUANT_HD double& operator()(int i, int j) const {
    return tile(i / tile_order, j / tile_order)[i % tile_order * row + j % tile_order];
  }
};

/// From row to row of W, of an order that is a multiple of tile_order: the 8 columns of 4 rows that a tensor
/// instruction takes lie in different banks of shared memory.
[[nodiscard]] DARTQUANT_HD constexpr int square_stride(int order) { return order + 8; }

/// Two neighbours, which one instruction loads or stores.
struct alignas(16) Pair {
  double values[2];
  DARTQUANT_HD double operator[](int i) const { return values[i]; }
  DARTQUANT_HD double& operator[](int i) { return values[i]; }
};
[[nodiscard]] DARTQUANT_DEVICE inline Pair load_pair(double const* from) {
  return *reinterpret_cast<Pair const*>(from);
}

/// Sums of a tile [16, 16] as the lanes of a warp hold them for multiply_doubles: sums[i][j][e] of lane 4 r +
/// q belongs to row 8 i + r and column 8 j + 2 q + e.
using TileSums = double[2][2][2];

/// sums += a b for four columns of a tile A and four rows of a tile B: of this lane's rows and columns.
template <class Thread>
DARTQUANT_DEVICE void add_products(Thread const& thread, double const (&a)[2], double const (&b)[2],
                                   TileSums& sums) {
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j) multiply_doubles(thread, sums[i][j], a[i], b[j]);
}

}  // namespace dartquant::cuda
