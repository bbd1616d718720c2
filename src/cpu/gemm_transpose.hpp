// SPDX-License-Identifier: Apache-2.0
#pragma once

// Squares of values transposed in AVX2 registers, for AVX2 and AVX-512. All is in an unnamed namespace, see
// gemm_panels.hpp.

#include <immintrin.h>

#include <cstdint>

namespace dartquant::cpu {
namespace {

/// to[k * step + i] = rows[i][k], 8 x 8.
inline void transpose_square(float const* const* rows, float* to, std::int64_t step) {
  __m256 in[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    // The left half of row i % 4 and of row i % 4 + 4 (i < 4), or their right halves.
    int const half = i < 4 ? 0 : 4;
    in[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(rows[i % 4] + half)),
                                 _mm_loadu_ps(rows[i % 4 + 4] + half), 1);
  }
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    __m256 const* const r = in + 4 * half;
    __m256 const a = _mm256_unpacklo_ps(r[0], r[1]), b = _mm256_unpackhi_ps(r[0], r[1]);
    __m256 const c = _mm256_unpacklo_ps(r[2], r[3]), d = _mm256_unpackhi_ps(r[2], r[3]);
    float* const at = to + 4 * half * step;
    _mm256_storeu_ps(at, _mm256_shuffle_ps(a, c, 0x44));
    _mm256_storeu_ps(at + step, _mm256_shuffle_ps(a, c, 0xEE));
    _mm256_storeu_ps(at + 2 * step, _mm256_shuffle_ps(b, d, 0x44));
    _mm256_storeu_ps(at + 3 * step, _mm256_shuffle_ps(b, d, 0xEE));
  }
}

/// The same, 4 x 4.
inline void transpose_square(double const* const* rows, double* to, std::int64_t step) {
  __m256d in[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // the left halves of rows i % 2 and i % 2 + 2, then their right halves
    int const half = i < 2 ? 0 : 2;
    in[i] = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(rows[i % 2] + half)),
                                 _mm_loadu_pd(rows[i % 2 + 2] + half), 1);
  }
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    double* const at = to + 2 * half * step;
    _mm256_storeu_pd(at, _mm256_unpacklo_pd(in[2 * half], in[2 * half + 1]));
    _mm256_storeu_pd(at + step, _mm256_unpackhi_pd(in[2 * half], in[2 * half + 1]));
  }
}

}  // namespace
}  // namespace dartquant::cpu
