// SPDX-License-Identifier: Apache-2.0
// Products with AVX2 and FMA.

#include <immintrin.h>

#include <cstdint>

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
  [[gnu::always_inline]] static void add_line(std::uint8_t const* line, std::int64_t index,
                                              std::int8_t const* x, std::int64_t stride, Dots<R>& pairs) {
    Lines::template fetch<R>(line, index);
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
      add_line<Lines, R>(lines + line * Lines::line_bytes, line, x + 8 * line, stride, dots);
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
      add_line<Lines, R>(lines + line * Lines::line_bytes, line, x + 8 * line, stride, rest);
    widen<R>(rest);
    add<R>(rest, dots);
  }

  template <int R>
  static void add(Dots<R> const& more, Dots<R>& dots) {
    for (int r = 0; r < R; ++r)
      for (int part = 0; part < 2; ++part) dots[r][part] = _mm256_add_epi32(dots[r][part], more[r][part]);
  }
};

}  // namespace

ProductKernels const avx2_products{multiply_panels<Avx2>};

}  // namespace dartquant::cpu
