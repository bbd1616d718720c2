// SPDX-License-Identifier: Apache-2.0
#pragma once

// 4-bit levels to 16-bit floats with AVX-512: the sixteen values of a group in a register, and one look-up
// for 32 of them. Included behind avx512_storage.hpp by files compiled for AVX-512; everything is in an
// unnamed namespace.

#include "cpu/avx512_storage.hpp"

namespace dartquant::cpu {
namespace {

/// The values of nibbles 0 .. 15.
template <Type type>
DARTQUANT_INLINE __m512i values_of_nibbles(NibbleRow const& row, std::int64_t group) {
  __m512i const nibbles = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m512i const eight = _mm512_set1_epi32(8);
  __m512i const levels = row.zero_points == nullptr
                             ? _mm512_sub_epi32(_mm512_xor_si512(nibbles, eight), eight)
                             : _mm512_sub_epi32(nibbles, _mm512_set1_epi32(row.zero_points[group]));
  __m512 const values = _mm512_mul_ps(_mm512_set1_ps(row.scales[group]), _mm512_cvtepi32_ps(levels));
  return _mm512_zextsi256_si512(type == Type::float16 ? _mm512_cvtps_ph(values, nearest)
                                                      : bfloat16_of_float(values));
}

template <Type type>
void look_up_as(NibbleRow const& row) {
  __m512i const low = _mm512_set1_epi32(0x000F000F);
  for (std::int64_t first = 0, group = 0; first < row.cols; first += row.width, ++group) {
    __m512i const values = values_of_nibbles<type>(row, group);
    std::int64_t const end = smaller(first + row.width, row.cols);
    // 16 bytes to 32 words: a byte in every double word, its high nibble moved to the upper half.
    auto const looked_up = [&](__m128i bytes) {
      __m512i const wide = _mm512_cvtepu8_epi32(bytes);
      __m512i const index = _mm512_and_si512(_mm512_or_si512(wide, _mm512_slli_epi32(wide, 12)), low);
      return _mm512_permutexvar_epi16(index, values);
    };
    std::int64_t j = first;
    for (; j + 32 <= end; j += 32)
      _mm512_storeu_si512(row.y + j,
                          looked_up(_mm_loadu_si128(reinterpret_cast<__m128i const*>(row.nibbles + j / 2))));
    if (j == end) continue;
    __mmask16 const bytes = mask16((end - j + 1) / 2);
    _mm512_mask_storeu_epi16(row.y + j, static_cast<__mmask32>(mask64(end - j)),
                             looked_up(_mm_maskz_loadu_epi8(bytes, row.nibbles + j / 2)));
  }
}

void look_up(NibbleRow const* row) {
  if (row->type == Type::float16) look_up_as<Type::float16>(*row);
  else look_up_as<Type::bfloat16>(*row);
}

}  // namespace
}  // namespace dartquant::cpu
