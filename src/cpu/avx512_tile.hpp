// SPDX-License-Identifier: Apache-2.0
#pragma once

// The inner loop of the 512-bit product: up to 6 rows by one or two panels. Integer sums take 12 registers
// and float totals 12 more, so that the end of a group touches no memory but its scales.

#include "cpu/avx512_products.hpp"

namespace dartquant::cpu {
namespace {

inline constexpr int tile_rows = 6, tile_panels = 2;

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

/// sum[r][k] += x[r] . weights of panel k, [lines][low, high nibbles][panels][64].
template <int rows, int panels>
inline __attribute__((always_inline)) void add_products(std::int8_t const* x, std::int64_t stride,
                                                        std::uint8_t const* weights, std::int64_t lines,
                                                        __m512i (&sum)[rows][panels]) {
  std::int8_t const* x3 = x + 3 * stride;
  std::uint8_t const* const end = weights + lines * 128 * panels;
  do {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      __m512i w[panels];
#pragma GCC unroll 2
      for (int k = 0; k < panels; ++k) w[k] = weights_at(weights + 64 * (panels * half + k));
#pragma GCC unroll 6
      for (int r = 0; r < rows; ++r) {
        __m512i const four = four_channels((r < 3 ? x : x3) + r % 3 * stride + 4 * half);
#pragma GCC unroll 2
        for (int k = 0; k < panels; ++k) dot4(sum[r][k], w[k], four);
      }
    }
    weights += 128 * panels;
    x += 8;
    x3 += 8;
  } while (weights != end);
}

}  // namespace
}  // namespace dartquant::cpu
