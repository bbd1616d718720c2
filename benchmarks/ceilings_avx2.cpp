// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "ceilings_loops.hpp"

namespace dartquant::bench {
namespace {

int sum_of(__m256i x) { return _mm_cvtsi128_si32(_mm256_castsi256_si128(x)) + _mm256_extract_epi32(x, 5); }

template <class Step>
int float_loop(std::int64_t iterations, Step const& step) {
  __m256 sums[12];
  for (int i = 0; i < 12; ++i) sums[i] = _mm256_set1_ps(1.0f + static_cast<float>(i));
  for (std::int64_t n = 0; n < iterations; ++n)
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) step(sums[i]);
  __m256 all = sums[0];
  for (int i = 1; i < 12; ++i) all = _mm256_add_ps(all, sums[i]);
  return sum_of(_mm256_castps_si256(all));
}

}  // namespace

int loop_fma_256(std::int64_t iterations) {
  __m256 const a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
  return float_loop(iterations, [&](__m256& sum) { sum = _mm256_fmadd_ps(sum, a, b); });
}

int loop_fma_256_double(std::int64_t iterations) {
  __m256d const a = _mm256_set1_pd(0.5), b = _mm256_set1_pd(0.25);
  __m256d sums[12];
  for (int i = 0; i < 12; ++i) sums[i] = _mm256_set1_pd(1.0 + i);
  for (std::int64_t n = 0; n < iterations; ++n)
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) sums[i] = _mm256_fmadd_pd(sums[i], a, b);
  __m256d all = sums[0];
  for (int i = 1; i < 12; ++i) all = _mm256_add_pd(all, sums[i]);
  return sum_of(_mm256_castpd_si256(all));
}

int loop_add_256(std::int64_t iterations) {
  __m256 const a = _mm256_set1_ps(0.5f);
  return float_loop(iterations, [&](__m256& sum) { sum = _mm256_add_ps(sum, a); });
}

int loop_avx2_int8(std::int64_t iterations) {
  __m256i const weights = _mm256_set1_epi8(15), x = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
  __m256i sums[4] = {};
  for (std::int64_t n = 0; n < iterations; ++n) {
    // Four independent sums of eight: eight pairs of 15 * 128 * 2 fit into 16 bits.
    __m256i words[4] = {};
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        __m256i product;  // written out, or a compiler would form it once
        __asm__ volatile("vpmaddubsw %2, %1, %0" : "=x"(product) : "x"(weights), "x"(x));
        words[k] = _mm256_add_epi16(words[k], product);
      }
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) sums[k] = _mm256_add_epi32(sums[k], _mm256_madd_epi16(words[k], ones));
  }
  return sum_of(_mm256_add_epi32(_mm256_add_epi32(sums[0], sums[1]), _mm256_add_epi32(sums[2], sums[3])));
}

int read_256(std::uint8_t const* data, std::size_t bytes, std::size_t ahead) {
  __m256i sums[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                     _mm256_setzero_si256()};
  for (std::size_t at = 0; at < bytes; at += 256)
#pragma GCC unroll 8
    for (std::size_t i = 0; i < 8; ++i) {
      if (ahead != 0 && i % 2 == 0)
        _mm_prefetch(reinterpret_cast<char const*>(data + at + ahead + 32 * i), _MM_HINT_T0);
      __m256i const x = _mm256_load_si256(reinterpret_cast<__m256i const*>(data + at + 32 * i));
      sums[i % 4] = _mm256_xor_si256(sums[i % 4], x);
    }
  return sum_of(_mm256_add_epi32(_mm256_add_epi32(sums[0], sums[1]), _mm256_add_epi32(sums[2], sums[3])));
}

void stream_256(std::uint8_t* data, std::size_t bytes) {
  __m256i const one = _mm256_set1_epi32(1);
  for (std::size_t at = 0; at < bytes; at += 32) {
    auto* const to = reinterpret_cast<__m256i*>(data + at);
    _mm256_store_si256(to, _mm256_add_epi32(_mm256_load_si256(to), one));
  }
}

void copy_256(std::uint8_t const* from, std::uint8_t* to, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += 32)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + at),
                        _mm256_load_si256(reinterpret_cast<__m256i const*>(from + at)));
  _mm_sfence();
}

}  // namespace dartquant::bench
