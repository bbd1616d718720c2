// SPDX-License-Identifier: Apache-2.0
#pragma once

// Products of float activations with 512-bit registers: a nibble becomes the float level - zero point by a
// look-up in a register of 16 floats, whose index is the low 4 bits of each lane.

#include "cpu/avx512_products.hpp"

namespace dartquant::cpu {
namespace {

/// Nibbles to floats, for the 16 outputs of a panel.
struct Decoder {
  __m512 table;  ///< of 0..15: nibble - 8 where the weights are symmetric, else the nibble
  __m512 zero;   ///< what is to be subtracted then
  bool symmetric;

  Decoder(Panels const& w, std::int64_t index) : symmetric(w.zero_points == nullptr) {
    __m512 const numbers = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    table = symmetric ? _mm512_sub_ps(numbers, _mm512_set1_ps(8)) : numbers;
    zero = _mm512_cvtepi32_ps(zero_points_of(w, index));
  }
  [[nodiscard]] __m512 operator()(__m512i lanes) const {
    __m512 const value = _mm512_permutexvar_ps(lanes, table);
    return symmetric ? value : _mm512_sub_ps(value, zero);
  }
};

/// The floats of channel `t` < 8 of a line.
template <int t>
inline __m512 channel_of(Decoder const& decode, __m512i line) {
  constexpr int shift = t < 4 ? 8 * t : 8 * (t - 4) + 4;
  if constexpr (shift == 0) return decode(line);
  else return decode(_mm512_srli_epi32(line, shift));
}

inline void finish(FloatProduct const& p, std::int64_t row, std::int64_t panel, __m512 total) {
  __mmask16 const mask = columns(p.cols, panel);
  if (p.bias != nullptr) total = _mm512_add_ps(total, _mm512_maskz_loadu_ps(mask, p.bias + 16 * panel));
  _mm512_mask_storeu_ps(p.y + row * p.y_stride + 16 * panel, mask, total);
}

constexpr std::int64_t float_prefetch_bytes = 1024;

/// sums[r][t % 2] += x[r][t] weights of channel t, for channels t ... 7 of a line.
template <int rows, int t = 0>
inline __attribute__((always_inline)) void add_channels(__m512 (&sums)[rows][2], Decoder const& decode,
                                                        __m512i line, float const* x, std::int64_t stride) {
  if constexpr (t < 8) {
    __m512 const w = channel_of<t>(decode, line);
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
      sums[r][t % 2] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[r * stride + t]), sums[r][t % 2]);
    add_channels<rows, t + 1>(sums, decode, line, x, stride);
  }
}

/// Few rows: one panel is streamed once.
template <int rows>
void stream_panel(FloatProduct const& p, std::int64_t panel) {
  __m512 totals[rows];
  for (__m512& total : totals) total = _mm512_setzero_ps();
  float const* x = p.x;
  for (std::int64_t group = 0; group < p.w.groups; ++group) {
    Group const g = group_of(p.w, panel, group);
    Decoder const decode(p.w, g.index);
    __m512 sums[rows][2];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    for (std::int64_t line = 0; line < g.count; ++line, x += 8) {
      std::uint8_t const* const from = g.lines + 64 * line;
      _mm_prefetch(reinterpret_cast<char const*>(from + float_prefetch_bytes), _MM_HINT_T0);
      add_channels<rows>(sums, decode, _mm512_load_si512(from), x, p.x_stride);
    }
    __m512 const scales = _mm512_load_ps(g.scales);
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
      totals[r] = _mm512_fmadd_ps(_mm512_add_ps(sums[r][0], sums[r][1]), scales, totals[r]);
  }
  for (int r = 0; r < rows; ++r) finish(p, r, panel, totals[r]);
}

template <int rows>
void stream_panels(FloatProduct const& p) {
  for (std::int64_t panel = 0; panel < p.w.count; ++panel) stream_panel<rows>(p, panel);
}

// ---- many rows: chunks of panels are decoded once ------------------------------------------------------

constexpr std::int64_t float_chunk_lines = 64, float_tile_rows = 8;
constexpr int float_panels = 2;

struct FloatScratch {
  alignas(64) float weights[8 * float_chunk_lines][float_panels][16];  ///< [channel][panel]
  alignas(64) float totals[float_row_block][float_panels][16];
};
static_assert(sizeof(FloatScratch) <= scratch_bytes);

template <int t = 0>
inline void decode_line(Decoder const& decode, __m512i line, float* to) {
  if constexpr (t < 8) {
    _mm512_store_ps(to + t * float_panels * 16, channel_of<t>(decode, line));
    decode_line<t + 1>(decode, line, to);
  }
}

inline void decode_chunk(FloatProduct const& p, std::int64_t panel, Chunk const& chunk, float* to) {
  for (std::int64_t i = 0; i < chunk.count; ++i) {
    Piece const& piece = chunk.pieces[i];
    Group const g = group_of(p.w, panel, piece.group);
    Decoder const decode(p.w, g.index);
    for (std::int64_t line = piece.first; line < piece.first + piece.lines; ++line) {
      decode_line(decode, _mm512_load_si512(g.lines + 64 * line), to);
      to += 8 * float_panels * 16;
    }
  }
}

/// totals[r][k] += scales[k] (x[r] . weights of panel k), piece by piece of the chunk.
template <int rows, int panels>
void multiply_float_tile(FloatProduct const& p, FloatScratch& scratch, Chunk const& chunk, std::int64_t panel,
                         std::int64_t row) {
  float const* x = p.x + row * p.x_stride + chunk.channel;
  float const* weights = scratch.weights[0][0];
  for (std::int64_t i = 0; i < chunk.count; ++i) {
    Piece const& piece = chunk.pieces[i];
    __m512 sums[rows][panels];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
      for (int k = 0; k < panels; ++k) sums[r][k] = _mm512_setzero_ps();
    for (float const* const end = x + 8 * piece.lines; x != end; ++x, weights += float_panels * 16) {
      __m512 w[panels];
#pragma GCC unroll 2
      for (int k = 0; k < panels; ++k) w[k] = _mm512_load_ps(weights + 16 * k);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        __m512 const value = _mm512_set1_ps(x[r * p.x_stride]);
#pragma GCC unroll 2
        for (int k = 0; k < panels; ++k) sums[r][k] = _mm512_fmadd_ps(w[k], value, sums[r][k]);
      }
    }
#pragma GCC unroll 2
    for (int k = 0; k < panels; ++k) {
      __m512 const scales = _mm512_load_ps(group_of(p.w, panel + k, piece.group).scales);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        float* const total = scratch.totals[row + r][k];
        _mm512_store_ps(total, _mm512_fmadd_ps(sums[r][k], scales, _mm512_load_ps(total)));
      }
    }
  }
}

template <int panels>
void multiply_float_rows(FloatProduct const& p, FloatScratch& scratch, Chunk const& chunk, std::int64_t panel,
                         std::int64_t row, std::int64_t rows) {
  switch (rows) {
    case 8:
      return multiply_float_tile<8, panels>(p, scratch, chunk, panel, row);
    case 7:
      return multiply_float_tile<7, panels>(p, scratch, chunk, panel, row);
    case 6:
      return multiply_float_tile<6, panels>(p, scratch, chunk, panel, row);
    case 5:
      return multiply_float_tile<5, panels>(p, scratch, chunk, panel, row);
    default:  // tiles are of equal heights, and there are more than 4 rows
      return multiply_float_tile<4, panels>(p, scratch, chunk, panel, row);
  }
}

template <int panels>
void multiply_float_panels(FloatProduct const& p, std::int64_t panel) {
  auto& scratch = *reinterpret_cast<FloatScratch*>(p.scratch);
  std::memset(scratch.totals, 0, static_cast<std::size_t>(p.rows) * sizeof scratch.totals[0]);
  std::int64_t const tiles = (p.rows - 1) / float_tile_rows + 1;
  std::int64_t const height = p.rows / tiles, taller = p.rows % tiles;
  for (Position at; at.group < p.w.groups;) {
    Chunk const chunk = next_chunk(p.w, at, float_chunk_lines);
    for (int k = 0; k < panels; ++k) decode_chunk(p, panel + k, chunk, scratch.weights[0][k]);
    std::int64_t row = 0;
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      std::int64_t const rows = height + (tile < taller ? 1 : 0);
      multiply_float_rows<panels>(p, scratch, chunk, panel, row, rows);
      row += rows;
    }
  }
  for (std::int64_t row = 0; row < p.rows; ++row)
    for (int k = 0; k < panels; ++k) finish(p, row, panel + k, _mm512_load_ps(scratch.totals[row][k]));
}

void multiply_float(FloatProduct const* p) {
  switch (p->rows) {
    case 1:
      return stream_panels<1>(*p);
    case 2:
      return stream_panels<2>(*p);
    case 3:
      return stream_panels<3>(*p);
    case 4:
      return stream_panels<4>(*p);
    default:
      break;
  }
  std::int64_t panel = 0;
  for (; panel + 2 <= p->w.count; panel += 2) multiply_float_panels<2>(*p, panel);
  if (panel < p->w.count) multiply_float_panels<1>(*p, panel);
}

}  // namespace
}  // namespace dartquant::cpu
