// SPDX-License-Identifier: Apache-2.0
#pragma once

// Products with the base matrices of Hadamard orders that are not powers of two, for AVX-512. Included by
// files compiled for it and by nothing else; everything is in an unnamed namespace.

#include "cpu/avx512_lanes.hpp"
#include "cpu/base_sums.hpp"

namespace dartquant::cpu {
namespace {

struct Sixteen {
  static constexpr std::int64_t lanes = 16;
  using Type = __m512;
  static DARTQUANT_INLINE Type load(float const* x) { return _mm512_loadu_ps(x); }
  static DARTQUANT_INLINE void store(float* x, Type v) { _mm512_storeu_ps(x, v); }
  static DARTQUANT_INLINE Type add(Type a, Type b) { return _mm512_add_ps(a, b); }
  static DARTQUANT_INLINE Type subtract(Type a, Type b) { return _mm512_sub_ps(a, b); }
  static DARTQUANT_INLINE Type negative(Type a) {
    return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN)));
  }
};

/// length < 16: lanes are outputs, every column a register; y is X transposed, [length, order]. A sign is a
/// factor: the product is exact, so an FMA is a sum.
template <int length>
void multiply_base_by_outputs(std::int8_t const* signs_of, std::int64_t order, float* x, float* y) {
  for (std::int64_t first = 0; first < order; first += lanes) {
    __mmask16 const mask = mask16(order - first);
    auto const signs = [&](std::int64_t j) {
      __m128i const bytes = _mm_maskz_loadu_epi8(mask, signs_of + j * order + first);
      return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
    };
    __m512 sum[length];
    for (auto& one : sum) one = _mm512_set1_ps(-0.0f);  // -0 + x is x, whatever x is
    for (std::int64_t j = 0; j < order; j += 4) {
      std::int64_t const rows = order - j;
      __m512 const none = _mm512_setzero_ps(), s0 = signs(j), s1 = rows > 1 ? signs(j + 1) : none,
                   s2 = rows > 2 ? signs(j + 2) : none, s3 = rows > 3 ? signs(j + 3) : none;
      __m512 const s01 = _mm512_mul_ps(s0, s1), s02 = _mm512_mul_ps(s0, s2), s23 = _mm512_mul_ps(s2, s3);
#pragma GCC unroll 8
      for (int k = 0; k < length; ++k) {
        float const* const at = x + j * length + k;
        auto const row = [&](int r) { return _mm512_set1_ps(at[r * length]); };
        __m512 four = row(0);
        if (rows > 1) four = _mm512_fmadd_ps(row(1), s01, four);
        if (rows == 3) four = _mm512_fmadd_ps(row(2), s02, four);
        if (rows > 3) four = _mm512_fmadd_ps(_mm512_fmadd_ps(row(3), s23, row(2)), s02, four);
        sum[k] = _mm512_fmadd_ps(four, s0, sum[k]);
      }
    }
#pragma GCC unroll 8
    for (int k = 0; k < length; ++k) _mm512_mask_storeu_ps(y + k * order + first, mask, sum[k]);
  }
  for (std::int64_t i = 0; i < order; ++i)
    for (int k = 0; k < length; ++k) x[i * length + k] = y[k * order + i];
}

void multiply_base(std::int8_t const* signs_of, std::int64_t order, std::int64_t length, float* x,
                   float* buffer) {
  switch (length) {
    case 1:
      return multiply_base_by_outputs<1>(signs_of, order, x, buffer);
    case 2:
      return multiply_base_by_outputs<2>(signs_of, order, x, buffer);
    case 4:
      return multiply_base_by_outputs<4>(signs_of, order, x, buffer);
    case 8:
      return multiply_base_by_outputs<8>(signs_of, order, x, buffer);
    case 16:
      BaseSums<Sixteen, 1>::multiply(signs_of, order, length, x, buffer);
      break;
    default:
      BaseSums<Sixteen, 2>::multiply(signs_of, order, length, x, buffer);
  }
  for (std::int64_t j = 0; j < order * length; j += lanes)
    _mm512_storeu_ps(x + j, _mm512_loadu_ps(buffer + j));
}

}  // namespace
}  // namespace dartquant::cpu
