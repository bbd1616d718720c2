// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the AVX2 and the AVX-VNNI product share. A line is two registers of 8 columns.

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/kernel_table.hpp"
#include "cpu/panel_products.hpp"
#include "cpu/prefetch.hpp"

namespace dartquant::cpu {

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
  static __m256i nibbles(std::uint8_t const* line, int half, int part) {
    __m256i const bytes = load(line + 32 * part);
    return _mm256_and_si256(half == 0 ? bytes : _mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(15));
  }
  template <int R>
  [[gnu::always_inline]] static void fetch(std::uint8_t const* line, std::int64_t index) {
    fetch_ahead<R>(line, index);
  }
};

struct UnpackedLines {
  static constexpr std::int64_t line_bytes = 128, gap = 0;
  static __m256i nibbles(std::uint8_t const* line, int half, int part) {
    return load(line + 64 * half + 32 * part);
  }
  template <int R>
  static void fetch(std::uint8_t const*, std::int64_t) {}
};

/// The parts of a Set that do not depend on the dot product.
struct Avx2Base {
  using Packed = PackedLines;
  using Unpacked = UnpackedLines;

  static void unpack(std::uint8_t const* lines, std::int64_t count, std::uint8_t* to) {
    for (std::int64_t line = 0; line < count; ++line, lines += 64, to += 128) {
      PackedLines::fetch<2>(lines, line);
      for (int half = 0; half < 2; ++half)
        for (int part = 0; part < 2; ++part)
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 64 * half + 32 * part),
                              PackedLines::nibbles(lines, half, part));
    }
  }

  template <int R>
  using Dots = __m256i[R][2];

  template <int R>
  static void load_add(std::int32_t const* kept, Dots<R>& dots) {
    for (int r = 0; r < R; ++r)
      for (int part = 0; part < 2; ++part)
        dots[r][part] = _mm256_add_epi32(dots[r][part], load(kept + columns * r + 8 * part));
  }

  template <int R>
  static void store(Dots<R> const& dots, std::int32_t* kept) {
    for (int r = 0; r < R; ++r)
      for (int part = 0; part < 2; ++part)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(kept + columns * r + 8 * part), dots[r][part]);
  }

  /// dots -= zero point of the weights * sum of x, and zero point of x * sum of the weights.
  template <int R>
  [[gnu::always_inline]] static void correct(Product const& p, GroupCell const& cell, std::int64_t first,
                                             Dots<R>& dots) {
    if (p.w.zero_points == nullptr) {
      for (int r = 0; r < R; ++r) {
        __m256i const eight = _mm256_slli_epi32(_mm256_set1_epi32(p.x_sums[first + r * p.w.groups]), 3);
        for (int part = 0; part < 2; ++part) dots[r][part] = _mm256_sub_epi32(dots[r][part], eight);
      }
    } else {
      for (int part = 0; part < 2; ++part) {
        auto const* const eight = reinterpret_cast<__m128i const*>(p.w.zero_points + cell.at + 8 * part);
        __m256i const zeros = _mm256_cvtepu8_epi32(_mm_loadl_epi64(eight));
        for (int r = 0; r < R; ++r) {
          __m256i const x_sum = _mm256_set1_epi32(p.x_sums[first + r * p.w.groups]);
          dots[r][part] = _mm256_sub_epi32(dots[r][part], _mm256_mullo_epi32(zeros, x_sum));
        }
      }
    }
    if (p.x_zero_points == nullptr) return;
    for (int r = 0; r < R; ++r) {
      std::int32_t const zero = p.x_zero_points[first + r * p.w.groups];
      if (zero == 0) continue;  // then there may be no sums
      for (int part = 0; part < 2; ++part)
        dots[r][part] = _mm256_sub_epi32(
            dots[r][part], _mm256_mullo_epi32(_mm256_set1_epi32(zero), load(p.w.sums + cell.at + 8 * part)));
    }
  }

  template <int R>
  [[gnu::always_inline]] static void scale(Product const& p, GroupCell const& cell, std::int64_t row,
                                           std::int64_t group, Dots<R>& dots, float* sums) {
    correct<R>(p, cell, row * p.w.groups + group, dots);
    __m256 const left = _mm256_loadu_ps(cell.scales), right = _mm256_loadu_ps(cell.scales + 8);
    float const* const x_scales = p.x_scales + row * p.x_scale_stride + group;
    auto const add = [&](int r, int part, __m256 scale) {
      float* const sum = sums + columns * r + 8 * part;
      _mm256_storeu_ps(sum, _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[r][part]), scale, _mm256_loadu_ps(sum)));
    };
    if (!p.scales_per_group) {
      for (int r = 0; r < R; ++r) {
        add(r, 0, left);
        add(r, 1, right);
      }
    } else {
      for (int r = 0; r < R; ++r) {
        __m256 const x_scale = _mm256_set1_ps(x_scales[r * p.x_scale_stride]);
        add(r, 0, _mm256_mul_ps(left, x_scale));
        add(r, 1, _mm256_mul_ps(right, x_scale));
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
