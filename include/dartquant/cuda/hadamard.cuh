// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <dartquant/cuda/row_transform.cuh>

namespace dartquant::cuda {

/// Y <- transform(X), a tile of rows per block; one pass over memory: x and y bytes per value, and no others
/// but for the permutation (4 bytes per channel and tile, from the L2 cache). For what HadamardStrips
/// (row_strip.cuh) does not take: permutations, gains, other lengths and types.
///
/// Occupancy: the 64 values of a thread stay in registers through the last stages; ptxas uses about 120
/// registers, without spills (13.0, sm_80 and sm_90a), and is asked for at most 128. So 512 threads per
/// multiprocessor, in blocks of 128 that hold 8192 values (32 KiB of shared memory each), for wider rows of
/// 256 or 512. A thread has 128 bytes of 16-bit values under way before it uses the first: 64 KiB per
/// multiprocessor, several times bandwidth times latency.
template <int Threads>
struct HadamardRows {
  static constexpr int threads = Threads, blocks = 512 / Threads;
  RowTransformStep transform;
  StoredRows y;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    RowTile const& tile = transform.tile;
    auto const first_row =
        static_cast<std::uint32_t>(thread.block_x()) * static_cast<std::uint32_t>(tile.tile_rows);
    float v[16][4];
    Held const held = transform_rows(thread, transform, first_row, v);
    if (thread.index() >= tile.floats / 64) return;
    std::uint32_t tile_row = 0;
    int col = 0;
    float factor = 0;
    index_t row_at = 0;
    bool inside = false;
    unrolled<16>([&](auto index) {
      constexpr int j = index;
      if ((j & (tile.join - 1)) == 0) {
        auto const vector = static_cast<std::uint32_t>(held.vector(j));
        tile_row = tile.row_units.quotient(vector >> 3);
        col = 4 * static_cast<int>(vector) - static_cast<int>(tile_row) * tile.pitch;
        inside = static_cast<int>(tile_row) < tile.tile_rows && first_row + tile_row < tile.rows;
        if (inside) {
          RowPlace const place = place_of(tile, first_row + tile_row);
          row_at = place.row * y.stride + place.first;
          factor = factor_of(thread, transform, tile_row);
        }
      }
      if (inside && col < tile.cols)
        store_vector(thread, v[j], factor, y.data, y.type, row_at + col, tile.cols - col, y.vectors != 0);
      col += 4 << held.log_step;
    });
  }
};

}  // namespace dartquant::cuda
