// SPDX-License-Identifier: Apache-2.0
#pragma once

// Walsh-Hadamard transforms for AVX-512: rows are loaded, transformed and their range is found in as few
// passes over the first-level cache as their length allows. Included by files compiled for it and by nothing
// else; everything is in an unnamed namespace. x + s y with s = +-1 through an FMA rounds as the sum or the
// difference does.

#include "cpu/avx512_storage.hpp"

namespace dartquant::cpu {
namespace {

// ---- stages -------------------------------------------------------------------------------------------

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

template <int h, int count>
DARTQUANT_INLINE void stages(__m512 (&v)[count]) {
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) v[i] = stage<h>(v[i]);
}

/// Where a processor adds and multiplies in different units, every sum and difference of the stages below
/// goes to one of them: `mixed` sends the differences to the multipliers, which the stages above already
/// fill.
enum class Units { adders, mixed };

/// All stages over `count` = 2^k registers.
template <Units units, int count>
DARTQUANT_INLINE void butterflies(__m512 (&v)[count]) {
  __m512 const one = _mm512_set1_ps(1.0f);
#pragma GCC unroll 4
  for (int h = 1; h < count; h *= 2)
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i)
      if ((i & h) == 0) {
        __m512 const a = v[i], b = v[i + h];
        v[i] = _mm512_add_ps(a, b);
        v[i + h] = units == Units::mixed ? _mm512_fnmadd_ps(b, one, a) : _mm512_sub_ps(a, b);
      }
}

// ---- what becomes of the results ----------------------------------------------------------------------

struct Kept {
  DARTQUANT_INLINE void operator()(__m512 x, float* y) { _mm512_storeu_ps(y, x); }
};

struct Scaled {
  __m512 factor;
  DARTQUANT_INLINE void operator()(__m512 x, float* y) { _mm512_storeu_ps(y, _mm512_mul_ps(x, factor)); }
};

/// A running range, of bits: as integers positive floats are in order, negative ones backwards and, without
/// sign, above them. What is not finite lies beyond every number on its side.
struct Ranged {
  __m512i high = _mm512_setzero_si512(), low = _mm512_setzero_si512();

  DARTQUANT_INLINE void add(__m512 x) {
    high = _mm512_max_epi32(high, _mm512_castps_si512(x));
    low = _mm512_max_epu32(low, _mm512_castps_si512(x));
  }
  DARTQUANT_INLINE void operator()(__m512 x, float* y) {
    add(x);
    _mm512_storeu_ps(y, x);
  }
  [[nodiscard]] DARTQUANT_INLINE Range range() const {
    constexpr std::uint32_t sign = 0x80000000u, infinity = 0x7F800000u;
    std::uint32_t const top = static_cast<std::uint32_t>(_mm512_reduce_max_epi32(high));
    std::uint32_t const any = _mm512_reduce_max_epu32(low), bottom = any > sign ? any : 0;
    return {__builtin_bit_cast(float, bottom), __builtin_bit_cast(float, top),
            top < infinity && (bottom & ~sign) < infinity};
  }
};

// ---- passes -------------------------------------------------------------------------------------------
// Sinks and requests are copied into registers and back: through a reference every store could change them.

/// Blocks of 16 count values from `x` to `y`, count <= 16. One request for every `each` registers.
template <Type type, int count, int each, class Sink, class Ask>
void walsh_in_registers(void const* x, float* y, std::int64_t blocks, Sink& sink_kept, Ask& ask_kept) {
  Sink sink = sink_kept;
  Ask ask = ask_kept;
  constexpr int group = count < 4 ? count : 4;  // whose latencies overlap
  constexpr std::int64_t bytes = type == Type::float32 ? 4 : 2;
  for (std::int64_t at = 0; at < blocks * count * lanes; at += count * lanes) {
    __m512 v[count];
#pragma GCC unroll 16
    for (int i = 0; i < count; i += group) {
#pragma GCC unroll 4
      for (int k = i; k < i + group; ++k) {
        if (k % each == 0) ask.request();
        ask.draw(static_cast<char const*>(x) + bytes * (at + (k + count) * lanes));
        v[k] = stage<1>(load16<type>(x, at + k * lanes, mask16(lanes)));
      }
#pragma GCC unroll 4
      for (int k = i; k < i + group; ++k) v[k] = stage<2>(v[k]);
#pragma GCC unroll 4
      for (int k = i; k < i + group; ++k) v[k] = stage<4>(v[k]);
#pragma GCC unroll 4
      for (int k = i; k < i + group; ++k) v[k] = stage<8>(v[k]);
    }
    butterflies<Units::mixed>(v);
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) sink(v[i], y + at + i * lanes);
  }
  sink_kept = sink;
  ask_kept = ask;
}

/// Stages h, 2h, ... of one block of radix h values, h >= 16: a constant, so that every address is one
/// register and an offset. One request for every two registers.
template <int radix, int h, class Sink, class Ask>
void walsh_across(float* x, Sink& sink_kept, Ask& ask_kept) {
  Sink sink = sink_kept;
  Ask ask = ask_kept;
  for (float* const end = x + h; x != end; x += lanes) {
    __m512 v[radix];
#pragma GCC unroll 16
    for (int i = 0; i < radix; ++i) {
      if (i % 2 == 0) ask.request();
      v[i] = _mm512_loadu_ps(x + i * h);
    }
    butterflies<Units::mixed>(v);
#pragma GCC unroll 16
    for (int i = 0; i < radix; ++i) sink(v[i], x + i * h);
  }
  sink_kept = sink;
  ask_kept = ask;
}

template <int h, class Sink, class Ask>
void walsh_across(float* x, std::int64_t radix, Sink& sink, Ask& ask) {
  if (radix == 2) walsh_across<2, h>(x, sink, ask);
  else if (radix == 4) walsh_across<4, h>(x, sink, ask);
  else if (radix == 8) walsh_across<8, h>(x, sink, ask);
  else if (radix == 16) walsh_across<16, h>(x, sink, ask);
}

/// A block of 512 values and more: all stages over 4096 values while they are in L1, then the rest.
template <Type type, class Sink, class Ask>
void walsh_in_passes(void const* x, float* y, std::int64_t length, Sink& sink, Ask& ask) {
  constexpr std::int64_t bytes = type == Type::float32 ? 4 : 2, most = 4096;
  std::int64_t const part = smaller(length, most);
  Kept kept;
  NoRequests nothing;
  for (std::int64_t first = 0; first < length; first += part) {
    walsh_in_registers<type, 16, 2>(static_cast<char const*>(x) + first * bytes, y + first, part / 256, kept,
                                    ask);
    if (length <= most) walsh_across<256>(y + first, part / 256, sink, ask);
    else walsh_across<256>(y + first, part / 256, kept, ask);
  }
  if (length > most) walsh_across<most>(y, length / part, sink, nothing);
}

/// `count` blocks of `length` = 2^m >= 16 values. One request for every register of 16 values (two passes
/// make one each of two).
template <Type type, class Sink, class Ask>
void walsh_blocks(void const* x, float* y, std::int64_t count, std::int64_t length, Sink& sink, Ask& ask) {
  constexpr std::int64_t bytes = type == Type::float32 ? 4 : 2;
  switch (length) {
    case 16:
      return walsh_in_registers<type, 1, 1>(x, y, count, sink, ask);
    case 32:
      return walsh_in_registers<type, 2, 1>(x, y, count, sink, ask);
    case 64:
      return walsh_in_registers<type, 4, 1>(x, y, count, sink, ask);
    case 128:
      return walsh_in_registers<type, 8, 1>(x, y, count, sink, ask);
    case 256:
      return walsh_in_registers<type, 16, 1>(x, y, count, sink, ask);
    default:
      for (std::int64_t i = 0; i < count; ++i)
        walsh_in_passes<type>(static_cast<char const*>(x) + i * length * bytes, y + i * length, length, sink,
                              ask);
  }
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

template <class Ask>
void walsh_with(float* x, std::int64_t count, std::int64_t length, Ask& ask) {
  Kept kept;
  if (length == 2) walsh_side_by_side<2>(x, count * 2);
  else if (length == 4) walsh_side_by_side<4>(x, count * 4);
  else if (length == 8) walsh_side_by_side<8>(x, count * 8);
  else if (length >= 16) walsh_blocks<Type::float32>(x, x, count, length, kept, ask);
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

// ---- load, transform and range, or factor, at once ----------------------------------------------------

template <Type type>
void transform_as(Transform const& t, Requests& ask) {
  constexpr std::int64_t bytes = type == Type::float32 ? 4 : 2;
  if (t.ranges == nullptr) {
    Scaled scaled{_mm512_set1_ps(t.factor)};
    return walsh_blocks<type>(t.x, t.y, t.count, t.length, scaled, ask);
  }
  std::int64_t const each = t.per_range * t.length;
  auto const* x = static_cast<char const*>(t.x);
  float* y = t.y;
  for (Range *to = t.ranges, *const end = to + t.count / t.per_range; to != end; ++to) {
    Ranged ranged;
    walsh_blocks<type>(x, y, t.per_range, t.length, ranged, ask);
    *to = ranged.range();
    x += each * bytes;
    y += each;
  }
}

void transform(Transform const* t, Ahead* ahead) {
  Requests ask{*ahead};
  if (t->type == Type::float32) transform_as<Type::float32>(*t, ask);
  else if (t->type == Type::float16) transform_as<Type::float16>(*t, ask);
  else transform_as<Type::bfloat16>(*t, ask);
  *ahead = ask.ahead;
}

}  // namespace
}  // namespace dartquant::cpu
