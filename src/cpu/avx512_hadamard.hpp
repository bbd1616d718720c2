// SPDX-License-Identifier: Apache-2.0
#pragma once

// The Hadamard transforms for AVX-512. Included by files compiled for it and by nothing else; everything is
// in an unnamed namespace. x + s y with s = +-1 through an FMA rounds as the sum or the difference does.

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernel_table.hpp"

#define DARTQUANT_INLINE inline __attribute__((always_inline))

#if defined(__GNUC__) && !defined(__clang__)  // g++ 12 warns of its own undefined vectors
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace dartquant::cpu {
namespace {

constexpr std::int64_t lanes = 16;

DARTQUANT_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
/// The lowest min(count, 16) or min(count, 64) bits.
DARTQUANT_INLINE __mmask16 mask16(std::int64_t count) {
  return count >= 16 ? static_cast<__mmask16>(0xFFFF) : static_cast<__mmask16>((1u << count) - 1);
}
DARTQUANT_INLINE __mmask64 mask64(std::int64_t count) {
  return count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

// ---- Walsh-Hadamard -----------------------------------------------------------------------------------
// Adds and FMAs share two ports with 512-bit shuffles, which have one of the two. Stage 1 takes its two
// operands from loads that duplicate lanes, which need no such port; stages 2, 4 and 8 cost one shuffle each.

/// +1 where bit `h` of the lane's number is 0, else -1.
template <int h>
DARTQUANT_INLINE __m512 signs() {
  constexpr float a = h == 1 ? -1.0f : 1.0f, b = h == 2 ? -1.0f : 1.0f, c = h == 4 ? -1.0f : 1.0f;
  constexpr float d = h == 8 ? -1.0f : 1.0f;
  return _mm512_setr_ps(1, a, b, a * b, c, a * c, b * c, a * b * c, d, a * d, b * d, a * b * d, c * d,
                        a * c * d, b * c * d, a * b * c * d);
}

/// Stage h of 16 values in a register: lane j becomes x_j + x_(j + h), or x_(j - h) - x_j.
template <int h>
DARTQUANT_INLINE __m512 stage(__m512 x) {
  __m512 const other = h == 1   ? _mm512_permute_ps(x, 0xB1)
                       : h == 2 ? _mm512_permute_ps(x, 0x4E)
                       : h == 4 ? _mm512_shuffle_f32x4(x, x, 0xB1)
                                : _mm512_shuffle_f32x4(x, x, 0x4E);
  return _mm512_fmadd_ps(x, signs<h>(), other);
}

/// 16 values in memory that need not be aligned.
struct __attribute__((packed, may_alias)) Line {
  float values[16];
};
struct __attribute__((packed, may_alias)) HalfLine {
  float values[8];
};

/// Stage 1 of 16 values in memory. Written out because a compiler would load once and shuffle twice.
DARTQUANT_INLINE __m512 load_stage1(float const* x) {
  Line const& line = *reinterpret_cast<Line const*>(x);
  __m512 even, odd;
  __asm__("vmovsldup %1, %0" : "=v"(even) : "m"(line));
  __asm__("vmovshdup %1, %0" : "=v"(odd) : "m"(line));
  return _mm512_fmadd_ps(odd, signs<1>(), even);
}

/// Stage 8 of 16 values in memory.
DARTQUANT_INLINE __m512 load_stage8(float const* x) {
  HalfLine const* const line = reinterpret_cast<HalfLine const*>(x);
  __m512 low, high;
  __asm__("vbroadcastf32x8 %1, %0" : "=v"(low) : "m"(line[0]));
  __asm__("vbroadcastf32x8 %1, %0" : "=v"(high) : "m"(line[1]));
  return _mm512_fmadd_ps(high, signs<8>(), low);
}

/// All stages over `count` = 2^k registers.
template <int count>
DARTQUANT_INLINE void butterflies(__m512 (&v)[count]) {
#pragma GCC unroll 4
  for (int h = 1; h < count; h *= 2)
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i)
      if ((i & h) == 0) {
        __m512 const a = v[i], b = v[i + h];
        v[i] = _mm512_add_ps(a, b);
        v[i + h] = _mm512_sub_ps(a, b);
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

/// Blocks of 16 count values, count <= 16. One request for every `each` registers.
template <int count, int each, class Ask>
void walsh_in_registers(float* x, std::int64_t blocks, Ask& ask) {
  for (float* const end = x + blocks * count * lanes; x != end; x += count * lanes) {
    __m512 v[count];
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
      if (i % each == 0) ask.request();
      v[i] = stage<8>(stage<4>(stage<2>(load_stage1(x + i * lanes))));
    }
    butterflies(v);
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) _mm512_storeu_ps(x + i * lanes, v[i]);
  }
}

/// Stages h, 2h, ... of one block of radix h values, h >= 16: a constant, so that every address is one
/// register and an offset. One request for every two registers.
template <int radix, int h, class Ask>
void walsh_across(float* x, Ask& ask) {
  for (float* const end = x + h; x != end; x += lanes) {
    __m512 v[radix];
#pragma GCC unroll 16
    for (int i = 0; i < radix; ++i) {
      if (i % 2 == 0) ask.request();
      v[i] = _mm512_loadu_ps(x + i * h);
    }
    butterflies(v);
#pragma GCC unroll 16
    for (int i = 0; i < radix; ++i) _mm512_storeu_ps(x + i * h, v[i]);
  }
}

template <int h, class Ask>
void walsh_across(float* x, std::int64_t radix, Ask& ask) {
  if (radix == 2) walsh_across<2, h>(x, ask);
  else if (radix == 4) walsh_across<4, h>(x, ask);
  else if (radix == 8) walsh_across<8, h>(x, ask);
  else if (radix == 16) walsh_across<16, h>(x, ask);
}

/// length = 2, 4 or 8: blocks lie side by side in a register.
template <int length>
void walsh_side_by_side(float* x, std::int64_t values) {
  for (std::int64_t j = 0; j < values; j += lanes) {
    __mmask16 const mask = mask16(values - j);
    __m512 v = stage<1>(_mm512_maskz_loadu_ps(mask, x + j));
    if constexpr (length >= 4) v = stage<2>(v);
    if constexpr (length >= 8) v = stage<4>(v);
    _mm512_mask_storeu_ps(x + j, mask, v);
  }
}

/// Blocks of 512 values and more: all stages over 4096 values while they are in L1, then the rest.
template <class Ask>
void walsh_in_passes(float* x, std::int64_t length, Ask& ask) {
  std::int64_t const part = smaller(length, 4096);
  for (std::int64_t first = 0; first < length; first += part) {
    walsh_in_registers<16, 2>(x + first, part / 256, ask);
    walsh_across<256>(x + first, part / 256, ask);
  }
  NoRequests nothing;
  walsh_across<4096>(x, length / part, nothing);
}

/// One request for every register of 16 values, whatever the length (two passes make one each of two).
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
      return walsh_side_by_side<8>(x, count * 8);
    case 16:
      return walsh_in_registers<1, 1>(x, count, ask);
    case 32:
      return walsh_in_registers<2, 1>(x, count, ask);
    case 64:
      return walsh_in_registers<4, 1>(x, count, ask);
    case 128:
      return walsh_in_registers<8, 1>(x, count, ask);
    case 256:
      return walsh_in_registers<16, 1>(x, count, ask);
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
