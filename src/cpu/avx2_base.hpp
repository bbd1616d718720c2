// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the files for AVX2, FMA and F16C share: lanes, loads, and 16-bit floats. Included by files compiled
// for them and by nothing else; everything is in an unnamed namespace.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/kernel_table.hpp"

#define DARTQUANT_INLINE inline __attribute__((always_inline))

namespace dartquant::cpu {
namespace {

constexpr std::int64_t lanes = 8;

DARTQUANT_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
/// The first min(count, 8) lanes.
DARTQUANT_INLINE __m256i mask8(std::int64_t count) {
  __m256i const lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(smaller(count, lanes))), lane);
}

constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

DARTQUANT_INLINE std::size_t bytes_of(std::int64_t count, std::size_t size) {
  return static_cast<std::size_t>(count) * size;
}
DARTQUANT_INLINE __m128i load128(void const* x) { return _mm_loadu_si128(static_cast<__m128i const*>(x)); }
DARTQUANT_INLINE __m256i load256(void const* x) { return _mm256_loadu_si256(static_cast<__m256i const*>(x)); }
DARTQUANT_INLINE void store128(void* x, __m128i v) { _mm_storeu_si128(static_cast<__m128i*>(x), v); }
DARTQUANT_INLINE void store256(void* x, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(x), v); }

DARTQUANT_INLINE __m256 float_of_16(Type type, __m128i bits) {
  return type == Type::float16 ? _mm256_cvtph_ps(bits)
                               : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

/// bfloat16 to nearest even; NaN stays NaN, its upper payload kept.
DARTQUANT_INLINE __m128i bfloat16_of_float(__m256 x) {
  __m256i const bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
  __m256i const odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  __m256i const rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd), 16);
  __m256i const quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  __m256i const nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  __m256i const chosen = _mm256_blendv_epi8(rounded, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
}

}  // namespace
}  // namespace dartquant::cpu
