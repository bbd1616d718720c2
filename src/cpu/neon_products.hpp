// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the products with dot product and with matrix multiply instructions share. A line is four registers of
// 4 columns.

#include <arm_neon.h>

#include <cstdint>

#include "cpu/kernel_table.hpp"
#include "cpu/panel_products.hpp"
#include "cpu/prefetch.hpp"

namespace dartquant::cpu {

namespace {

/// Nibbles of channels 0..3 (half 0) or 4..7 (half 1) of a line, columns 4 part to 4 part + 3.
struct PackedLines {
  static constexpr std::int64_t line_bytes = 64, gap = 64;
  static int8x16_t nibbles(std::uint8_t const* line, int half, int part) {
    uint8x16_t const bytes = vld1q_u8(line + 16 * part);
    return vreinterpretq_s8_u8(half == 0 ? vandq_u8(bytes, vdupq_n_u8(15)) : vshrq_n_u8(bytes, 4));
  }
  template <int R>
  [[gnu::always_inline]] static void fetch(std::uint8_t const* line, std::int64_t index) {
    fetch_ahead<R>(line, index);
  }
};

/// The parts of a Set that do not depend on how integers are multiplied.
struct NeonBase {
  template <int R>
  using Dots = int32x4_t[R][4];

  template <int R>
  static void clear(Dots<R>& dots) {
    for (int r = 0; r < R; ++r)
      for (int part = 0; part < 4; ++part) dots[r][part] = vdupq_n_s32(0);
  }

  template <int R>
  static void load_add(std::int32_t const* kept, Dots<R>& dots) {
    for (int r = 0; r < R; ++r)
      for (int part = 0; part < 4; ++part)
        dots[r][part] = vaddq_s32(dots[r][part], vld1q_s32(kept + columns * r + 4 * part));
  }

  template <int R>
  static void store(Dots<R> const& dots, std::int32_t* kept) {
    for (int r = 0; r < R; ++r)
      for (int part = 0; part < 4; ++part) vst1q_s32(kept + columns * r + 4 * part, dots[r][part]);
  }

  /// dots -= zero point of the weights * sum of x, and zero point of x * sum of the weights.
  template <int R>
  static void correct(Product const& p, GroupCell const& cell, std::int64_t first, Dots<R>& dots) {
    if (p.w.zero_points == nullptr) {
      for (int r = 0; r < R; ++r) {
        int32x4_t const eight = vshlq_n_s32(vdupq_n_s32(p.x_sums[first + r * p.w.groups]), 3);
        for (int part = 0; part < 4; ++part) dots[r][part] = vsubq_s32(dots[r][part], eight);
      }
    } else {
      uint8x16_t const bytes = vld1q_u8(p.w.zero_points + cell.at);
      uint16x8_t const low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
      uint32x4_t const zeros[4] = {vmovl_u16(vget_low_u16(low)), vmovl_high_u16(low),
                                   vmovl_u16(vget_low_u16(high)), vmovl_high_u16(high)};
      for (int r = 0; r < R; ++r)
        for (int part = 0; part < 4; ++part)
          dots[r][part] = vmlsq_n_s32(dots[r][part], vreinterpretq_s32_u32(zeros[part]),
                                      p.x_sums[first + r * p.w.groups]);
    }
    if (p.x_zero_points == nullptr) return;
    for (int r = 0; r < R; ++r) {
      std::int32_t const zero = p.x_zero_points[first + r * p.w.groups];
      if (zero == 0) continue;  // then there may be no sums
      for (int part = 0; part < 4; ++part)
        dots[r][part] = vmlsq_n_s32(dots[r][part], vld1q_s32(p.w.sums + cell.at + 4 * part), zero);
    }
  }

  template <int R>
  static void scale(Product const& p, GroupCell const& cell, std::int64_t row, std::int64_t group,
                    Dots<R>& dots, float* sums) {
    correct<R>(p, cell, row * p.w.groups + group, dots);
    for (int part = 0; part < 4; ++part) {
      float32x4_t const scales = vld1q_f32(cell.scales + 4 * part);
      for (int r = 0; r < R; ++r) {
        float32x4_t scale = scales;
        if (p.scales_per_group) scale = vmulq_n_f32(scale, p.x_scales[(row + r) * p.x_scale_stride + group]);
        float* const sum = sums + columns * r + 4 * part;
        vst1q_f32(sum, vfmaq_f32(vld1q_f32(sum), vcvtq_f32_s32(dots[r][part]), scale));
      }
    }
  }

  static void finish(float const* sums, float scale, float const* bias, float* y) {
    for (int part = 0; part < 16; part += 4)
      vst1q_f32(y + part, vfmaq_n_f32(vld1q_f32(bias + part), vld1q_f32(sums + part), scale));
  }
};

/// dots = X [R, 8 count] times lines. sdot takes four channels of four columns at once; the lane of x is part
/// of the instruction.
template <class Lines, int R>
void dot_product(std::uint8_t const* lines, std::int64_t count, std::int8_t const* x, std::int64_t stride,
                 int32x4_t (&dots)[R][4]) {
  NeonBase::clear<R>(dots);
  for (std::int64_t line = 0; line < count; ++line, lines += Lines::line_bytes, x += 8) {
    Lines::template fetch<R>(lines, line);
    int8x8_t eight[R];
    for (int r = 0; r < R; ++r) eight[r] = vld1_s8(x + r * stride);
    for (int part = 0; part < 4; ++part) {
      int8x16_t const first = Lines::nibbles(lines, 0, part), second = Lines::nibbles(lines, 1, part);
      for (int r = 0; r < R; ++r) {
        dots[r][part] = vdotq_lane_s32(dots[r][part], first, eight[r], 0);
        dots[r][part] = vdotq_lane_s32(dots[r][part], second, eight[r], 1);
      }
    }
  }
}

}  // namespace
}  // namespace dartquant::cpu
