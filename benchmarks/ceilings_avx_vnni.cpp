// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "ceilings_loops.hpp"

namespace dartquant::bench {

int loop_vnni_256(std::int64_t iterations) {
  __m256i sums[12];
  __m256i const w = _mm256_set1_epi8(3), x = _mm256_set1_epi8(-5);
  for (int i = 0; i < 12; ++i) sums[i] = _mm256_set1_epi32(i);
  for (std::int64_t n = 0; n < iterations; ++n)
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) sums[i] = _mm256_dpbusd_avx_epi32(sums[i], w, x);
  __m256i all = sums[0];
  for (int i = 1; i < 12; ++i) all = _mm256_xor_si256(all, sums[i]);
  return _mm256_extract_epi32(all, 3);
}

}  // namespace dartquant::bench
