// SPDX-License-Identifier: Apache-2.0
#pragma once

// The product of floats with packed weights in AVX2. Few rows turn the nibbles into floats in registers; more
// rows share a piece of the weights that was turned into floats in memory.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/avx2_products.hpp"
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {
namespace {

/// Nibbles as floats. A float of four significant bits is its two upper bytes, and each of them is one
/// vpshufb away.
struct Table {
  __m256i low, high;  ///< third and fourth byte
};

Table table_of(bool symmetric) {  // nibble - 8, or the nibble
  __m128i const low =
      symmetric ? _mm_setr_epi8(0, -32, -64, -96, -128, 64, 0, -128, 0, -128, 0, 64, -128, -96, -64, -32)
                : _mm_setr_epi8(0, -128, 0, 64, -128, -96, -64, -32, 0, 16, 32, 48, 64, 80, 96, 112);
  __m128i const high =
      symmetric ? _mm_setr_epi8(-63, -64, -64, -64, -64, -64, -64, -65, 0, 63, 64, 64, 64, 64, 64, 64)
                : _mm_setr_epi8(0, 63, 64, 64, 64, 64, 64, 64, 65, 65, 65, 65, 65, 65, 65, 65);
  return {_mm256_broadcastsi128_si256(low), _mm256_broadcastsi128_si256(high)};
}

/// Two activations in every lane.
__m256 broadcast_two(float const* x) {
  std::int64_t two;
  std::memcpy(&two, x, sizeof two);
  return _mm256_castsi256_ps(_mm256_set1_epi64x(two));
}

/// The lanes of a register of weights: two channels of columns 0, 1, 4, 5 (lower) or 2, 3, 6, 7 (upper).
struct Weights {
  __m256 lower, upper;
};

/// Channels 0, 1 (pair 0) or 2, 3 (pair 1) out of the 16-bit halves of floats.
Weights weights_of(__m256i lower, __m256i upper, int pair) {
  __m256i const mask = _mm256_set1_epi32(-65536);
  return {_mm256_castsi256_ps(pair == 0 ? _mm256_slli_epi32(lower, 16) : _mm256_and_si256(lower, mask)),
          _mm256_castsi256_ps(pair == 0 ? _mm256_slli_epi32(upper, 16) : _mm256_and_si256(upper, mask))};
}

/// dots [R] = X [R, 8 count] times 8 columns of the lines.
template <int R, bool asymmetric>
void dot_float(std::uint8_t const* lines, std::int64_t count, float const* x, std::int64_t stride,
               Table table, Weights zeros, __m256 (&dots)[R]) {
  constexpr int chains = R <= 2 ? 2 : 1;  // an FMA takes four cycles and two start in each
  // Bytes 0, 2, 1, 3 of every column, so that a pair of channels shares the lower halves of two lanes.
  __m256i const order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15));
  Weights sums[chains][R];
  for (auto& chain : sums)
    for (Weights& sum : chain) sum = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (std::int64_t line = 0; line < count; ++line, lines += 64, x += 8) {
    PackedLines::fetch(lines);
    __m256i const bytes = _mm256_shuffle_epi8(load(lines), order);
    for (int half = 0; half < 2; ++half) {
      __m256i const nibbles =
          _mm256_and_si256(half == 0 ? bytes : _mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(15));
      __m256i const low = _mm256_shuffle_epi8(table.low, nibbles);
      __m256i const high = _mm256_shuffle_epi8(table.high, nibbles);
      __m256i const lower = _mm256_unpacklo_epi8(low, high), upper = _mm256_unpackhi_epi8(low, high);
      for (int pair = 0; pair < 2; ++pair) {
        Weights w = weights_of(lower, upper, pair);
        if constexpr (asymmetric)
          w = {_mm256_sub_ps(w.lower, zeros.lower), _mm256_sub_ps(w.upper, zeros.upper)};
        for (int r = 0; r < R; ++r) {
          __m256 const two = broadcast_two(x + r * stride + 4 * half + 2 * pair);
          Weights& sum = sums[pair % chains][r];
          sum = {_mm256_fmadd_ps(w.lower, two, sum.lower), _mm256_fmadd_ps(w.upper, two, sum.upper)};
        }
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    Weights sum = sums[0][r];
    if constexpr (chains == 2)
      sum = {_mm256_add_ps(sum.lower, sums[1][r].lower), _mm256_add_ps(sum.upper, sums[1][r].upper)};
    dots[r] = _mm256_hadd_ps(sum.lower, sum.upper);
  }
}

/// Rows [row, row + R) times columns 8 part .. 8 part + 7 of a panel.
template <int R, bool asymmetric>
void multiply_float_part(FloatProduct const& p, std::int64_t panel, int part, std::int64_t row,
                         float (&y)[R][columns]) {
  Panels const w = p.w;
  Table const table = table_of(!asymmetric);
  std::uint8_t const* lines = packed_lines(w, panel, 0) + 32 * part;
  float const* x = p.x + row * p.x_stride;
  __m256 sums[R];
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  for (std::int64_t group = 0; group < w.groups; ++group) {
    std::int64_t const count = lines_of(w, group);
    Weights zeros{};
    if constexpr (asymmetric) {
      std::uint8_t const* const at = w.zero_points + (panel * w.groups + group) * columns + 8 * part;
      __m256 const eight =
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<__m128i const*>(at))));
      zeros = {_mm256_unpacklo_ps(eight, eight), _mm256_unpackhi_ps(eight, eight)};
    }
    __m256 dots[R];
    dot_float<R, asymmetric>(lines, count, x, p.x_stride, table, zeros, dots);
    lines += count * 64;
    __m256 const scales = _mm256_castsi256_ps(load(lines));
    for (int r = 0; r < R; ++r) sums[r] = _mm256_fmadd_ps(dots[r], scales, sums[r]);
    lines += 64;
    x += count * 8;
  }
  for (int r = 0; r < R; ++r) _mm256_storeu_ps(y[r] + 8 * part, sums[r]);
}

/// y = sums + bias, `bytes` of it.
void finish_row(float* sums, float const* bias, float* y, std::size_t bytes) {
  for (int part = 0; part < 2; ++part) {
    float* const eight = sums + 8 * part;
    _mm256_storeu_ps(eight, _mm256_add_ps(_mm256_loadu_ps(eight), _mm256_loadu_ps(bias + 8 * part)));
  }
  std::memcpy(y, sums, bytes);
}

template <int R, bool asymmetric>
void multiply_float_rows(FloatProduct const& p, std::int64_t panel, std::int64_t row, float const* bias,
                         std::size_t bytes) {
  if constexpr (R > 1)
    if (p.rows - row < R) return multiply_float_rows<R - 1, asymmetric>(p, panel, row, bias, bytes);
  alignas(32) float y[R][columns];
  for (int part = 0; part < 2; ++part) multiply_float_part<R, asymmetric>(p, panel, part, row, y);
  for (int r = 0; r < R; ++r) finish_row(y[r], bias, p.y + (row + r) * p.y_stride + panel * columns, bytes);
}

// ---- many rows --------------------------------------------------------------------------------------------

constexpr std::int64_t float_piece_lines = 32;  // 16 KiB once they are floats

struct FloatScratch {
  alignas(64) float weights[float_piece_lines * 8 * columns];
  alignas(64) float dots[float_row_block * columns];  ///< of a group that is not complete yet
  alignas(64) float sums[float_row_block * columns];
};
static_assert(sizeof(FloatScratch) <= scratch_bytes);

/// to [8 count, 16] = nibble - zero.
void unpack_float(std::uint8_t const* lines, std::int64_t count, float const* zeros, float* to) {
  for (std::int64_t line = 0; line < count; ++line, lines += 64, to += 8 * columns) {
    PackedLines::fetch(lines);
    for (int part = 0; part < 2; ++part) {
      __m256 const zero = _mm256_loadu_ps(zeros + 8 * part);
      __m256i four = load(lines + 32 * part);
      for (int t = 0; t < 4; ++t, four = _mm256_srli_epi32(four, 8))
        for (int half = 0; half < 2; ++half) {
          __m256i const nibbles =
              _mm256_and_si256(half == 0 ? four : _mm256_srli_epi32(four, 4), _mm256_set1_epi32(15));
          _mm256_storeu_ps(to + (4 * half + t) * columns + 8 * part,
                           _mm256_sub_ps(_mm256_cvtepi32_ps(nibbles), zero));
        }
    }
  }
}

/// dots [R, 16] += X [R, count] times weights [count, 16].
template <int R>
void add_unpacked(float const* weights, std::int64_t count, float const* x, std::int64_t stride,
                  float* dots) {
  __m256 sums[R][2];
  for (int r = 0; r < R; ++r)
    for (int part = 0; part < 2; ++part) sums[r][part] = _mm256_loadu_ps(dots + columns * r + 8 * part);
  for (std::int64_t k = 0; k < count; ++k, weights += columns) {
    __m256 const left = _mm256_loadu_ps(weights), right = _mm256_loadu_ps(weights + 8);
    for (int r = 0; r < R; ++r) {
      __m256 const one = _mm256_set1_ps(x[r * stride + k]);
      sums[r][0] = _mm256_fmadd_ps(left, one, sums[r][0]);
      sums[r][1] = _mm256_fmadd_ps(right, one, sums[r][1]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int part = 0; part < 2; ++part) _mm256_storeu_ps(dots + columns * r + 8 * part, sums[r][part]);
}

template <int R>
void add_unpacked_rows(float const* weights, std::int64_t count, float const* x, std::int64_t stride,
                       float* dots, std::int64_t rows) {
  if constexpr (R > 1)
    if (rows < R) return add_unpacked_rows<R - 1>(weights, count, x, stride, dots, rows);
  add_unpacked<R>(weights, count, x, stride, dots);
}

/// All rows times one panel: a piece of a group becomes floats, which then serve every row.
void multiply_float_unpacked(FloatProduct const& p, std::int64_t panel, FloatScratch& scratch) {
  constexpr int tile_rows = 6;  // 12 sums, two weights and x
  Panels const& w = p.w;
  std::size_t const bytes = static_cast<std::size_t>(p.rows * columns) * sizeof(float);
  std::memset(scratch.sums, 0, bytes);
  std::int64_t channel = 0;
  for (std::int64_t group = 0; group < w.groups; ++group) {
    std::uint8_t const* const lines = packed_lines(w, panel, group);
    std::int64_t const all = lines_of(w, group);
    float zeros[columns];
    for (std::int64_t c = 0; c < columns; ++c)
      zeros[c] = w.zero_points == nullptr
                     ? 8.0f
                     : static_cast<float>(w.zero_points[(panel * w.groups + group) * columns + c]);
    std::memset(scratch.dots, 0, bytes);
    for (std::int64_t first = 0; first < all; first += float_piece_lines) {
      std::int64_t const count = all - first < float_piece_lines ? all - first : float_piece_lines;
      unpack_float(lines + first * 64, count, zeros, scratch.weights);
      for (std::int64_t row = 0; row < p.rows; row += tile_rows)
        add_unpacked_rows<tile_rows>(scratch.weights, 8 * count, p.x + row * p.x_stride + channel, p.x_stride,
                                     scratch.dots + row * columns, p.rows - row);
      channel += 8 * count;
    }
    auto const* const scales = reinterpret_cast<float const*>(lines + all * 64);
    __m256 const left = _mm256_loadu_ps(scales), right = _mm256_loadu_ps(scales + 8);
    for (std::int64_t at = 0; at < p.rows * columns; at += columns) {
      float* const sums = scratch.sums + at;
      float const* const dots = scratch.dots + at;
      _mm256_storeu_ps(sums, _mm256_fmadd_ps(_mm256_loadu_ps(dots), left, _mm256_loadu_ps(sums)));
      _mm256_storeu_ps(sums + 8,
                       _mm256_fmadd_ps(_mm256_loadu_ps(dots + 8), right, _mm256_loadu_ps(sums + 8)));
    }
  }
}

template <bool asymmetric>
void multiply_float_panels(FloatProduct const& p) {
  auto& scratch = *reinterpret_cast<FloatScratch*>(p.scratch);
  for (std::int64_t panel = 0; panel < p.w.count; ++panel) {
    std::int64_t const left = p.cols - panel * columns;
    std::size_t const bytes = static_cast<std::size_t>(left < columns ? left : columns) * sizeof(float);
    alignas(32) float bias[columns] = {};
    if (p.bias != nullptr) std::memcpy(bias, p.bias + panel * columns, bytes);
    if (p.rows <= 8) {
      for (std::int64_t row = 0; row < p.rows; row += 4)
        multiply_float_rows<4, asymmetric>(p, panel, row, bias, bytes);
    } else {
      multiply_float_unpacked(p, panel, scratch);
      for (std::int64_t row = 0; row < p.rows; ++row)
        finish_row(scratch.sums + row * columns, bias, p.y + row * p.y_stride + panel * columns, bytes);
    }
  }
}

}  // namespace
}  // namespace dartquant::cpu
