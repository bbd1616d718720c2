// SPDX-License-Identifier: Apache-2.0
// Products with AMX tiles. Weights are unpacked to level - zero point, signed bytes, so that nothing is left
// to correct for them: 16 registers of [16 outputs][4 channels] are a tile of 64 channels.

#include "cpu/avx512_products.hpp"

namespace dartquant::cpu {
namespace {

constexpr std::int64_t tile_rows = 16, tile_channels = 64;
constexpr std::int64_t chunk_of_tiles = 128;  ///< lines: two unpacked panels stay in the first-level cache
constexpr int pair = 2;                       ///< panels and tiles of rows that are multiplied together

/// Which shapes the eight tiles have.
struct alignas(64) TileShapes {
  std::uint8_t palette, start_row, reserved[14];
  std::uint16_t column_bytes[16];
  std::uint8_t rows[16];
};

/// Tiles 0..3 hold sums [row tile][panel], 4 and 5 rows of x, 6 and 7 panels of weights.
void configure(std::int64_t first_rows, std::int64_t second_rows, std::int64_t channels) {
  TileShapes shapes{};
  shapes.palette = 1;
  for (int i = 0; i < 4; ++i) {
    shapes.column_bytes[i] = 64;
    shapes.rows[i] = static_cast<std::uint8_t>(i < 2 ? first_rows : second_rows);
  }
  for (int i = 0; i < 2; ++i) {
    shapes.column_bytes[4 + i] = static_cast<std::uint16_t>(channels);
    shapes.rows[4 + i] = static_cast<std::uint8_t>(i == 0 ? first_rows : second_rows);
    shapes.column_bytes[6 + i] = 64;
    shapes.rows[6 + i] = static_cast<std::uint8_t>(channels / 4);
  }
  _tile_loadconfig(&shapes);
}

struct Scratch {
  /// For every piece and panel its steps of four channels, [16 outputs][4]; whole tiles for every panel.
  alignas(64) std::int8_t weights[pair][2 * chunk_lines][64];
  alignas(64) float totals[row_block][pair][16];
  alignas(
      64) std::int32_t sums[row_block][pair][16];  ///< of one pair of row tiles, or of a group that goes on
};
static_assert(sizeof(Scratch) <= scratch_bytes);

/// The bytes of zero points that stand four times in every 32 bits.
inline __m512i zero_bytes(Panels const& w, std::int64_t index) {
  return _mm512_mullo_epi32(zero_points_of(w, index), _mm512_set1_epi32(0x01010101));
}

void unpack(Product const& p, std::int64_t panel, Chunk const& chunk, std::int8_t* to) {
  __m512i const low = _mm512_set1_epi8(15);
  for (std::int64_t i = 0; i < chunk.count; ++i) {
    Piece const& piece = chunk.pieces[i];
    Group const g = group_of(p.w, panel, piece.group);
    __m512i const zero = zero_bytes(p.w, g.index);
    for (std::int64_t line = piece.first; line < piece.first + piece.lines; ++line, to += 128) {
      __m512i const both = _mm512_load_si512(g.lines + line * 64);
      __m512i const even = _mm512_and_si512(both, low);
      __m512i const odd = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
      _mm512_store_si512(to, _mm512_sub_epi8(even, zero));
      _mm512_store_si512(to + 64, _mm512_sub_epi8(odd, zero));
    }
  }
}

/// Two tiles of rows by two panels, `lines` lines of one group from `line` of the chunk on: adds to `sums`
/// [32][2][16], or sets them. Without a second tile of rows or panel the first is taken twice.
struct Block {
  std::int8_t const *x0, *x1;
  std::int64_t x_stride;
  std::int8_t const *w0, *w1;
  std::int32_t *sums0, *sums1;  ///< of the row tiles
};

void load_sums(Block const& b, bool begins) {
  if (begins) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, b.sums0, 128);
    _tile_loadd(1, b.sums0 + 16, 128);
    _tile_loadd(2, b.sums1, 128);
    _tile_loadd(3, b.sums1 + 16, 128);
  }
}

void store_sums(Block const& b) {
  _tile_stored(0, b.sums0, 128);
  _tile_stored(1, b.sums0 + 16, 128);
  _tile_stored(2, b.sums1, 128);
  _tile_stored(3, b.sums1 + 16, 128);
}

inline void multiply_tiles(Block const& b, std::int64_t channel) {
  _tile_loadd(6, b.w0 + 16 * channel, 64);
  _tile_loadd(4, b.x0 + channel, b.x_stride);
  _tile_loadd(7, b.w1 + 16 * channel, 64);
  _tile_loadd(5, b.x1 + channel, b.x_stride);
  _tile_dpbssd(0, 4, 6);
  _tile_dpbssd(1, 4, 7);
  _tile_dpbssd(2, 5, 6);
  _tile_dpbssd(3, 5, 7);
}

/// What the tiles are shaped for, so that they are not shaped again in vain: it costs as much as a product.
struct Shape {
  std::int64_t first_rows, second_rows, channels;
  void require(std::int64_t first, std::int64_t second, std::int64_t wanted) {
    if (first == first_rows && second == second_rows && wanted == channels) return;
    configure(first, second, wanted);
    *this = {first, second, wanted};
  }
};

/// The sums of rows [first, first + 16) and those of the second tile, over one piece.
void multiply_piece(Block const& b, Shape& shape, std::int64_t first, std::int64_t second,
                    std::int64_t channel, std::int64_t channels, bool begins) {
  std::int64_t const whole = channels / tile_channels * tile_channels;
  shape.require(first, second, whole > 0 ? tile_channels : channels);
  load_sums(b, begins);
  for (std::int64_t at = 0; at < whole; at += tile_channels) multiply_tiles(b, channel + at);
  if (whole > 0 && whole < channels) {  // shaping the tiles clears them
    store_sums(b);
    shape.require(first, second, channels - whole);
    load_sums(b, false);
  }
  if (whole < channels) multiply_tiles(b, channel + whole);
  store_sums(b);
}

/// Adds a group of one row to the totals of one panel.
inline __m512 scaled(Product const& p, std::int64_t row, std::int64_t group, std::int64_t index,
                     float const* scales, __m512i dot, __m512 total) {
  return add_group(p, row, group, index, scales, dot, total, true);
}

/// One pair of row tiles over the chunk.
void multiply_rows(Product const& p, Scratch& scratch, Chunk const& chunk, Shape& shape, std::int64_t panel,
                   std::int64_t row) {
  std::int64_t const left = p.rows - row;
  std::int64_t const first = left < tile_rows ? left : tile_rows;
  std::int64_t const second = left >= 2 * tile_rows ? tile_rows : left > tile_rows ? left - tile_rows : first;
  std::int64_t const second_row = left > tile_rows ? row + tile_rows : row;
  bool const two_panels = panel + 1 < p.w.count;
  bool const plain = p.x_zero_points == nullptr && !p.scales_per_group;
  std::int8_t const* const x = p.x + chunk.channel;
  Block const b{x + row * p.x_stride,
                x + second_row * p.x_stride,
                p.x_stride,
                scratch.weights[0][0],
                scratch.weights[two_panels ? 1 : 0][0],
                scratch.sums[row][0],
                scratch.sums[second_row][0]};
  std::int64_t channel = 0;
  std::int64_t const last = left < 2 * tile_rows ? p.rows : row + 2 * tile_rows;
  for (std::int64_t i = 0; i < chunk.count; ++i) {
    Piece const& piece = chunk.pieces[i];
    multiply_piece(b, shape, first, second, channel, 8 * piece.lines, piece.begins);
    channel += 8 * piece.lines;
    if (!piece.ends) continue;
    for (int k = 0; k < (two_panels ? 2 : 1); ++k) {
      Group const g = group_of(p.w, panel + k, piece.group);
      __m512 const scales = _mm512_load_ps(g.scales);
      for (std::int64_t r = row; r < last; ++r) {
        __m512 total = _mm512_load_ps(scratch.totals[r][k]);
        __m512i const dot = _mm512_load_si512(scratch.sums[r][k]);
        if (plain) total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scales, total);
        else total = scaled(p, r, piece.group, g.index, g.scales, dot, total);
        _mm512_store_ps(scratch.totals[r][k], total);
      }
    }
  }
}

void multiply_panels(Product const& p, Shape& shape, std::int64_t panel) {
  auto& scratch = *reinterpret_cast<Scratch*>(p.scratch);
  int const panels = panel + 1 < p.w.count ? 2 : 1;
  std::memset(scratch.totals, 0, static_cast<std::size_t>(p.rows) * sizeof scratch.totals[0]);
  for (Position at; at.group < p.w.groups;) {
    Chunk const chunk = next_chunk(p.w, at, chunk_of_tiles);
    bool const last = at.group == p.w.groups;
    for (int k = 0; k < panels; ++k) unpack(p, panel + k, chunk, scratch.weights[k][0]);
    std::int64_t const tiles = (p.rows - 1) / (2 * tile_rows) + 1;
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      std::int64_t const row = tile * 2 * tile_rows;
      std::int64_t const rows = p.rows - row < 2 * tile_rows ? p.rows - row : 2 * tile_rows;
      if (last) {
        prefetch_rows(p, panel, panels, row, rows);
        prefetch_panels(p, panel + pair, pair, tile, tiles);
      }
      multiply_rows(p, scratch, chunk, shape, panel, row);
      if (last)
        for (std::int64_t r = row; r < row + rows; ++r)
          for (int k = 0; k < panels; ++k) finish(p, r, panel + k, _mm512_load_ps(scratch.totals[r][k]));
    }
  }
}

constexpr std::int64_t least_rows = 12;  ///< below, unpacking and shaping cost more than the tiles win
constexpr std::int64_t least_lines = 4;  ///< shorter groups leave the tiles too empty

void multiply(Product const* p) {
  if (p->rows < least_rows || p->w.lines < least_lines) return avx512_vnni_products.multiply(p);
  Shape shape{0, 0, 0};
  for (std::int64_t panel = 0; panel < p->w.count; panel += pair) multiply_panels(*p, shape, panel);
  _tile_release();
}

void multiply_float(FloatProduct const* p) { avx512_vnni_products.multiply_float(p); }

}  // namespace

ProductKernels const amx_int8_products{multiply, multiply_float};

}  // namespace dartquant::cpu
