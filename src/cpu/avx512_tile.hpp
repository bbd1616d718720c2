// SPDX-License-Identifier: Apache-2.0
#pragma once

// The inner loop of the 512-bit product: up to 12 rows by one or two panels, sums in 24 registers.

#include "cpu/avx512_products.hpp"

namespace dartquant::cpu {
namespace {

inline constexpr int tile_rows = 12, tile_panels = 2;

/// What a tile of `rows` rows and `panels` panels does with some lines of one group:
///   sum[r][k] = (starts[r] or, where `starts` is null, sums[r][k]) + x[r] . weights of panel k,
///   totals[r][k] = fma(float(sum[r][k]), scales[k], totals[r][k]) or, where `scales` is null, sums = sum.
struct TileArguments {
  std::uint8_t const*
      weights;              ///< [lines][low, high nibbles][panels][64], 64-byte aligned as all but x, starts
  std::uint8_t const* end;  ///< of the weights
  std::int8_t const* x;     ///< rows `stride` bytes apart
  std::int64_t stride;
  std::int32_t const* starts;
  std::int32_t* sums;   ///< [tile_rows][tile_panels][16]
  float const* scales;  ///< [panels][16]
  float* totals;        ///< [tile_rows][tile_panels][16]
};

// One instruction each, volatile so that the compiler keeps their order: left free, g++ 12 loads far ahead
// and spills sums to the stack, and one spilled sum costs as much as a row.

/// sum += four products of the bytes of each 32-bit lane.
inline __attribute__((always_inline)) void dot4(__m512i& sum, __m512i weights, __m512i x) {
  __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(x));
}
inline __attribute__((always_inline)) __m512i four_channels(std::int8_t const* x) {
  __m512i all;
  __asm__ volatile("vpbroadcastd %1, %0" : "=v"(all) : "m"(*reinterpret_cast<std::int8_t const(*)[4]>(x)));
  return all;
}
inline __attribute__((always_inline)) __m512i weights_at(std::uint8_t const* at) {
  __m512i value;
  __asm__ volatile("vmovdqa64 %1, %0" : "=v"(value) : "m"(*reinterpret_cast<std::uint8_t const(*)[64]>(at)));
  return value;
}

/// total = fma(float(sum), scale, total).
inline __attribute__((always_inline)) void add_scaled(__m512i sum, __m512 scale, float* total) {
  __asm__ volatile("vcvtdq2ps %1, %1\n\tvfmadd213ps %0, %2, %1\n\tvmovaps %1, %0"
                   : "+m"(*reinterpret_cast<float(*)[16]>(total)), "+v"(sum)
                   : "v"(scale));
}

template <int rows, int panels>
inline __attribute__((always_inline)) void start_sums(TileArguments const& a, __m512i (&sum)[rows][panels]) {
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int k = 0; k < panels; ++k)
      sum[r][k] = a.starts != nullptr ? broadcast_word(a.starts + r)
                                      : _mm512_load_si512(a.sums + 16 * (tile_panels * r + k));
}

template <int rows, int panels>
inline __attribute__((always_inline)) void add_products(TileArguments const& a,
                                                        __m512i (&sum)[rows][panels]) {
  std::int64_t const stride = a.stride;
  std::int8_t const* x[4] = {a.x, a.x + 3 * stride, a.x + 6 * stride, a.x + 9 * stride};
  std::uint8_t const* weights = a.weights;
  do {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      __m512i w[panels];
#pragma GCC unroll 2
      for (int k = 0; k < panels; ++k) w[k] = weights_at(weights + 64 * (panels * half + k));
#pragma GCC unroll 12
      for (int r = 0; r < rows; ++r) {
        __m512i const four = four_channels(x[r / 3] + r % 3 * stride + 4 * half);
#pragma GCC unroll 2
        for (int k = 0; k < panels; ++k) dot4(sum[r][k], w[k], four);
      }
    }
    weights += 128 * panels;
#pragma GCC unroll 4
    for (std::int8_t const*& row : x) row += 8;
  } while (weights != a.end);
}

template <int rows, int panels>
inline __attribute__((always_inline)) void multiply_lines(TileArguments const& a) {
  static_assert(rows >= 1 && rows <= tile_rows && panels >= 1 && panels <= tile_panels);
  __m512i sum[rows][panels];
  start_sums(a, sum);
  add_products(a, sum);
  if (a.scales == nullptr) {
#pragma GCC unroll 12
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
      for (int k = 0; k < panels; ++k) _mm512_store_si512(a.sums + 16 * (tile_panels * r + k), sum[r][k]);
    return;
  }
  __m512 scale[panels];
#pragma GCC unroll 2
  for (int k = 0; k < panels; ++k) scale[k] = _mm512_load_ps(a.scales + 16 * k);
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int k = 0; k < panels; ++k) add_scaled(sum[r][k], scale[k], a.totals + 16 * (tile_panels * r + k));
}

}  // namespace
}  // namespace dartquant::cpu
