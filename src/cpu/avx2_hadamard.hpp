// SPDX-License-Identifier: Apache-2.0
#pragma once

// The Hadamard transforms for AVX2. Included by files compiled for it and by nothing else; everything is in
// an unnamed namespace. x + s y with s = +-1 through an FMA rounds as the sum or the difference does, and
// spreads the butterflies over the ports of both.

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/avx2_base.hpp"
#include "cpu/base_sums.hpp"
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {
namespace {

// ---- Walsh-Hadamard -----------------------------------------------------------------------------------

/// +1 where bit `h` of the lane's number is 0, else -1.
template <int h>
DARTQUANT_INLINE __m256 signs() {
  constexpr float a = h == 1 ? -1.0f : 1.0f, b = h == 2 ? -1.0f : 1.0f, c = h == 4 ? -1.0f : 1.0f;
  return _mm256_setr_ps(1, a, b, a * b, c, a * c, b * c, a * b * c);
}

/// Stage h of 8 values in a register: lane j becomes x_j + x_(j + h), or x_(j - h) - x_j.
template <int h>
DARTQUANT_INLINE __m256 stage(__m256 x) {
  __m256 const other = h == 1   ? _mm256_permute_ps(x, 0xB1)
                       : h == 2 ? _mm256_permute_ps(x, 0x4E)
                                : _mm256_permute2f128_ps(x, x, 0x01);
  return _mm256_fmadd_ps(x, signs<h>(), other);
}

/// Stage 1 of 8 values in memory: loads that duplicate lanes need no shuffle. Written out because a compiler
/// would load once and shuffle twice.
DARTQUANT_INLINE __m256 load_stage1(float const* x) {
  struct __attribute__((packed, may_alias)) Line {
    float values[8];
  };
  Line const& line = *reinterpret_cast<Line const*>(x);
  __m256 even, odd;
  __asm__("vmovsldup %1, %0" : "=x"(even) : "m"(line));
  __asm__("vmovshdup %1, %0" : "=x"(odd) : "m"(line));
  return _mm256_fmadd_ps(odd, signs<1>(), even);
}

/// All stages over `count` = 2^k registers.
template <int count>
DARTQUANT_INLINE void butterflies(__m256 (&v)[count]) {
#pragma GCC unroll 3
  for (int h = 1; h < count; h *= 2)
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i)
      if ((i & h) == 0) {
        __m256 const a = v[i], b = v[i + h];
        v[i] = _mm256_add_ps(a, b);
        v[i + h] = _mm256_sub_ps(a, b);
      }
}

/// Requests for memory that a kernel makes on the way, or none.
struct Requests {
  Ahead ahead;

  DARTQUANT_INLINE void request() {
    _mm_prefetch(ahead.at, _MM_HINT_T0);
    ahead.at += ahead.pitch;
  }
};
struct NoRequests {
  DARTQUANT_INLINE void request() {}
};

/// Blocks of 8 count values, count <= 8. One request for every `each` registers.
template <int count, int each, class Ask>
void walsh_in_registers(float* x, std::int64_t blocks, Ask& ask) {
  for (float* const end = x + blocks * count * lanes; x != end; x += count * lanes) {
    __m256 v[count];
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) {
      if (i % each == 0) ask.request();
      v[i] = stage<4>(stage<2>(load_stage1(x + i * lanes)));
    }
    butterflies(v);
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) _mm256_storeu_ps(x + i * lanes, v[i]);
  }
}

/// Stages h, 2h, ... of `blocks` blocks of radix h values, h >= 8: a constant, so that every address is one
/// register and an offset. One request for every four registers.
template <int radix, int h, class Ask>
void walsh_across(float* x, std::int64_t blocks, Ask& ask) {
  for (; blocks > 0; --blocks, x += (radix - 1) * h)
    for (float* const end = x + h; x != end; x += lanes) {
      __m256 v[radix];
#pragma GCC unroll 8
      for (int i = 0; i < radix; ++i) {
        if (i % 4 == 0) ask.request();
        v[i] = _mm256_loadu_ps(x + i * h);
      }
      butterflies(v);
#pragma GCC unroll 8
      for (int i = 0; i < radix; ++i) _mm256_storeu_ps(x + i * h, v[i]);
    }
}

template <int h, class Ask>
void walsh_across_any(float* x, std::int64_t blocks, std::int64_t radix, Ask& ask) {
  if (radix == 2) walsh_across<2, h>(x, blocks, ask);
  else if (radix == 4) walsh_across<4, h>(x, blocks, ask);
  else if (radix == 8) walsh_across<8, h>(x, blocks, ask);
}

/// length = 2 or 4: blocks lie side by side in a register.
template <int length>
void walsh_side_by_side(float* x, std::int64_t values) {
  for (std::int64_t j = 0; j < values; j += lanes) {
    __m256i const mask = mask8(values - j);
    __m256 v = stage<1>(_mm256_maskload_ps(x + j, mask));
    if constexpr (length >= 4) v = stage<2>(v);
    _mm256_maskstore_ps(x + j, mask, v);
  }
}

/// Blocks of 128 values and more: all stages over 4096 values while they are in L1, then the rest.
template <class Ask>
void walsh_in_passes(float* x, std::int64_t length, Ask& ask) {
  std::int64_t const part = smaller(length, 4096), middle = smaller(length, 512);
  NoRequests nothing;
  for (std::int64_t first = 0; first < length; first += part) {
    walsh_in_registers<8, 4>(x + first, part / 64, ask);
    walsh_across_any<64>(x + first, part / middle, middle / 64, ask);
    walsh_across_any<512>(x + first, 1, part / middle, nothing);
  }
  walsh_across_any<4096>(x, 1, length / part, nothing);
}

/// One request for every 16 values, whatever the length (two passes make one each of two).
template <class Ask>
void walsh_with(float* x, std::int64_t count, std::int64_t length, Ask& ask) {
  switch (length) {
    case 1:
      return;
    case 2:
      return walsh_side_by_side<2>(x, count * 2);
    case 4:
      return walsh_side_by_side<4>(x, count * 4);
    case 8:
      return walsh_in_registers<1, 2>(x, count, ask);
    case 16:
      return walsh_in_registers<2, 2>(x, count, ask);
    case 32:
      return walsh_in_registers<4, 2>(x, count, ask);
    case 64:
      return walsh_in_registers<8, 2>(x, count, ask);
    default:
      for (std::int64_t i = 0; i < count; ++i) walsh_in_passes(x + i * length, length, ask);
  }
}

void walsh(float* x, std::int64_t count, std::int64_t length) {
  NoRequests nothing;
  walsh_with(x, count, length, nothing);
}

void walsh_ahead(float* x, std::int64_t count, std::int64_t length, Ahead* ahead) {
  Requests ask{*ahead};
  walsh_with(x, count, length, ask);
  *ahead = ask.ahead;
}

// ---- the base of other orders -------------------------------------------------------------------------

struct Eight {
  static constexpr std::int64_t lanes = 8;
  using Type = __m256;
  static DARTQUANT_INLINE Type load(float const* x) { return _mm256_loadu_ps(x); }
  static DARTQUANT_INLINE void store(float* x, Type v) { _mm256_storeu_ps(x, v); }
  static DARTQUANT_INLINE Type add(Type a, Type b) { return _mm256_add_ps(a, b); }
  static DARTQUANT_INLINE Type subtract(Type a, Type b) { return _mm256_sub_ps(a, b); }
  static DARTQUANT_INLINE Type negative(Type a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
};

/// length < 8: lanes are outputs, every column a register; y is X transposed, [length, order]. A sign is a
/// factor: the product is exact, so an FMA is a sum.
template <int length>
void multiply_base_by_outputs(std::int8_t const* signs_of, std::int64_t order, float* x, float* y) {
  for (std::int64_t first = 0; first < order; first += lanes) {
    std::int64_t const count = smaller(lanes, order - first);
    auto const signs_at = [&](std::int64_t j) {
      std::int64_t bytes = 0;
      std::memcpy(&bytes, signs_of + j * order + first, static_cast<std::size_t>(count));
      return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(bytes)));
    };
    __m256 sum[length];
    for (auto& one : sum) one = _mm256_set1_ps(-0.0f);  // -0 + x is x, whatever x is
    for (std::int64_t j = 0; j < order; j += 4) {
      std::int64_t const rows = order - j;
      __m256 const none = _mm256_setzero_ps(), s0 = signs_at(j), s1 = rows > 1 ? signs_at(j + 1) : none,
                   s2 = rows > 2 ? signs_at(j + 2) : none, s3 = rows > 3 ? signs_at(j + 3) : none;
      __m256 const s01 = _mm256_mul_ps(s0, s1), s02 = _mm256_mul_ps(s0, s2), s23 = _mm256_mul_ps(s2, s3);
#pragma GCC unroll 4
      for (int k = 0; k < length; ++k) {
        float const* const at = x + j * length + k;
        auto const row = [&](int r) { return _mm256_set1_ps(at[r * length]); };
        __m256 four = row(0);
        if (rows > 1) four = _mm256_fmadd_ps(row(1), s01, four);
        if (rows == 3) four = _mm256_fmadd_ps(row(2), s02, four);
        if (rows > 3) four = _mm256_fmadd_ps(_mm256_fmadd_ps(row(3), s23, row(2)), s02, four);
        sum[k] = _mm256_fmadd_ps(four, s0, sum[k]);
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < length; ++k) _mm256_maskstore_ps(y + k * order + first, mask8(count), sum[k]);
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
      BaseSums<Eight, 1>::multiply(signs_of, order, length, x, buffer);
      break;
    default:
      BaseSums<Eight, 2>::multiply(signs_of, order, length, x, buffer);
  }
  for (std::int64_t j = 0; j < order * length; j += lanes)
    _mm256_storeu_ps(x + j, _mm256_loadu_ps(buffer + j));
}

}  // namespace
}  // namespace dartquant::cpu
