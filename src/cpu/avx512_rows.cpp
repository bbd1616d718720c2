// SPDX-License-Identifier: Apache-2.0
// Row kernels for AVX-512 F, BW, DQ and VL. Float operations are those of the portable kernels in the same
// order.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/avx512_hadamard.hpp"
#include "cpu/avx512_storage.hpp"
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {
namespace {

// ---- quantization -------------------------------------------------------------------------------------

/// A running range. 0 x is 0, or NaN where x is not finite.
struct Extremes {
  __m512 min = _mm512_setzero_ps(), max = _mm512_setzero_ps(), rest = _mm512_setzero_ps();

  DARTQUANT_INLINE void add(__m512 x) {
    min = _mm512_min_ps(x, min);  // of a NaN and a number the second: the number
    max = _mm512_max_ps(x, max);
    rest = _mm512_fmadd_ps(x, _mm512_setzero_ps(), rest);
  }
};

template <class Ask>
Range range_with(float const* x, std::int64_t count, Ask& ask) {
  Extremes a, b, c, d;  // by name: an array of them would be cleared in memory first
  std::int64_t j = 0;
  for (; j + 4 * lanes <= count; j += 4 * lanes) {
    ask.request();
    a.add(_mm512_loadu_ps(x + j));
    b.add(_mm512_loadu_ps(x + j + lanes));
    c.add(_mm512_loadu_ps(x + j + 2 * lanes));
    d.add(_mm512_loadu_ps(x + j + 3 * lanes));
  }
  for (; j < count; j += lanes) a.add(_mm512_maskz_loadu_ps(mask16(count - j), x + j));
  __m512 const low = _mm512_min_ps(_mm512_min_ps(a.min, b.min), _mm512_min_ps(c.min, d.min));
  __m512 const high = _mm512_max_ps(_mm512_max_ps(a.max, b.max), _mm512_max_ps(c.max, d.max));
  __m512 const rest = _mm512_add_ps(_mm512_add_ps(a.rest, b.rest), _mm512_add_ps(c.rest, d.rest));
  return {_mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high),
          _mm512_cmp_ps_mask(rest, rest, _CMP_UNORD_Q) == 0};
}

/// round(min(x factor inverse, highest)): what is below every level, and NaN, becomes a large negative
/// number.
DARTQUANT_INLINE __m512i rounded(__m512 x, LevelMap const& map) {
  __m512 const quotient =
      _mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(map.factor)), _mm512_set1_ps(map.inverse));
  return _mm512_cvt_roundps_epi32(_mm512_min_ps(_mm512_set1_ps(map.highest), quotient), nearest);
}

/// 64 levels at a time: four registers of int32 narrow to one of bytes. The lower limit and the zero point
/// act on 16-bit numbers, half as many registers. Levels above 127 are the bytes 128..255.
template <bool above_127, class Ask>
std::int64_t quantize_by_64(float const* x, std::int64_t count, LevelMap const& map, std::int8_t* levels,
                            Ask& ask) {
  __m512i const lowest = _mm512_set1_epi16(static_cast<std::int16_t>(map.lowest));
  __m512i const zero_point = _mm512_set1_epi16(static_cast<std::int16_t>(map.zero_point));
  __m512i const in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  std::int64_t j = 0;
  for (; j + 64 <= count; j += 64) {
    __m512i v[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      if (i % 2 == 0) ask.request();
      v[i] = rounded(_mm512_loadu_ps(x + j + i * lanes), map);
    }
    __m512i a = _mm512_packs_epi32(v[0], v[1]), b = _mm512_packs_epi32(v[2], v[3]);
    a = _mm512_add_epi16(_mm512_max_epi16(a, lowest), zero_point);
    b = _mm512_add_epi16(_mm512_max_epi16(b, lowest), zero_point);
    __m512i const bytes = above_127 ? _mm512_packus_epi16(a, b) : _mm512_packs_epi16(a, b);
    _mm512_storeu_si512(levels + j, _mm512_permutexvar_epi32(in_order, bytes));
  }
  return j;
}

template <class Ask>
void quantize_with(float const* x, std::int64_t count, LevelMap const* map, std::int8_t* levels, Ask& ask) {
  bool const above_127 = map->highest + static_cast<float>(map->zero_point) > 127.0f;
  std::int64_t j = above_127 ? quantize_by_64<true>(x, count, *map, levels, ask)
                             : quantize_by_64<false>(x, count, *map, levels, ask);
  __m512i const lowest = _mm512_set1_epi32(static_cast<std::int32_t>(map->lowest));
  for (; j < count; j += lanes) {
    __mmask16 const mask = mask16(count - j);
    __m512i const v = _mm512_max_epi32(rounded(_mm512_maskz_loadu_ps(mask, x + j), *map), lowest);
    _mm512_mask_cvtepi32_storeu_epi8(levels + j, mask,
                                     _mm512_add_epi32(v, _mm512_set1_epi32(map->zero_point)));
  }
}

void dequantize(std::int8_t const* levels, std::int64_t count, bool is_signed, float scale,
                std::int32_t zero_point, float* y) {
  __m512 const s = _mm512_set1_ps(scale);
  __m512i const zero = _mm512_set1_epi32(zero_point);
  for (std::int64_t j = 0; j < count; j += lanes) {
    __mmask16 const mask = mask16(count - j);
    __m128i const bytes = _mm_maskz_loadu_epi8(mask, levels + j);
    __m512i const wide = is_signed ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes);
    _mm512_mask_storeu_ps(y + j, mask, _mm512_mul_ps(s, _mm512_cvtepi32_ps(_mm512_sub_epi32(wide, zero))));
  }
}

// ---- nibbles and sums ---------------------------------------------------------------------------------

/// 64 levels as 32 bytes in the even 8 bits of 16.
DARTQUANT_INLINE __m512i joined(__m512i levels) {
  __m512i const nibbles = _mm512_and_si512(levels, _mm512_set1_epi8(0x0F));
  return _mm512_maddubs_epi16(nibbles, _mm512_set1_epi16(0x1001));  // even + 16 odd
}

void pack_nibbles(std::int8_t const* levels, std::int64_t count, std::uint8_t* bytes) {
  for (std::int64_t j = 0; j < count; j += 64) {
    __m256i const packed =
        _mm512_cvtepi16_epi8(joined(_mm512_maskz_loadu_epi8(mask64(count - j), levels + j)));
    if (j + 64 <= count) _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes + j / 2), packed);
    else _mm256_mask_storeu_epi8(bytes + j / 2, static_cast<__mmask32>(mask64((count - j + 1) / 2)), packed);
  }
}

void unpack_nibbles(std::uint8_t const* bytes, std::int64_t count, bool is_signed, std::int8_t* levels) {
  __m512i const flip = _mm512_set1_epi8(is_signed ? 8 : 0);
  for (std::int64_t j = 0; j < count; j += 64) {
    auto const there = static_cast<__mmask32>(mask64((count - j + 1) / 2));
    __m512i const wide = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(there, bytes + j / 2));
    __m512i const both = _mm512_or_si512(wide, _mm512_slli_epi16(wide, 4));
    __m512i const nibbles = _mm512_and_si512(both, _mm512_set1_epi8(0x0F));
    _mm512_mask_storeu_epi8(levels + j, mask64(count - j),
                            _mm512_sub_epi8(_mm512_xor_si512(nibbles, flip), flip));
  }
}

/// Bytes are added as level + 128, without sign.
std::int32_t sum(std::int8_t const* levels, std::int64_t count) {
  __m512i const flip = _mm512_set1_epi8(-128);
  __m512i total = _mm512_setzero_si512();
  std::int64_t shifted = 0;
  for (std::int64_t j = 0; j < count; j += 64, shifted += 64) {
    __m512i const x = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask64(count - j), levels + j), flip);
    total = _mm512_add_epi64(total, _mm512_sad_epu8(x, _mm512_setzero_si512()));
  }
  return static_cast<std::int32_t>(_mm512_reduce_add_epi64(total) - 128 * shifted);
}

// ---- with and without requests ------------------------------------------------------------------------

void load(Type type, void const* x, std::int32_t const* permutation, float* y, std::int64_t count) {
  NoRequests nothing;
  load_with(type, x, permutation, y, count, nothing);
}
void store(Type type, float const* x, float factor, void* y, std::int64_t count) {
  NoRequests nothing;
  store_with(type, x, factor, y, count, nothing);
}
Range range(float const* x, std::int64_t count) {
  NoRequests nothing;
  return range_with(x, count, nothing);
}
void quantize(float const* x, std::int64_t count, LevelMap const* map, std::int8_t* levels) {
  NoRequests nothing;
  quantize_with(x, count, map, levels, nothing);
}

void load_ahead(Type type, void const* x, std::int32_t const* permutation, float* y, std::int64_t count,
                Ahead* ahead) {
  Requests ask{*ahead};
  load_with(type, x, permutation, y, count, ask);
  *ahead = ask.ahead;
}
void store_ahead(Type type, float const* x, float factor, void* y, std::int64_t count, Ahead* ahead) {
  Requests ask{*ahead};
  store_with(type, x, factor, y, count, ask);
  *ahead = ask.ahead;
}
Range range_ahead(float const* x, std::int64_t count, Ahead* ahead) {
  Requests ask{*ahead};
  Range const found = range_with(x, count, ask);
  *ahead = ask.ahead;
  return found;
}
void quantize_ahead(float const* x, std::int64_t count, LevelMap const* map, std::int8_t* levels,
                    Ahead* ahead) {
  Requests ask{*ahead};
  quantize_with(x, count, map, levels, ask);
  *ahead = ask.ahead;
}

constexpr RowKernelsAhead with_requests{load_ahead, store_ahead, walsh_ahead, range_ahead, quantize_ahead};

}  // namespace

RowKernels const avx512_rows{load,         store,          walsh,      multiply_base, range,         quantize,
                             pack_nibbles, unpack_nibbles, dequantize, sum,           &with_requests};

}  // namespace dartquant::cpu
