// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the AVX2 and the AVX-VNNI product share. A line is two registers of 8 columns.

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/kernel_table.hpp"
#include "cpu/panel_products.hpp"

namespace dartquant::cpu {

/// Defined in avx2.cpp.
void multiply_float_avx2(FloatProduct const* p);

namespace {

inline __m256i load(void const* at) { return _mm256_loadu_si256(static_cast<__m256i const*>(at)); }

/// Four activations in every lane; the load port does it.
inline __m256i broadcast_four(std::int8_t const* x) {
  std::int32_t four;
  std::memcpy(&four, x, sizeof four);
  return _mm256_set1_epi32(four);
}

/// Nibbles of channels 0..3 (half 0) or 4..7 (half 1) of a line, columns 8 part to 8 part + 7.
struct PackedLines {
  static constexpr std::int64_t line_bytes = 64, gap = 64;
  static constexpr std::int64_t ahead = 2048;  // bytes; the prefetchers stop at the end of a page
  static __m256i nibbles(std::uint8_t const* line, int half, int part) {
    __m256i const bytes = load(line + 32 * part);
    return _mm256_and_si256(half == 0 ? bytes : _mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(15));
  }
  static void fetch(std::uint8_t const* line) {
    _mm_prefetch(reinterpret_cast<char const*>(line) + ahead, _MM_HINT_T0);
  }
};

struct UnpackedLines {
  static constexpr std::int64_t line_bytes = 128, gap = 0;
  static __m256i nibbles(std::uint8_t const* line, int half, int part) {
    return load(line + 64 * half + 32 * part);
  }
  static void fetch(std::uint8_t const*) {}
};

/// The parts of a Set that do not depend on the dot product.
struct Avx2Base {
  using Packed = PackedLines;
  using Unpacked = UnpackedLines;

  static void unpack(std::uint8_t const* lines, std::int64_t count, std::uint8_t* to) {
    for (std::int64_t line = 0; line < count; ++line, lines += 64, to += 128) {
      PackedLines::fetch(lines);
      for (int half = 0; half < 2; ++half)
        for (int part = 0; part < 2; ++part)
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 64 * half + 32 * part),
                              PackedLines::nibbles(lines, half, part));
    }
  }

  template <int R>
  static void scale(Product const& p, GroupCell const& cell, std::int64_t row, std::int64_t group,
                    std::int32_t const* dots, float* sums) {
    for (int part = 0; part < 2; ++part) {
      __m256 const scales = _mm256_loadu_ps(cell.scales + 8 * part);
      for (std::int64_t r = 0; r < R; ++r) {
        std::int64_t const at = (row + r) * p.w.groups + group;
        __m256i const x_sum = _mm256_set1_epi32(p.x_sums[at]);
        __m256i n = load(dots + columns * r + 8 * part);
        if (cell.zero_points == nullptr) {
          n = _mm256_sub_epi32(n, _mm256_slli_epi32(x_sum, 3));
        } else {
          __m128i const zeros =
              _mm_loadl_epi64(reinterpret_cast<__m128i const*>(cell.zero_points + 8 * part));
          n = _mm256_sub_epi32(n, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(zeros), x_sum));
        }
        if (p.x_zero_points != nullptr && p.x_zero_points[at] != 0)
          n = _mm256_sub_epi32(
              n, _mm256_mullo_epi32(_mm256_set1_epi32(p.x_zero_points[at]), load(cell.sums + 8 * part)));
        __m256 scale = scales;
        if (p.scales_per_group)
          scale = _mm256_mul_ps(scale, _mm256_set1_ps(p.x_scales[(row + r) * p.x_scale_stride + group]));
        float* const sum = sums + columns * r + 8 * part;
        _mm256_storeu_ps(sum, _mm256_fmadd_ps(_mm256_cvtepi32_ps(n), scale, _mm256_loadu_ps(sum)));
      }
    }
  }

  static void finish(float const* sums, float scale, float const* bias, float* y) {
    for (int part = 0; part < 2; ++part)
      _mm256_storeu_ps(y + 8 * part, _mm256_fmadd_ps(_mm256_loadu_ps(sums + 8 * part), _mm256_set1_ps(scale),
                                                     _mm256_loadu_ps(bias + 8 * part)));
  }
};

}  // namespace
}  // namespace dartquant::cpu
