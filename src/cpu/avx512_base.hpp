// SPDX-License-Identifier: Apache-2.0
#pragma once

// Products with the base matrices of Hadamard orders that are not powers of two, for AVX-512. Included by
// files compiled for it and by nothing else; everything is in an unnamed namespace.

#include "cpu/avx512_lanes.hpp"

namespace dartquant::cpu {
namespace {

/// Signs as floats, so that a sum or difference is one FMA with a broadcast.
constexpr std::int64_t sums = 8, chunk = 128;  // outputs at a time; rows of X whose signs are kept

/// Outputs [first, first + count) of all columns, from rows [from, to) of X.
void add_rows(std::int8_t const* signs_of, std::int64_t order, std::int64_t length, float const* x, float* y,
              std::int64_t first, std::int64_t from) {
  std::int64_t const count = smaller(sums, order - first), to = smaller(order, from + chunk);
  float sign[chunk][sums];
  for (std::int64_t j = from; j < to; ++j)
    for (std::int64_t i = 0; i < sums; ++i)
      sign[j - from][i] = i < count ? static_cast<float>(signs_of[j * order + first + i]) : 0.0f;
  for (std::int64_t k = 0; k < length; k += 2 * lanes) {
    __mmask16 const low = mask16(length - k), high = k + lanes < length ? mask16(length - k - lanes) : 0;
    __m512 a[sums], b[sums];
    std::int64_t j = from;
    if (from == 0) {
      __m512 const x0 = _mm512_maskz_loadu_ps(low, x + k), x1 = _mm512_maskz_loadu_ps(high, x + k + lanes);
#pragma GCC unroll 8
      for (int i = 0; i < sums; ++i) {
        a[i] = _mm512_mul_ps(x0, _mm512_set1_ps(sign[0][i]));
        b[i] = _mm512_mul_ps(x1, _mm512_set1_ps(sign[0][i]));
      }
      j = 1;
    } else {
#pragma GCC unroll 8
      for (int i = 0; i < sums; ++i) {
        float const* const at = y + (first + (i < count ? i : 0)) * length + k;
        a[i] = _mm512_maskz_loadu_ps(low, at);
        b[i] = _mm512_maskz_loadu_ps(high, at + lanes);
      }
    }
    for (; j < to; ++j) {
      float const* const row = x + j * length + k;
      __m512 const x0 = _mm512_maskz_loadu_ps(low, row), x1 = _mm512_maskz_loadu_ps(high, row + lanes);
#pragma GCC unroll 8
      for (int i = 0; i < sums; ++i) {
        __m512 const s = _mm512_set1_ps(sign[j - from][i]);
        a[i] = _mm512_fmadd_ps(x0, s, a[i]);
        b[i] = _mm512_fmadd_ps(x1, s, b[i]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < sums; ++i)
      if (i < count) {
        _mm512_mask_storeu_ps(y + (first + i) * length + k, low, a[i]);
        _mm512_mask_storeu_ps(y + (first + i) * length + k + lanes, high, b[i]);
      }
  }
}

/// length < 16: lanes are outputs, every column a register; y is X transposed, [length, order].
template <int length>
void multiply_base_by_outputs(std::int8_t const* signs_of, std::int64_t order, float* x, float* y) {
  for (std::int64_t first = 0; first < order; first += lanes) {
    __mmask16 const mask = mask16(order - first);
    __m512 sum[length];
    for (std::int64_t j = 0; j < order; ++j) {
      __m128i const bytes = _mm_maskz_loadu_epi8(mask, signs_of + j * order + first);
      __m512 const s = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
#pragma GCC unroll 8
      for (int k = 0; k < length; ++k) {
        __m512 const value = _mm512_set1_ps(x[j * length + k]);
        sum[k] = j == 0 ? _mm512_mul_ps(value, s) : _mm512_fmadd_ps(value, s, sum[k]);
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
    default:
      for (std::int64_t first = 0; first < order; first += sums)
        for (std::int64_t from = 0; from < order; from += chunk)
          add_rows(signs_of, order, length, x, buffer, first, from);
      for (std::int64_t j = 0; j < order * length; j += lanes) {
        __mmask16 const mask = mask16(order * length - j);
        _mm512_mask_storeu_ps(x + j, mask, _mm512_maskz_loadu_ps(mask, buffer + j));
      }
  }
}

}  // namespace
}  // namespace dartquant::cpu
