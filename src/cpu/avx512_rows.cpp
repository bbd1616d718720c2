// SPDX-License-Identifier: Apache-2.0
// Row kernels for AVX-512 F, BW, DQ and VL. Float operations are those of the portable kernels in the same
// order.

#include "cpu/avx512_base.hpp"
#include "cpu/avx512_hadamard.hpp"
#include "cpu/avx512_look_up.hpp"
#include "cpu/avx512_storage.hpp"
#include "cpu/digits.hpp"

namespace dartquant::cpu {
namespace {

// ---- quantization -------------------------------------------------------------------------------------

template <class Ask>
Range range_with(float const* x, std::int64_t count, Ask& ask) {
  Ranged even, odd;
  std::int64_t j = 0;
  for (; j + 4 * lanes <= count; j += 4 * lanes) {
#pragma GCC unroll 2
    for (int i = 0; i < 4; i += 2) {
      ask.request();
      even.add(_mm512_loadu_ps(x + j + i * lanes));
      odd.add(_mm512_loadu_ps(x + j + (i + 1) * lanes));
    }
  }
  for (; j < count; j += lanes) even.add(_mm512_maskz_loadu_ps(mask16(count - j), x + j));
  even.high = _mm512_max_epi32(even.high, odd.high);
  even.low = _mm512_max_epu32(even.low, odd.low);
  return even.range();
}

/// How far a quotient is checked and what it is made of.
enum class Quotient {
  any,      ///< round(min(x factor inverse, highest)): what is below every level, and NaN, becomes a large
            ///< negative number
  bounded,  ///< round(x factor inverse): the levels are limited after the conversion
  unscaled  ///< the same where the factor is 1
};

Quotient quotient_of(LevelMap const& map) {
  if (!map.bounded) return Quotient::any;
  return map.factor == 1.0f ? Quotient::unscaled : Quotient::bounded;
}

/// The numbers of a map in every lane: in registers, where no store of levels can be thought to change them.
struct Factors {
  __m512 factor, inverse, highest;
  explicit Factors(LevelMap const& map)
      : factor(_mm512_set1_ps(map.factor)),
        inverse(_mm512_set1_ps(map.inverse)),
        highest(_mm512_set1_ps(map.highest)) {}
};

template <Quotient kind>
DARTQUANT_INLINE __m512i rounded(__m512 x, Factors const& f) {
  __m512 const scaled = kind == Quotient::unscaled ? x : _mm512_mul_ps(x, f.factor);
  __m512 const quotient = _mm512_mul_ps(scaled, f.inverse);
  if constexpr (kind != Quotient::any) return _mm512_cvt_roundps_epi32(quotient, nearest);
  return _mm512_cvt_roundps_epi32(_mm512_min_ps(f.highest, quotient), nearest);
}

/// 64 quotients, limited to 16 bits. Of every 128 bits: 4 of each of the four registers they came from.
struct Rounded {
  __m512i low, high;
};
template <Quotient kind, class Ask>
DARTQUANT_INLINE Rounded rounded64(float const* x, Factors const& f, Ask& ask) {
  __m512i v[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    if (i % 2 == 0) ask.request();
    v[i] = rounded<kind>(_mm512_loadu_ps(x + i * lanes), f);
  }
  return {_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3])};
}

/// Their dwords in the order of x.
DARTQUANT_INLINE __m512i in_order(__m512i bytes) {
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
                                  bytes);
}

/// 64 levels at a time: four registers of int32 narrow to one of bytes. The limits and the zero point act on
/// 16-bit numbers, half as many registers. Levels above 127 are the bytes 128..255.
template <Quotient kind, class Ask>
DARTQUANT_INLINE std::int64_t quantize_by_64(float const* x, std::int64_t count, LevelMap const& map,
                                             std::int8_t* levels, Ask& ask_kept) {
  Factors const f(map);
  Ask ask = ask_kept;
  bool const above_127 = map.highest + static_cast<float>(map.zero_point) > 127.0f;
  __m512i const lowest = _mm512_set1_epi16(static_cast<std::int16_t>(map.lowest));
  __m512i const highest = _mm512_set1_epi16(static_cast<std::int16_t>(map.highest));
  __m512i const zero_point = _mm512_set1_epi16(static_cast<std::int16_t>(map.zero_point));
  std::int64_t j = 0;
  for (; j + 64 <= count; j += 64) {
    Rounded const r = rounded64<kind>(x + j, f, ask);
    auto const level = [&](__m512i quotient) {
      return _mm512_add_epi16(_mm512_min_epi16(_mm512_max_epi16(quotient, lowest), highest), zero_point);
    };
    __m512i const low = level(r.low), high = level(r.high);
    __m512i const bytes = above_127 ? _mm512_packus_epi16(low, high) : _mm512_packs_epi16(low, high);
    _mm512_storeu_si512(levels + j, in_order(bytes));
  }
  ask_kept = ask;
  return j;
}

template <class Ask>
void quantize_with(float const* x, std::int64_t count, LevelMap const* map, std::int8_t* levels, Ask& ask) {
  Quotient const kind = quotient_of(*map);
  std::int64_t j = kind == Quotient::any ? quantize_by_64<Quotient::any>(x, count, *map, levels, ask)
                   : kind == Quotient::bounded
                       ? quantize_by_64<Quotient::bounded>(x, count, *map, levels, ask)
                       : quantize_by_64<Quotient::unscaled>(x, count, *map, levels, ask);
  __m512i const lowest = _mm512_set1_epi32(static_cast<std::int32_t>(map->lowest));
  for (; j < count; j += lanes) {
    __mmask16 const mask = mask16(count - j);
    __m512 const tail = _mm512_maskz_loadu_ps(mask, x + j);
    __m512i const v = _mm512_max_epi32(rounded<Quotient::any>(tail, Factors(*map)), lowest);
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

/// Levels of 4 bits lie within a byte, so the limits act on bytes: a quarter as many registers.
template <Quotient kind, class Ask>
DARTQUANT_INLINE std::int64_t quantize_nibbles_by_64(float const* x, std::int64_t count, LevelMap const& map,
                                                     std::uint8_t* bytes, Ask& ask_kept) {
  Factors const f(map);
  Ask ask = ask_kept;
  __m512i const lowest = _mm512_set1_epi8(static_cast<std::int8_t>(map.lowest));
  __m512i const highest = _mm512_set1_epi8(static_cast<std::int8_t>(map.highest));
  __m512i const zero_point = _mm512_set1_epi8(static_cast<std::int8_t>(map.zero_point));
  std::int64_t j = 0;
  for (; j + 64 <= count; j += 64) {
    Rounded const r = rounded64<kind>(x + j, f, ask);
    __m512i const quotients = _mm512_packs_epi16(r.low, r.high);
    __m512i const centered = _mm512_min_epi8(_mm512_max_epi8(quotients, lowest), highest);
    __m512i const levels = in_order(_mm512_add_epi8(centered, zero_point));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes + j / 2), _mm512_cvtepi16_epi8(joined(levels)));
  }
  ask_kept = ask;
  return j;
}

template <class Ask>
void quantize_nibbles(float const* x, std::int64_t count, LevelMap const& map, std::uint8_t* bytes,
                      Ask& ask) {
  Quotient const kind = quotient_of(map);
  std::int64_t const done =
      kind == Quotient::any       ? quantize_nibbles_by_64<Quotient::any>(x, count, map, bytes, ask)
      : kind == Quotient::bounded ? quantize_nibbles_by_64<Quotient::bounded>(x, count, map, bytes, ask)
                                  : quantize_nibbles_by_64<Quotient::unscaled>(x, count, map, bytes, ask);
  if (done == count) return;
  std::int8_t rest[64];
  NoRequests nothing;
  quantize_with(x + done, count - done, &map, rest, nothing);
  pack_nibbles(rest, count - done, bytes + done / 2);
}

void quantize_groups(QuantizedGroups const* groups, Ahead* ahead) {
  Requests ask{*ahead};
  std::int64_t const width = groups->width;
  for (std::int64_t g = 0; g < groups->count; ++g) {
    float const* const x = groups->x + g * width;
    if (groups->bits == 4)
      quantize_nibbles(x, width, groups->maps[g], static_cast<std::uint8_t*>(groups->levels) + g * width / 2,
                       ask);
    else
      quantize_with(x, width, groups->maps + g, static_cast<std::int8_t*>(groups->levels) + g * width, ask);
  }
  *ahead = ask.ahead;
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

RowKernels const avx512_rows{load,     store,          walsh,          multiply_base,   range,
                             quantize, pack_nibbles,   unpack_nibbles, dequantize,      sum,
                             digits,   &with_requests, transform,      quantize_groups, look_up};

}  // namespace dartquant::cpu
