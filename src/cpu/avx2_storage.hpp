// SPDX-License-Identifier: Apache-2.0
#pragma once

// Loads and stores of float, half and bfloat16 rows for AVX2, FMA and F16C. Included by files compiled for it
// and by nothing else; everything is in an unnamed namespace.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/avx2_base.hpp"
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {
namespace {

template <Type type, class Ask>
void load_16bit(std::uint16_t const* x, float* y, std::int64_t count, Ask& ask) {
  std::int64_t j = 0;
  for (; j + 64 <= count; j += 64) {
    ask.request();
#pragma GCC unroll 8
    for (int i = 0; i < 64; i += lanes) _mm256_storeu_ps(y + j + i, float_of_16(type, load128(x + j + i)));
  }
  for (; j + lanes <= count; j += lanes) _mm256_storeu_ps(y + j, float_of_16(type, load128(x + j)));
  if (j == count) return;
  std::uint16_t rest[lanes] = {};
  std::memcpy(rest, x + j, bytes_of(count - j, 2));
  _mm256_maskstore_ps(y + j, mask8(count - j), float_of_16(type, load128(rest)));
}

/// Sixteen-bit values are collected one by one: the gather instruction reads four bytes.
template <Type type>
void load_16bit(std::uint16_t const* x, std::int32_t const* permutation, float* y, std::int64_t count) {
  for (std::int64_t j = 0; j < count; j += lanes) {
    std::int64_t const here = smaller(lanes, count - j);
    std::uint16_t some[lanes] = {};
    for (std::int64_t i = 0; i < here; ++i) some[i] = x[permutation[j + i]];
    _mm256_maskstore_ps(y + j, mask8(here), float_of_16(type, load128(some)));
  }
}

template <class Ask>
void load_float(float const* x, std::int32_t const* permutation, float* y, std::int64_t count, Ask& ask) {
  if (permutation == nullptr) {
    std::int64_t j = 0;
    for (; j + 64 <= count; j += 64) {
      ask.request();
#pragma GCC unroll 8
      for (int i = 0; i < 64; i += lanes) _mm256_storeu_ps(y + j + i, _mm256_loadu_ps(x + j + i));
    }
    std::memcpy(y + j, x + j, bytes_of(count - j, sizeof(float)));
    return;
  }
  for (std::int64_t j = 0; j < count; j += lanes) {
    __m256i const mask = mask8(count - j), index = _mm256_maskload_epi32(permutation + j, mask);
    __m256 const values =
        _mm256_mask_i32gather_ps(_mm256_setzero_ps(), x, index, _mm256_castsi256_ps(mask), 4);
    _mm256_maskstore_ps(y + j, mask, values);
  }
}

template <class Ask>
void load_with(Type type, void const* x, std::int32_t const* permutation, float* y, std::int64_t count,
               Ask& ask) {
  if (type == Type::float32) return load_float(static_cast<float const*>(x), permutation, y, count, ask);
  auto const* const from = static_cast<std::uint16_t const*>(x);
  if (type == Type::float16) {
    if (permutation == nullptr) load_16bit<Type::float16>(from, y, count, ask);
    else load_16bit<Type::float16>(from, permutation, y, count);
  } else {
    if (permutation == nullptr) load_16bit<Type::bfloat16>(from, y, count, ask);
    else load_16bit<Type::bfloat16>(from, permutation, y, count);
  }
}

template <Type type, class Ask>
void store_16bit(float const* x, float factor, std::uint16_t* y, std::int64_t count, Ask& ask) {
  __m256 const f = _mm256_set1_ps(factor);
  auto const narrow = [](__m256 v) {
    return type == Type::float16 ? _mm256_cvtps_ph(v, nearest) : bfloat16_of_float(v);
  };
  std::int64_t j = 0;
  for (; j + 64 <= count; j += 64) {
    ask.request();
#pragma GCC unroll 8
    for (int i = 0; i < 64; i += lanes)
      store128(y + j + i, narrow(_mm256_mul_ps(_mm256_loadu_ps(x + j + i), f)));
  }
  for (; j + lanes <= count; j += lanes) store128(y + j, narrow(_mm256_mul_ps(_mm256_loadu_ps(x + j), f)));
  if (j == count) return;
  std::uint16_t rest[lanes];
  store128(rest, narrow(_mm256_mul_ps(_mm256_maskload_ps(x + j, mask8(count - j)), f)));
  std::memcpy(y + j, rest, bytes_of(count - j, 2));
}

template <class Ask>
void store_with(Type type, float const* x, float factor, void* y, std::int64_t count, Ask& ask) {
  if (type == Type::float16)
    return store_16bit<Type::float16>(x, factor, static_cast<std::uint16_t*>(y), count, ask);
  if (type == Type::bfloat16)
    return store_16bit<Type::bfloat16>(x, factor, static_cast<std::uint16_t*>(y), count, ask);
  __m256 const f = _mm256_set1_ps(factor);
  auto* const to = static_cast<float*>(y);
  std::int64_t j = 0;
  for (; j + 64 <= count; j += 64) {
    ask.request();
#pragma GCC unroll 8
    for (int i = 0; i < 64; i += lanes)
      _mm256_storeu_ps(to + j + i, _mm256_mul_ps(_mm256_loadu_ps(x + j + i), f));
  }
  for (; j + lanes <= count; j += lanes) _mm256_storeu_ps(to + j, _mm256_mul_ps(_mm256_loadu_ps(x + j), f));
  if (j == count) return;
  __m256i const mask = mask8(count - j);
  _mm256_maskstore_ps(to + j, mask, _mm256_mul_ps(_mm256_maskload_ps(x + j, mask), f));
}

}  // namespace
}  // namespace dartquant::cpu
