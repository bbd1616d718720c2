// SPDX-License-Identifier: Apache-2.0
// Products with AVX2 and FMA.

#include <immintrin.h>

#include <cstdint>

#include "cpu/avx2_products.hpp"
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {
namespace {

struct Avx2 : Avx2Base {
  static constexpr int tile_rows = 4, stream_rows = 4;

  /// sums += X [R, 8 count] times lines, count <= 4. vpmaddubsw adds two products, at most 2 * 15 * 128 in
  /// magnitude, in 16 bits; the 8 of them that four lines give per lane still fit, so one vpmaddwd widens
  /// them all.
  template <class Lines, int R>
  static void add_lines(std::uint8_t const* lines, std::int64_t count, std::int8_t const* x,
                        std::int64_t stride, __m256i (&sums)[R][2]) {
    __m256i pairs[R][2];
    for (int r = 0; r < R; ++r)
      for (int part = 0; part < 2; ++part) pairs[r][part] = _mm256_setzero_si256();
    for (std::int64_t line = 0; line < count; ++line) {
      Lines::fetch(lines + line * Lines::line_bytes);
      for (int half = 0; half < 2; ++half) {
        __m256i const left = Lines::nibbles(lines + line * Lines::line_bytes, half, 0);
        __m256i const right = Lines::nibbles(lines + line * Lines::line_bytes, half, 1);
        for (int r = 0; r < R; ++r) {
          __m256i const four = broadcast_four(x + r * stride + 8 * line + 4 * half);
          pairs[r][0] = _mm256_add_epi16(pairs[r][0], _mm256_maddubs_epi16(left, four));
          pairs[r][1] = _mm256_add_epi16(pairs[r][1], _mm256_maddubs_epi16(right, four));
        }
      }
    }
    __m256i const ones = _mm256_set1_epi16(1);
    for (int r = 0; r < R; ++r)
      for (int part = 0; part < 2; ++part)
        sums[r][part] = _mm256_add_epi32(sums[r][part], _mm256_madd_epi16(pairs[r][part], ones));
  }

  template <class Lines, int R>
  static void dot(std::uint8_t const* lines, std::int64_t count, std::int8_t const* x, std::int64_t stride,
                  std::int32_t* dots) {
    __m256i sums[R][2];
    for (int r = 0; r < R; ++r)
      for (int part = 0; part < 2; ++part) sums[r][part] = _mm256_setzero_si256();
    std::int64_t line = 0;
    for (; line + 4 <= count; line += 4)
      add_lines<Lines, R>(lines + line * Lines::line_bytes, 4, x + 8 * line, stride, sums);
    if (line < count)
      add_lines<Lines, R>(lines + line * Lines::line_bytes, count - line, x + 8 * line, stride, sums);
    for (int r = 0; r < R; ++r)
      for (int part = 0; part < 2; ++part)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(dots + columns * r + 8 * part), sums[r][part]);
  }
};

}  // namespace

void multiply_float_avx2(FloatProduct const* p) { portable_products.multiply_float(p); }

ProductKernels const avx2_products{multiply_panels<Avx2>, multiply_float_avx2};

}  // namespace dartquant::cpu
