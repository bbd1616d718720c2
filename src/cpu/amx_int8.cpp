// SPDX-License-Identifier: Apache-2.0
// Products with AMX tiles. Weights are unpacked to level - zero point, signed bytes, so that nothing is left
// to correct for them: 16 registers of [16 outputs][4 channels] are a tile of 64 channels.

#include "cpu/avx512_products.hpp"

namespace dartquant::cpu {
namespace {

constexpr std::int64_t tile_rows = 16, tile_channels = 64;
constexpr int pair = 2;  ///< panels and tiles of rows that are multiplied together

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
  /// Of a group that goes on in the next chunk.
  alignas(64) std::int32_t sums[row_block][pair][16];
  /// Of one pair of row tiles and a group, and of the group before.
  alignas(64) std::int32_t ended[2][pair * tile_rows][pair][16];
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

/// Two tiles of rows by two panels. Without a second tile of rows or panel the first is taken twice.
struct Block {
  std::int8_t const *x0, *x1;
  std::int64_t x_stride;
  std::int8_t const *w0, *w1;
  std::int64_t rows0, rows1;
};

/// Sums of the row tiles in memory, [row][panel][16] each.
struct Sums {
  std::int32_t *of0, *of1;
};

void load_sums(Sums const& s) {
  _tile_loadd(0, s.of0, 128);
  _tile_loadd(1, s.of0 + 16, 128);
  _tile_loadd(2, s.of1, 128);
  _tile_loadd(3, s.of1 + 16, 128);
}

void store_sums(Sums const& s) {
  _tile_stored(0, s.of0, 128);
  _tile_stored(1, s.of0 + 16, 128);
  _tile_stored(2, s.of1, 128);
  _tile_stored(3, s.of1 + 16, 128);
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

/// The sums of the block over `channels` channels of one group, on top of `from` if the group began before.
void multiply_piece(Block const& b, Shape& shape, std::int64_t channel, std::int64_t channels,
                    Sums const* from, Sums const& to) {
  std::int64_t const whole = channels / tile_channels * tile_channels;
  shape.require(b.rows0, b.rows1, whole > 0 ? tile_channels : channels);
  if (from != nullptr) load_sums(*from);
  else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (std::int64_t at = 0; at < whole; at += tile_channels) multiply_tiles(b, channel + at);
  if (whole > 0 && whole < channels) {  // shaping the tiles clears them
    store_sums(to);
    shape.require(b.rows0, b.rows1, channels - whole);
    load_sums(to);
  }
  if (whole < channels) multiply_tiles(b, channel + whole);
}

/// Adds the sums [rows][2][16] of a group to the totals of rows from `row` on.
void add_sums(Product const& p, Scratch& scratch, std::int64_t panel, std::int64_t group, std::int64_t row,
              std::int64_t rows, std::int32_t const* sums) {
  bool const plain = p.x_zero_points == nullptr && !p.scales_per_group;
  for (int k = 0; k < pair && panel + k < p.w.count; ++k) {
    Group const g = group_of(p.w, panel + k, group);
    __m512 const scales = _mm512_load_ps(g.scales);
    std::int32_t const* const from = sums + 16 * k;
    float* const to = scratch.totals[row][k];
    if (plain)
#pragma GCC unroll 4
      for (std::int64_t at = 0; at < 16 * pair * rows; at += 16 * pair) {
        __m512 const sum = _mm512_cvtepi32_ps(_mm512_load_si512(from + at));
        _mm512_store_ps(to + at, _mm512_fmadd_ps(sum, scales, _mm512_load_ps(to + at)));
      }
    else
      for (std::int64_t r = 0; r < rows; ++r) {
        std::int64_t const at = 16 * pair * r;
        __m512i const sum = _mm512_load_si512(from + at);
        _mm512_store_ps(to + at,
                        add_group(p, row + r, group, g.index, g.scales, sum, _mm512_load_ps(to + at), true));
      }
  }
}

/// One pair of row tiles over the chunk. The sums of a group are scaled while the tiles multiply the next
/// one.
void multiply_rows(Product const& p, Scratch& scratch, Chunk const& chunk, Shape& shape, std::int64_t panel,
                   std::int64_t row) {
  std::int64_t const left = p.rows - row;
  bool const second = left > tile_rows;
  std::int64_t const rows0 = second ? tile_rows : left;
  std::int64_t const rows1 = !second ? left : left < 2 * tile_rows ? left - tile_rows : tile_rows;
  std::int64_t const rows = second ? rows0 + rows1 : rows0, shift = second ? tile_rows : 0;
  std::int8_t const* const x = p.x + row * p.x_stride + chunk.channel;
  Block const b{x,
                x + shift * p.x_stride,
                p.x_stride,
                scratch.weights[0][0],
                scratch.weights[panel + 1 < p.w.count ? 1 : 0][0],
                rows0,
                rows1};
  Sums const carried{scratch.sums[row][0], scratch.sums[row + shift][0]};
  std::int64_t channel = 0, waiting = -1;  // the group whose sums wait
  std::int32_t const* waiting_sums = nullptr;
  for (std::int64_t i = 0; i < chunk.count; ++i) {
    Piece const& piece = chunk.pieces[i];
    auto& ended = scratch.ended[i % 2];
    Sums const to = piece.ends ? Sums{ended[0][0], ended[shift][0]} : carried;
    multiply_piece(b, shape, channel, 8 * piece.lines, piece.begins ? nullptr : &carried, to);
    channel += 8 * piece.lines;
    if (waiting >= 0) add_sums(p, scratch, panel, waiting, row, rows, waiting_sums);
    store_sums(to);
    waiting = piece.ends ? piece.group : -1;
    waiting_sums = ended[0][0];
  }
  if (waiting >= 0) add_sums(p, scratch, panel, waiting, row, rows, waiting_sums);
}

void multiply_panels(Product const& p, Shape& shape, std::int64_t panel) {
  auto& scratch = *reinterpret_cast<Scratch*>(p.scratch);
  int const panels = panel + 1 < p.w.count ? 2 : 1;
  std::memset(scratch.totals, 0, static_cast<std::size_t>(p.rows) * sizeof scratch.totals[0]);
  for (Position at; at.group < p.w.groups;) {
    Chunk const chunk = next_chunk(p.w, at, chunk_lines);
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

}  // namespace

ProductKernels const amx_int8_products{multiply};

}  // namespace dartquant::cpu
