// SPDX-License-Identifier: Apache-2.0
#pragma once

// 4-bit levels to 16-bit floats with AVX2: the sixteen values of a group as two tables of bytes, which one
// shuffle each looks up. Included by files compiled for AVX2; everything is in an unnamed namespace.

#include <cstring>

#include "cpu/avx2_base.hpp"

namespace dartquant::cpu {
namespace {

/// The lower and the upper bytes of the values of nibbles 0 .. 15, in both halves of a register.
struct NibbleTable {
  __m256i lower, upper;

  NibbleTable(NibbleRow const& row, std::int64_t group) {
    __m128i const first = eight_values(row, group, 0), second = eight_values(row, group, 8);
    __m128i const byte = _mm_set1_epi16(0xFF);
    lower = _mm256_broadcastsi128_si256(
        _mm_packus_epi16(_mm_and_si128(first, byte), _mm_and_si128(second, byte)));
    upper =
        _mm256_broadcastsi128_si256(_mm_packus_epi16(_mm_srli_epi16(first, 8), _mm_srli_epi16(second, 8)));
  }

  static __m128i eight_values(NibbleRow const& row, std::int64_t group, int from) {
    __m256i const nibbles =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(from));
    __m256i const eight = _mm256_set1_epi32(8);
    __m256i const levels = row.zero_points == nullptr
                               ? _mm256_sub_epi32(_mm256_xor_si256(nibbles, eight), eight)
                               : _mm256_sub_epi32(nibbles, _mm256_set1_epi32(row.zero_points[group]));
    __m256 const values = _mm256_mul_ps(_mm256_set1_ps(row.scales[group]), _mm256_cvtepi32_ps(levels));
    return row.type == Type::float16 ? _mm256_cvtps_ph(values, nearest) : bfloat16_of_float(values);
  }

  /// The values of 16 bytes, to y[0 .. 31].
  DARTQUANT_INLINE void look_up(__m128i bytes, std::uint16_t* y) const {
    __m256i const wide = _mm256_cvtepu8_epi16(bytes);  // a byte in every word, its high nibble moved up
    __m256i const index =
        _mm256_and_si256(_mm256_or_si256(wide, _mm256_slli_epi16(wide, 4)), _mm256_set1_epi8(15));
    __m256i const low = _mm256_shuffle_epi8(lower, index), high = _mm256_shuffle_epi8(upper, index);
    __m256i const even = _mm256_unpacklo_epi8(low, high), odd = _mm256_unpackhi_epi8(low, high);
    store256(y, _mm256_permute2x128_si256(even, odd, 0x20));
    store256(y + 16, _mm256_permute2x128_si256(even, odd, 0x31));
  }
};

void look_up(NibbleRow const* row) {
  for (std::int64_t first = 0, group = 0; first < row->cols; first += row->width, ++group) {
    NibbleTable const table(*row, group);
    std::int64_t const end = smaller(first + row->width, row->cols);
    std::int64_t j = first;
    for (; j + 32 <= end; j += 32) table.look_up(load128(row->nibbles + j / 2), row->y + j);
    if (j == end) continue;
    std::uint8_t bytes[16] = {};
    std::uint16_t values[32];
    std::memcpy(bytes, row->nibbles + j / 2, bytes_of((end - j + 1) / 2, 1));
    table.look_up(load128(bytes), values);
    std::memcpy(row->y + j, values, bytes_of(end - j, 2));
  }
}

}  // namespace
}  // namespace dartquant::cpu
