// SPDX-License-Identifier: Apache-2.0
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // g++ 12 warns of its own header (its bug 105593)
#endif
#include <immintrin.h>

#include "ceilings_loops.hpp"

namespace dartquant::bench {
namespace {

int sum_of(__m512i x) { return _mm512_reduce_add_epi32(x); }

template <class Step>
int float_loop(std::int64_t iterations, Step const& step) {
  __m512 sums[16];
  for (int i = 0; i < 16; ++i) sums[i] = _mm512_set1_ps(1.0f + static_cast<float>(i));
  for (std::int64_t n = 0; n < iterations; ++n)
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) step(sums[i]);
  __m512 all = sums[0];
  for (int i = 1; i < 16; ++i) all = _mm512_add_ps(all, sums[i]);
  return sum_of(_mm512_castps_si512(all));
}

}  // namespace

int loop_vnni_512(std::int64_t iterations) {
  __m512i sums[16];
  __m512i const w = _mm512_set1_epi8(3), x = _mm512_set1_epi8(-5);
  for (int i = 0; i < 16; ++i) sums[i] = _mm512_set1_epi32(i);
  for (std::int64_t n = 0; n < iterations; ++n)
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], w, x);
  __m512i all = sums[0];
  for (int i = 1; i < 16; ++i) all = _mm512_xor_si512(all, sums[i]);
  return sum_of(all);
}

int loop_fma_512(std::int64_t iterations) {
  __m512 const a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
  return float_loop(iterations, [&](__m512& sum) { sum = _mm512_fmadd_ps(sum, a, b); });
}

int loop_fma_512_double(std::int64_t iterations) {
  __m512d const a = _mm512_set1_pd(0.5), b = _mm512_set1_pd(0.25);
  __m512d sums[16];
  for (int i = 0; i < 16; ++i) sums[i] = _mm512_set1_pd(1.0 + i);
  for (std::int64_t n = 0; n < iterations; ++n)
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) sums[i] = _mm512_fmadd_pd(sums[i], a, b);
  __m512d all = sums[0];
  for (int i = 1; i < 16; ++i) all = _mm512_add_pd(all, sums[i]);
  return sum_of(_mm512_castpd_si512(all));
}

int loop_add_512(std::int64_t iterations) {
  __m512 const a = _mm512_set1_ps(0.5f);
  return float_loop(iterations, [&](__m512& sum) { sum = _mm512_add_ps(sum, a); });
}

int read_512(std::uint8_t const* data, std::size_t bytes, std::size_t ahead) {
  __m512i sums[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                     _mm512_setzero_si512()};
  for (std::size_t at = 0; at < bytes; at += 512)
#pragma GCC unroll 8
    for (std::size_t i = 0; i < 8; ++i) {
      if (ahead != 0) _mm_prefetch(reinterpret_cast<char const*>(data + at + ahead + 64 * i), _MM_HINT_T0);
      sums[i % 4] = _mm512_xor_si512(sums[i % 4], _mm512_load_si512(data + at + 64 * i));
    }
  return sum_of(_mm512_add_epi32(_mm512_add_epi32(sums[0], sums[1]), _mm512_add_epi32(sums[2], sums[3])));
}

void stream_512(std::uint8_t* data, std::size_t bytes) {
  __m512i const one = _mm512_set1_epi32(1);
  for (std::size_t at = 0; at < bytes; at += 64)
    _mm512_store_si512(data + at, _mm512_add_epi32(_mm512_load_si512(data + at), one));
}

void copy_512(std::uint8_t const* from, std::uint8_t* to, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += 64)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + at), _mm512_load_si512(from + at));
  _mm_sfence();
}

}  // namespace dartquant::bench
