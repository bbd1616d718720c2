// SPDX-License-Identifier: Apache-2.0
// Products with AVX2 and FMA.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/avx2_products.hpp"
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {
namespace {

/// Ends an expression: the compiler would rather form all products first and then has no registers for them.
inline void settle(__m256i& value) { __asm__("" : "+x"(value)); }

struct Avx2 : Avx2Base {
  static constexpr int tile_rows = 4, stream_rows = 4;

  /// pairs += X [R, 8] times a line, two products in 16 bits, at most 2 * 15 * 128 in magnitude.
  template <class Lines, int R>
  [[gnu::always_inline]] static void add_line(std::uint8_t const* line, std::int8_t const* x,
                                              std::int64_t stride, Dots<R>& pairs) {
    Lines::fetch(line);
    for (int half = 0; half < 2; ++half) {
      __m256i const left = Lines::nibbles(line, half, 0), right = Lines::nibbles(line, half, 1);
      for (int r = 0; r < R; ++r) {
        __m256i const four = broadcast_four(x + r * stride + 4 * half);
        pairs[r][0] = _mm256_add_epi16(pairs[r][0], _mm256_maddubs_epi16(left, four));
        pairs[r][1] = _mm256_add_epi16(pairs[r][1], _mm256_maddubs_epi16(right, four));
        settle(pairs[r][0]);
        settle(pairs[r][1]);
      }
    }
  }

  template <int R>
  static void clear(Dots<R>& dots) {
    for (int r = 0; r < R; ++r)
      for (int part = 0; part < 2; ++part) dots[r][part] = _mm256_setzero_si256();
  }

  /// The 16-bit pairs of four lines add up to at most 8 * 2 * 15 * 128 < 2^15: one vpmaddwd widens them all.
  template <class Lines, int R>
  [[gnu::always_inline]] static void dot_four(std::uint8_t const* lines, std::int8_t const* x,
                                              std::int64_t stride, Dots<R>& dots) {
    clear<R>(dots);
#pragma GCC unroll 4
    for (int line = 0; line < 4; ++line)
      add_line<Lines, R>(lines + line * Lines::line_bytes, x + 8 * line, stride, dots);
    widen<R>(dots);
  }

  template <int R>
  static void widen(Dots<R>& pairs) {
    for (int r = 0; r < R; ++r)
      for (int part = 0; part < 2; ++part)
        pairs[r][part] = _mm256_madd_epi16(pairs[r][part], _mm256_set1_epi16(1));
  }

  template <class Lines, int R>
  [[gnu::always_inline]] static void dot(std::uint8_t const* lines, std::int64_t count, std::int8_t const* x,
                                         std::int64_t stride, Dots<R>& dots) {
    if (count >= 4) dot_four<Lines, R>(lines, x, stride, dots);
    else clear<R>(dots);
    std::int64_t line = count >= 4 ? 4 : 0;
    for (; line + 4 <= count; line += 4) {
      Dots<R> more;
      dot_four<Lines, R>(lines + line * Lines::line_bytes, x + 8 * line, stride, more);
      add<R>(more, dots);
    }
    if (line == count) return;
    Dots<R> rest;
    clear<R>(rest);
    for (; line < count; ++line)
      add_line<Lines, R>(lines + line * Lines::line_bytes, x + 8 * line, stride, rest);
    widen<R>(rest);
    add<R>(rest, dots);
  }

  template <int R>
  static void add(Dots<R> const& more, Dots<R>& dots) {
    for (int r = 0; r < R; ++r)
      for (int part = 0; part < 2; ++part) dots[r][part] = _mm256_add_epi32(dots[r][part], more[r][part]);
  }
};

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

template <int R, bool asymmetric>
void multiply_float_rows(FloatProduct const& p, std::int64_t panel, std::int64_t row, float const* bias,
                         std::size_t bytes) {
  if constexpr (R > 1)
    if (p.rows - row < R) return multiply_float_rows<R - 1, asymmetric>(p, panel, row, bias, bytes);
  alignas(32) float y[R][columns];
  for (int part = 0; part < 2; ++part) multiply_float_part<R, asymmetric>(p, panel, part, row, y);
  for (int r = 0; r < R; ++r) {
    for (int part = 0; part < 2; ++part) {
      float* const eight = y[r] + 8 * part;
      _mm256_storeu_ps(eight, _mm256_add_ps(_mm256_loadu_ps(eight), _mm256_loadu_ps(bias + 8 * part)));
    }
    std::memcpy(p.y + (row + r) * p.y_stride + panel * columns, y[r], bytes);
  }
}

template <bool asymmetric>
void multiply_float_panels(FloatProduct const& p) {
  for (std::int64_t panel = 0; panel < p.w.count; ++panel) {
    std::int64_t const left = p.cols - panel * columns;
    std::size_t const bytes = static_cast<std::size_t>(left < columns ? left : columns) * sizeof(float);
    alignas(32) float bias[columns] = {};
    if (p.bias != nullptr) std::memcpy(bias, p.bias + panel * columns, bytes);
    for (std::int64_t row = 0; row < p.rows; row += 4)
      multiply_float_rows<4, asymmetric>(p, panel, row, bias, bytes);
  }
}

}  // namespace

void multiply_float_avx2(FloatProduct const* p) {
  if (p->w.zero_points == nullptr) multiply_float_panels<false>(*p);
  else multiply_float_panels<true>(*p);
}

ProductKernels const avx2_products{multiply_panels<Avx2>, multiply_float_avx2};

}  // namespace dartquant::cpu
