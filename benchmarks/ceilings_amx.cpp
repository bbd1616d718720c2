// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "ceilings_loops.hpp"

namespace dartquant::bench {

int loop_tiles(std::int64_t iterations) {
  struct alignas(64) Shape {
    std::uint8_t palette, start_row, reserved[14];
    std::uint16_t column_bytes[16];
    std::uint8_t rows[16];
  } shape{};
  shape.palette = 1;
  for (int i = 0; i < 8; ++i) {
    shape.column_bytes[i] = 64;
    shape.rows[i] = 16;
  }
  alignas(64) std::uint8_t data[1024];
  for (int i = 0; i < 1024; ++i) data[i] = static_cast<std::uint8_t>(i & 7);
  alignas(64) std::int32_t out[256];
  _tile_loadconfig(&shape);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, data, 64);
  _tile_loadd(5, data, 64);
  _tile_loadd(6, data, 64);
  _tile_loadd(7, data, 64);
  for (std::int64_t n = 0; n < iterations; ++n) {
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
  }
  int total = 0;
  _tile_stored(0, out, 64);
  total += out[3];
  _tile_stored(1, out, 64);
  total += out[5];
  _tile_stored(2, out, 64);
  total += out[7];
  _tile_stored(3, out, 64);
  total += out[9];
  _tile_release();
  return total;
}

}  // namespace dartquant::bench
