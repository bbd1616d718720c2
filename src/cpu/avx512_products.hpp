// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the products with 512-bit registers share: panels walked group by group and unpacked chunk by chunk.
// Everything is in an unnamed namespace, because files with different flags include this.

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // g++ 12 warns of its own header (its bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {
namespace {

/// Where a group of a panel lies.
struct Group {
  std::uint8_t const* lines;
  std::int64_t count;
  float const* scales;
  std::int64_t index;  ///< of the group's 16 zero points and sums, in groups
};

inline Group group_of(Panels const& w, std::int64_t panel, std::int64_t group) {
  std::int64_t const count = group + 1 < w.groups ? w.lines : w.last_lines;
  std::uint8_t const* const lines = w.data + panel * w.bytes + group * (w.lines + 1) * 64;
  return {lines, count, reinterpret_cast<float const*>(lines + count * 64), panel * w.groups + group};
}

inline __m512i broadcast_word(void const* from) {
  std::int32_t word;
  std::memcpy(&word, from, sizeof word);
  return _mm512_set1_epi32(word);
}

/// The columns of a panel that exist.
inline __mmask16 columns(std::int64_t cols, std::int64_t panel) {
  std::int64_t const left = cols - 16 * panel;
  return left >= 16 ? static_cast<__mmask16>(0xFFFF) : static_cast<__mmask16>((1u << left) - 1);
}

inline __m512i zero_points_of(Panels const& w, std::int64_t index) {
  if (w.zero_points == nullptr) return _mm512_set1_epi32(8);
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<__m128i const*>(w.zero_points + 16 * index)));
}

/// Some lines of one group. A group longer than a chunk is several pieces.
struct Piece {
  std::int64_t group, first, lines;  ///< first: of the group's lines
  bool begins, ends;                 ///< holds the group's first line, its last line
};

/// Consecutive pieces that are unpacked together, and all rows pass over them. Unpacked they lie in the
/// second-level cache: long chunks matter more, because every tile fills and drains the pipelines once.
inline constexpr std::int64_t chunk_lines = 512, chunk_pieces = 128;
struct Chunk {
  Piece pieces[chunk_pieces];
  std::int64_t count;
  std::int64_t channel;  ///< the first, as a position in a row of x
};

/// Where the next chunk begins.
struct Position {
  std::int64_t group = 0, line = 0, channel = 0;
};

/// At most `most_lines` <= chunk_lines lines.
inline Chunk next_chunk(Panels const& w, Position& at, std::int64_t most_lines) {
  Chunk chunk;
  chunk.count = 0;
  chunk.channel = at.channel;
  for (std::int64_t left = most_lines; left > 0 && at.group < w.groups && chunk.count < chunk_pieces;) {
    std::int64_t const lines = at.group + 1 < w.groups ? w.lines : w.last_lines;
    std::int64_t const rest = lines - at.line;
    if (rest > left && at.line == 0 && chunk.count > 0) break;  // do not cut what fits into the next chunk
    std::int64_t const taken = rest < left ? rest : left;
    chunk.pieces[chunk.count++] = {at.group, at.line, taken, at.line == 0, taken == rest};
    at.channel += 8 * taken;
    left -= taken;
    at.line = taken == rest ? 0 : at.line + taken;
    if (taken == rest) ++at.group;
  }
  return chunk;
}

// Always inlined, for the reason of prefetch.hpp.

/// Rows of Y are far apart: they are fetched for writing while the tile is multiplied.
[[gnu::always_inline]] inline void prefetch_rows(Product const& p, std::int64_t panel, int panels,
                                                 std::int64_t row, std::int64_t rows) {
  for (std::int64_t r = row; r < row + rows; ++r)
    for (int k = 0; k < panels; ++k) __builtin_prefetch(p.y + r * p.y_stride + 16 * (panel + k), 1);
}

/// The share of a tile in fetching what is unpacked next: the first lines of the panels that follow.
[[gnu::always_inline]] inline void prefetch_panels(Product const& p, std::int64_t panel, int panels,
                                                   std::int64_t tile, std::int64_t tiles) {
  std::int64_t const most = 64 * (chunk_lines + chunk_pieces);
  std::int64_t const bytes = p.w.bytes < most ? p.w.bytes : most;
  for (std::int64_t next = panel; next < panel + panels && next < p.w.count; ++next)
    for (std::int64_t at = bytes * tile / tiles / 64 * 64; at < bytes * (tile + 1) / tiles; at += 64)
      _mm_prefetch(reinterpret_cast<char const*>(p.w.data + next * p.w.bytes + at), _MM_HINT_T1);
}

/// y = fma(total, x_scale, bias), or total + bias where x has a scale per group.
inline void finish(Product const& p, std::int64_t row, std::int64_t panel, __m512 total) {
  __mmask16 const mask = columns(p.cols, panel);
  __m512 const bias =
      p.bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, p.bias + 16 * panel);
  __m512 const y = p.scales_per_group
                       ? _mm512_add_ps(total, bias)
                       : _mm512_fmadd_ps(total, _mm512_set1_ps(p.x_scales[row * p.x_scale_stride]), bias);
  _mm512_mask_storeu_ps(p.y + row * p.y_stride + 16 * panel, mask, y);
}

/// Adds a group to the totals: fma(float(dot - corrections), scale, total). `dot` is the sum of x nibble;
/// where the weights are symmetric and `started`, it began at -8 times the sum of x.
inline __attribute__((always_inline)) __m512 add_group(Product const& p, std::int64_t row, std::int64_t group,
                                                       std::int64_t index, float const* scales, __m512i dot,
                                                       __m512 total, bool started) {
  std::int64_t const at = row * p.w.groups + group;
  if (!started)
    dot = _mm512_sub_epi32(dot,
                           _mm512_mullo_epi32(zero_points_of(p.w, index), _mm512_set1_epi32(p.x_sums[at])));
  if (p.x_zero_points != nullptr)
    dot = _mm512_sub_epi32(dot, _mm512_mullo_epi32(_mm512_loadu_si512(p.w.sums + 16 * index),
                                                   _mm512_set1_epi32(p.x_zero_points[at])));
  __m512 scale = _mm512_loadu_ps(scales);
  if (p.scales_per_group)
    scale = _mm512_mul_ps(scale, _mm512_set1_ps(p.x_scales[row * p.x_scale_stride + group]));
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, total);
}

}  // namespace
}  // namespace dartquant::cpu
