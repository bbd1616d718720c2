// SPDX-License-Identifier: Apache-2.0
#pragma once

// Loads and stores of float, half and bfloat16 rows for AVX-512. Included by files compiled for it and by
// nothing else; everything is in an unnamed namespace.

#include "cpu/avx512_lanes.hpp"

namespace dartquant::cpu {
namespace {

DARTQUANT_INLINE __m512 float_of_bfloat16(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

/// To nearest even; NaN stays NaN, its upper payload kept.
DARTQUANT_INLINE __m256i bfloat16_of_float(__m512 x) {
  __m512i const bits = _mm512_castps_si512(x), upper = _mm512_srli_epi32(bits, 16);
  __m512i const odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  __m512i const rounded =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd), 16);
  __mmask16 const nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)));
}

constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// Values x_j .. x_(j + 15) of those that the mask names; zeros elsewhere.
template <Type type>
DARTQUANT_INLINE __m512 load16(void const* x, std::int64_t j, __mmask16 mask) {
  if constexpr (type == Type::float32) {
    return _mm512_maskz_loadu_ps(mask, static_cast<float const*>(x) + j);
  } else {
    __m256i const bits = _mm256_maskz_loadu_epi16(mask, static_cast<std::uint16_t const*>(x) + j);
    return type == Type::float16 ? _mm512_cvtph_ps(bits) : float_of_bfloat16(bits);
  }
}

/// Values x_(index), index in [0, count). Halves are gathered four bytes at a time: those that start one
/// value early where the last one is asked for, so that nothing behind the row is read. count > 1 for them.
template <Type type>
DARTQUANT_INLINE __m512 gather16(void const* x, __m512i index, std::int64_t count, __mmask16 mask) {
  if constexpr (type == Type::float32) {
    return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, index, x, 4);
  } else {
    __m512i const from = _mm512_min_epi32(index, _mm512_set1_epi32(static_cast<int>(count - 2)));
    __m512i const pair = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), mask, from, x, 2);
    __m512i const shift = _mm512_slli_epi32(_mm512_sub_epi32(index, from), 4);
    __m256i const bits = _mm512_cvtepi32_epi16(_mm512_srlv_epi32(pair, shift));
    return type == Type::float16 ? _mm512_cvtph_ps(bits) : float_of_bfloat16(bits);
  }
}

template <Type type, class Ask>
void load_as(void const* x, std::int32_t const* permutation, float* y, std::int64_t count, Ask& ask) {
  if (permutation == nullptr || count == 1) {
    std::int64_t j = 0;
    for (; j + 4 * lanes <= count; j += 4 * lanes) {
      ask.request();
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        _mm512_storeu_ps(y + j + i * lanes, load16<type>(x, j + i * lanes, mask16(lanes)));
    }
    for (; j + lanes <= count; j += lanes) _mm512_storeu_ps(y + j, load16<type>(x, j, mask16(lanes)));
    if (j < count) _mm512_mask_storeu_ps(y + j, mask16(count - j), load16<type>(x, j, mask16(count - j)));
    return;
  }
  for (std::int64_t j = 0; j < count; j += lanes) {
    __mmask16 const mask = mask16(count - j);
    __m512i const index = _mm512_maskz_loadu_epi32(mask, permutation + j);
    _mm512_mask_storeu_ps(y + j, mask, gather16<type>(x, index, count, mask));
  }
}

template <class Ask>
void load_with(Type type, void const* x, std::int32_t const* permutation, float* y, std::int64_t count,
               Ask& ask) {
  if (type == Type::float32) load_as<Type::float32>(x, permutation, y, count, ask);
  else if (type == Type::float16) load_as<Type::float16>(x, permutation, y, count, ask);
  else load_as<Type::bfloat16>(x, permutation, y, count, ask);
}

template <Type type>
DARTQUANT_INLINE void store16(__m512 x, void* y, std::int64_t j, __mmask16 mask) {
  if constexpr (type == Type::float32) {
    _mm512_mask_storeu_ps(static_cast<float*>(y) + j, mask, x);
  } else {
    __m256i const bits = type == Type::float16 ? _mm512_cvtps_ph(x, nearest) : bfloat16_of_float(x);
    _mm256_mask_storeu_epi16(static_cast<std::uint16_t*>(y) + j, mask, bits);
  }
}

template <Type type, class Ask>
void store_as(float const* x, float factor, void* y, std::int64_t count, Ask& ask) {
  __m512 const f = _mm512_set1_ps(factor);
  std::int64_t j = 0;
  for (; j + 4 * lanes <= count; j += 4 * lanes) {
    ask.request();
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      store16<type>(_mm512_mul_ps(_mm512_loadu_ps(x + j + i * lanes), f), y, j + i * lanes, mask16(lanes));
  }
  for (; j + lanes <= count; j += lanes)
    store16<type>(_mm512_mul_ps(_mm512_loadu_ps(x + j), f), y, j, mask16(lanes));
  if (j == count) return;
  __mmask16 const mask = mask16(count - j);
  store16<type>(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + j), f), y, j, mask);
}

template <class Ask>
void store_with(Type type, float const* x, float factor, void* y, std::int64_t count, Ask& ask) {
  if (type == Type::float32) store_as<Type::float32>(x, factor, y, count, ask);
  else if (type == Type::float16) store_as<Type::float16>(x, factor, y, count, ask);
  else store_as<Type::bfloat16>(x, factor, y, count, ask);
}

}  // namespace
}  // namespace dartquant::cpu
