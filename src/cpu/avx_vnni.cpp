// SPDX-License-Identifier: Apache-2.0
// Products with AVX-VNNI: vpdpbusd on 256 bits.

#include <immintrin.h>

#include <cstdint>

#include "cpu/avx2_products.hpp"
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {
namespace {

struct AvxVnni : Avx2Base {
  static constexpr int tile_rows = 6, stream_rows = 4;  // 12 sums, two weights and x fill the 16 registers

  template <class Lines, int R>
  static void dot(std::uint8_t const* lines, std::int64_t count, std::int8_t const* x, std::int64_t stride,
                  Dots<R>& dots) {
    // Two vpdpbusd start per cycle and each takes five: few rows need more than one sum per row and part.
    constexpr int chains = R <= 2 ? 2 : 1;
    __m256i sums[chains][R][2];
    for (int chain = 0; chain < chains; ++chain)
      for (int r = 0; r < R; ++r)
        for (int part = 0; part < 2; ++part) sums[chain][r][part] = _mm256_setzero_si256();
#pragma GCC unroll 2
    for (std::int64_t line = 0; line < count; ++line) {
      Lines::template fetch<R>(lines, line);
      for (int half = 0; half < 2; ++half) {
        __m256i const left = Lines::nibbles(lines, half, 0), right = Lines::nibbles(lines, half, 1);
        __m256i(&sum)[R][2] = sums[half % chains];
        for (int r = 0; r < R; ++r) {
          __m256i const four = broadcast_four(x + r * stride + 4 * half);
          sum[r][0] = _mm256_dpbusd_avx_epi32(sum[r][0], left, four);
          sum[r][1] = _mm256_dpbusd_avx_epi32(sum[r][1], right, four);
        }
      }
      lines += Lines::line_bytes;
      x += 8;
    }
    for (int r = 0; r < R; ++r)
      for (int part = 0; part < 2; ++part) {
        dots[r][part] = sums[0][r][part];
        if constexpr (chains == 2) dots[r][part] = _mm256_add_epi32(dots[r][part], sums[1][r][part]);
      }
  }
};

}  // namespace

ProductKernels const avx_vnni_products{multiply_panels<AvxVnni>};

}  // namespace dartquant::cpu
