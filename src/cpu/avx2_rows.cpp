// SPDX-License-Identifier: Apache-2.0
// Row kernels for AVX2, FMA and F16C. Float operations are those of the portable kernels in the same order.
// What is left at the end of a row goes through small arrays, so that nothing outside it is touched.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/avx2_hadamard.hpp"
#include "cpu/avx2_look_up.hpp"
#include "cpu/avx2_storage.hpp"
#include "cpu/digits.hpp"
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {
namespace {

// ---- quantization -------------------------------------------------------------------------------------

/// A running range. 0 x is 0, or NaN where x is not finite.
struct Extremes {
  __m256 min = _mm256_setzero_ps(), max = _mm256_setzero_ps(), rest = _mm256_setzero_ps();

  DARTQUANT_INLINE void add(__m256 x) {
    min = _mm256_min_ps(x, min);  // of a NaN and a number the second: the number
    max = _mm256_max_ps(x, max);
    rest = _mm256_fmadd_ps(x, _mm256_setzero_ps(), rest);
  }
};

/// The extreme of 8 lanes.
template <class Choose>
DARTQUANT_INLINE float extreme(__m256 v, Choose const& choose) {
  __m128 x = choose(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  x = choose(x, _mm_permute_ps(x, 0x4E));
  return _mm_cvtss_f32(choose(x, _mm_permute_ps(x, 0xB1)));
}

template <class Ask>
Range range_with(float const* x, std::int64_t count, Ask& ask) {
  Extremes a, b, c, d;  // by name: an array of them would be cleared in memory first
  std::int64_t j = 0;
  for (; j + 8 * lanes <= count; j += 8 * lanes) {
#pragma GCC unroll 2
    for (int i = 0; i < 64; i += 4 * lanes) {
      ask.request();
      a.add(_mm256_loadu_ps(x + j + i));
      b.add(_mm256_loadu_ps(x + j + i + lanes));
      c.add(_mm256_loadu_ps(x + j + i + 2 * lanes));
      d.add(_mm256_loadu_ps(x + j + i + 3 * lanes));
    }
  }
  for (; j < count; j += lanes) a.add(_mm256_maskload_ps(x + j, mask8(count - j)));
  __m256 const low = _mm256_min_ps(_mm256_min_ps(a.min, b.min), _mm256_min_ps(c.min, d.min));
  __m256 const high = _mm256_max_ps(_mm256_max_ps(a.max, b.max), _mm256_max_ps(c.max, d.max));
  __m256 const rest = _mm256_add_ps(_mm256_add_ps(a.rest, b.rest), _mm256_add_ps(c.rest, d.rest));
  return {extreme(low, [](__m128 one, __m128 other) { return _mm_min_ps(one, other); }),
          extreme(high, [](__m128 one, __m128 other) { return _mm_max_ps(one, other); }),
          _mm256_movemask_ps(_mm256_cmp_ps(rest, rest, _CMP_UNORD_Q)) == 0};
}

/// round(min(x factor inverse, highest)): what is below every level, and NaN, becomes a large negative
/// number.
DARTQUANT_INLINE __m256i rounded(__m256 x, LevelMap const& map) {
  __m256 const quotient =
      _mm256_mul_ps(_mm256_mul_ps(x, _mm256_set1_ps(map.factor)), _mm256_set1_ps(map.inverse));
  __m256 const limited = _mm256_min_ps(_mm256_set1_ps(map.highest), quotient);
  return _mm256_cvttps_epi32(_mm256_round_ps(limited, nearest));
}

/// 32 levels: four registers of int32 narrow to one of bytes. The lower limit and the zero point act on
/// 16-bit numbers, half as many registers. Levels above 127 are the bytes 128..255.
template <bool above_127>
DARTQUANT_INLINE __m256i levels_of_32(float const* x, LevelMap const& map) {
  __m256i const lowest = _mm256_set1_epi16(static_cast<std::int16_t>(map.lowest));
  __m256i const zero_point = _mm256_set1_epi16(static_cast<std::int16_t>(map.zero_point));
  __m256i v[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) v[i] = rounded(_mm256_loadu_ps(x + i * lanes), map);
  __m256i a = _mm256_packs_epi32(v[0], v[1]), b = _mm256_packs_epi32(v[2], v[3]);
  a = _mm256_add_epi16(_mm256_max_epi16(a, lowest), zero_point);
  b = _mm256_add_epi16(_mm256_max_epi16(b, lowest), zero_point);
  __m256i const bytes = above_127 ? _mm256_packus_epi16(a, b) : _mm256_packs_epi16(a, b);
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

template <bool above_127, class Ask>
void quantize_as(float const* x, std::int64_t count, LevelMap const& map, std::int8_t* levels, Ask& ask) {
  std::int64_t j = 0;
  for (; j + 32 <= count; j += 32) {
    ask.request();
    store256(levels + j, levels_of_32<above_127>(x + j, map));
  }
  if (j == count) return;
  float rest[32] = {};
  std::int8_t rest_levels[32];
  std::memcpy(rest, x + j, bytes_of(count - j, sizeof(float)));
  store256(rest_levels, levels_of_32<above_127>(rest, map));
  std::memcpy(levels + j, rest_levels, bytes_of(count - j, 1));
}

template <class Ask>
void quantize_with(float const* x, std::int64_t count, LevelMap const* map, std::int8_t* levels, Ask& ask) {
  if (map->highest + static_cast<float>(map->zero_point) > 127.0f)
    quantize_as<true>(x, count, *map, levels, ask);
  else quantize_as<false>(x, count, *map, levels, ask);
}

template <bool is_signed>
void dequantize_as(std::int8_t const* levels, std::int64_t count, float scale, std::int32_t zero_point,
                   float* y) {
  __m256 const s = _mm256_set1_ps(scale);
  __m256i const zero = _mm256_set1_epi32(zero_point);
  auto const values = [&](std::int64_t eight) {
    __m128i const bytes = _mm_cvtsi64_si128(eight);
    __m256i const wide = is_signed ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes);
    return _mm256_mul_ps(s, _mm256_cvtepi32_ps(_mm256_sub_epi32(wide, zero)));
  };
  std::int64_t j = 0, eight = 0;
  for (; j + lanes <= count; j += lanes) {
    std::memcpy(&eight, levels + j, sizeof eight);
    _mm256_storeu_ps(y + j, values(eight));
  }
  if (j == count) return;
  eight = 0;
  std::memcpy(&eight, levels + j, bytes_of(count - j, 1));
  _mm256_maskstore_ps(y + j, mask8(count - j), values(eight));
}

void dequantize(std::int8_t const* levels, std::int64_t count, bool is_signed, float scale,
                std::int32_t zero_point, float* y) {
  if (is_signed) dequantize_as<true>(levels, count, scale, zero_point, y);
  else dequantize_as<false>(levels, count, scale, zero_point, y);
}

// ---- nibbles and sums ---------------------------------------------------------------------------------

/// 32 levels as 16 bytes.
DARTQUANT_INLINE __m128i packed(__m256i levels) {
  __m256i const nibbles = _mm256_and_si256(levels, _mm256_set1_epi8(0x0F));
  __m256i const joined = _mm256_maddubs_epi16(nibbles, _mm256_set1_epi16(0x1001));  // even + 16 odd
  return _mm_packus_epi16(_mm256_castsi256_si128(joined), _mm256_extracti128_si256(joined, 1));
}

void pack_nibbles(std::int8_t const* levels, std::int64_t count, std::uint8_t* bytes) {
  std::int64_t j = 0;
  for (; j + 32 <= count; j += 32) store128(bytes + j / 2, packed(load256(levels + j)));
  if (j == count) return;
  std::int8_t rest[32] = {};
  std::uint8_t rest_bytes[16];
  std::memcpy(rest, levels + j, bytes_of(count - j, 1));
  store128(rest_bytes, packed(load256(rest)));
  std::memcpy(bytes + j / 2, rest_bytes, bytes_of((count - j + 1) / 2, 1));
}

/// 16 bytes as 32 levels.
DARTQUANT_INLINE __m256i unpacked(__m128i bytes, __m256i flip) {
  __m256i const wide = _mm256_cvtepu8_epi16(bytes);
  __m256i const both = _mm256_or_si256(wide, _mm256_slli_epi16(wide, 4));
  __m256i const nibbles = _mm256_and_si256(both, _mm256_set1_epi8(0x0F));
  return _mm256_sub_epi8(_mm256_xor_si256(nibbles, flip), flip);
}

void unpack_nibbles(std::uint8_t const* bytes, std::int64_t count, bool is_signed, std::int8_t* levels) {
  __m256i const flip = _mm256_set1_epi8(is_signed ? 8 : 0);
  std::int64_t j = 0;
  for (; j + 32 <= count; j += 32) store256(levels + j, unpacked(load128(bytes + j / 2), flip));
  if (j == count) return;
  std::uint8_t rest[16] = {};
  std::int8_t rest_levels[32];
  std::memcpy(rest, bytes + j / 2, bytes_of((count - j + 1) / 2, 1));
  store256(rest_levels, unpacked(load128(rest), flip));
  std::memcpy(levels + j, rest_levels, bytes_of(count - j, 1));
}

/// Bytes are added as level + 128, without sign.
std::int32_t sum(std::int8_t const* levels, std::int64_t count) {
  __m256i const flip = _mm256_set1_epi8(-128);
  __m256i total = _mm256_setzero_si256();
  auto const add = [&](__m256i x) {
    __m256i const sums_of_8 = _mm256_sad_epu8(_mm256_xor_si256(x, flip), _mm256_setzero_si256());
    total = _mm256_add_epi64(total, sums_of_8);
  };
  std::int64_t j = 0;
  for (; j + 32 <= count; j += 32) add(load256(levels + j));
  if (j < count) {
    std::int8_t rest[32] = {};
    std::memcpy(rest, levels + j, bytes_of(count - j, 1));
    add(load256(rest));
    j += 32;
  }
  std::int64_t parts[4];
  store256(parts, total);
  return static_cast<std::int32_t>(parts[0] + parts[1] + parts[2] + parts[3] - 128 * j);
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

RowKernels const avx2_rows{load,     store,          walsh,          multiply_base, range,
                           quantize, pack_nibbles,   unpack_nibbles, dequantize,    sum,
                           digits,   &with_requests, nullptr,        nullptr,       look_up};

}  // namespace dartquant::cpu
