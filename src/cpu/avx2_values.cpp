// SPDX-License-Identifier: Apache-2.0
// Elements of files to numbers and back, eight at a time.

#include "cpu/values.hpp"

#include <cstring>

#include "cpu/avx2_base.hpp"

namespace dartquant::cpu {
namespace {

/// Eight doubles.
struct Doubles {
  __m256d low, high;
};

DARTQUANT_INLINE Doubles load(double const* x) { return {_mm256_loadu_pd(x), _mm256_loadu_pd(x + 4)}; }
DARTQUANT_INLINE __m256 load(float const* x) { return _mm256_loadu_ps(x); }
DARTQUANT_INLINE void store(double* x, __m256 v) {
  _mm256_storeu_pd(x, _mm256_cvtps_pd(_mm256_castps256_ps128(v)));
  _mm256_storeu_pd(x + 4, _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
}
DARTQUANT_INLINE void store(float* x, __m256 v) { _mm256_storeu_ps(x, v); }

DARTQUANT_INLINE __m256 joined(__m128 low, __m128 high) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1);
}
DARTQUANT_INLINE __m256 to_float(__m256 x) { return x; }
DARTQUANT_INLINE __m256 to_float(Doubles x) {
  return joined(_mm256_cvtpd_ps(x.low), _mm256_cvtpd_ps(x.high));
}

/// All ones where the comparison of doubles holds, as one mask of 32-bit lanes.
DARTQUANT_INLINE __m256i narrow_masks(__m256d low, __m256d high) {
  __m256 const even = _mm256_shuffle_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high), 0x88);
  return _mm256_permute4x64_epi64(_mm256_castps_si256(even), 0xD8);
}

/// To float so that rounding the result once more, to 16 bits, is the same as one rounding: what is not exact
/// is taken towards zero and gets an odd last bit.
DARTQUANT_INLINE __m256 to_odd_float(__m256 x) { return x; }
DARTQUANT_INLINE __m256 to_odd_float(Doubles x) {
  __m256d const sign = _mm256_set1_pd(-0.0);
  __m128 const low = _mm256_cvtpd_ps(x.low), high = _mm256_cvtpd_ps(x.high);
  __m256d const back_low = _mm256_cvtps_pd(low), back_high = _mm256_cvtps_pd(high);
  __m256i const inexact = narrow_masks(_mm256_cmp_pd(back_low, x.low, _CMP_NEQ_UQ),
                                       _mm256_cmp_pd(back_high, x.high, _CMP_NEQ_UQ));
  __m256i const beyond = narrow_masks(
      _mm256_cmp_pd(_mm256_andnot_pd(sign, back_low), _mm256_andnot_pd(sign, x.low), _CMP_GT_OQ),
      _mm256_cmp_pd(_mm256_andnot_pd(sign, back_high), _mm256_andnot_pd(sign, x.high), _CMP_GT_OQ));
  __m256i const towards_zero = _mm256_add_epi32(_mm256_castps_si256(joined(low, high)), beyond);
  return _mm256_castsi256_ps(_mm256_or_si256(towards_zero, _mm256_and_si256(inexact, _mm256_set1_epi32(1))));
}

/// All ones in the lanes of values that are infinite or NaN.
DARTQUANT_INLINE __m256i not_finite(__m256 x) {
  __m256i const exponent = _mm256_set1_epi32(0x7F800000);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(x), exponent), exponent);
}
template <Type type>
DARTQUANT_INLINE __m128i not_finite(__m128i x) {
  __m128i const exponent = _mm_set1_epi16(type == Type::float16 ? 0x7C00 : 0x7F80);
  return _mm_cmpeq_epi16(_mm_and_si128(x, exponent), exponent);
}

template <Type type, class To>
bool decode_16bit(char const* x, std::int64_t count, To* y) {
  __m128i bad = _mm_setzero_si128();
  std::int64_t j = 0;
  for (; j + lanes <= count; j += lanes) {
    __m128i const bits = load128(x + 2 * j);
    bad = _mm_or_si128(bad, not_finite<type>(bits));
    store(y + j, float_of_16(type, bits));
  }
  if (j < count) {
    std::uint16_t rest[lanes] = {};
    std::memcpy(rest, x + 2 * j, bytes_of(count - j, 2));
    __m128i const bits = load128(rest);
    To values[lanes];
    store(values, float_of_16(type, bits));
    bad = _mm_or_si128(bad, not_finite<type>(bits));
    std::memcpy(y + j, values, bytes_of(count - j, sizeof(To)));
  }
  return _mm_testz_si128(bad, bad) != 0;
}

template <class To>
bool decode_float32(char const* x, std::int64_t count, To* y) {
  __m256i bad = _mm256_setzero_si256();
  std::int64_t j = 0;
  for (; j + lanes <= count; j += lanes) {
    __m256 const v = _mm256_castsi256_ps(load256(x + 4 * j));
    bad = _mm256_or_si256(bad, not_finite(v));
    store(y + j, v);
  }
  if (j < count) {
    float rest[lanes] = {};
    std::memcpy(rest, x + 4 * j, bytes_of(count - j, 4));
    To values[lanes];
    store(values, load(rest));
    bad = _mm256_or_si256(bad, not_finite(load(rest)));
    std::memcpy(y + j, values, bytes_of(count - j, sizeof(To)));
  }
  return _mm256_testz_si256(bad, bad) != 0;
}

template <class To>
bool decode(Type type, void const* elements, std::int64_t count, To* values) {
  auto const* const from = static_cast<char const*>(elements);
  if (type == Type::float32) return decode_float32(from, count, values);
  return type == Type::float16 ? decode_16bit<Type::float16>(from, count, values)
                               : decode_16bit<Type::bfloat16>(from, count, values);
}

template <Type type, class From>
bool encode_16bit(From const* x, std::int64_t count, char* y) {
  auto const narrow = [](From const* from) {
    __m256 const v = to_odd_float(load(from));
    return type == Type::float16 ? _mm256_cvtps_ph(v, nearest) : bfloat16_of_float(v);
  };
  __m128i bad = _mm_setzero_si128();
  std::int64_t j = 0;
  for (; j + lanes <= count; j += lanes) {
    __m128i const bits = narrow(x + j);
    bad = _mm_or_si128(bad, not_finite<type>(bits));
    store128(y + 2 * j, bits);
  }
  if (j < count) {
    From rest[lanes] = {};
    std::memcpy(rest, x + j, bytes_of(count - j, sizeof(From)));
    __m128i const bits = narrow(rest);
    bad = _mm_or_si128(bad, not_finite<type>(bits));
    std::uint16_t results[lanes];
    store128(results, bits);
    std::memcpy(y + 2 * j, results, bytes_of(count - j, 2));
  }
  return _mm_testz_si128(bad, bad) != 0;
}

template <class From>
bool encode_float32(From const* x, std::int64_t count, char* y) {
  __m256i bad = _mm256_setzero_si256();
  std::int64_t j = 0;
  for (; j + lanes <= count; j += lanes) {
    __m256 const v = to_float(load(x + j));
    bad = _mm256_or_si256(bad, not_finite(v));
    store256(y + 4 * j, _mm256_castps_si256(v));
  }
  if (j < count) {
    From rest[lanes] = {};
    std::memcpy(rest, x + j, bytes_of(count - j, sizeof(From)));
    __m256 const v = to_float(load(rest));
    bad = _mm256_or_si256(bad, not_finite(v));
    float results[lanes];
    store(results, v);
    std::memcpy(y + 4 * j, results, bytes_of(count - j, 4));
  }
  return _mm256_testz_si256(bad, bad) != 0;
}

template <class From>
bool encode(Type type, From const* values, std::int64_t count, void* elements) {
  auto* const to = static_cast<char*>(elements);
  if (type == Type::float32) return encode_float32(values, count, to);
  return type == Type::float16 ? encode_16bit<Type::float16>(values, count, to)
                               : encode_16bit<Type::bfloat16>(values, count, to);
}

}  // namespace

ValueKernels const avx2_values{decode<float>, decode<double>, encode<float>, encode<double>};

}  // namespace dartquant::cpu
