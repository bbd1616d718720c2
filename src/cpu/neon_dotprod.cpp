// SPDX-License-Identifier: Apache-2.0
// Products with the dot product instructions of Armv8.2; the float products of all Arm processors.

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/kernel_table.hpp"
#include "cpu/neon_products.hpp"

namespace dartquant::cpu {
namespace {

struct UnpackedLines {
  static constexpr std::int64_t line_bytes = 128, gap = 0;
  static int8x16_t nibbles(std::uint8_t const* line, int half, int part) {
    return vreinterpretq_s8_u8(vld1q_u8(line + 64 * half + 16 * part));
  }
  static void fetch(std::uint8_t const*) {}
};

struct NeonDotprod : NeonBase {
  using Packed = PackedLines;
  using Unpacked = UnpackedLines;
  static constexpr int tile_rows = 5, stream_rows = 4;  // 20 sums, 5 rows of x and two weights: 27 of 32

  static void unpack(std::uint8_t const* lines, std::int64_t count, std::uint8_t* to) {
    for (std::int64_t line = 0; line < count; ++line, lines += 64, to += 128)
      for (int part = 0; part < 4; ++part)
        for (int half = 0; half < 2; ++half)
          vst1q_u8(to + 64 * half + 16 * part, vreinterpretq_u8_s8(Packed::nibbles(lines, half, part)));
  }

  template <class Lines, int R>
  static void dot(std::uint8_t const* lines, std::int64_t count, std::int8_t const* x, std::int64_t stride,
                  Dots<R>& dots) {
    dot_product<Lines, R>(lines, count, x, stride, dots);
  }
};

/// Nibbles as floats. A float of four significant bits is its two upper bytes, and each of them is one table
/// look-up away.
struct Table {
  uint8x16_t low, high;  ///< third and fourth byte
};

Table table_of(bool symmetric) {  // nibble - 8, or the nibble
  static constexpr std::uint8_t bytes[4][16] = {
      {0x00, 0xE0, 0xC0, 0xA0, 0x80, 0x40, 0x00, 0x80, 0x00, 0x80, 0x00, 0x40, 0x80, 0xA0, 0xC0, 0xE0},
      {0xC1, 0xC0, 0xC0, 0xC0, 0xC0, 0xC0, 0xC0, 0xBF, 0x00, 0x3F, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40},
      {0x00, 0x80, 0x00, 0x40, 0x80, 0xA0, 0xC0, 0xE0, 0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70},
      {0x00, 0x3F, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41}};
  int const first = symmetric ? 0 : 2;
  return {vld1q_u8(bytes[first]), vld1q_u8(bytes[first + 1])};
}

/// The lanes of a register of weights: two channels of columns 0, 1 (lower) or 2, 3 (upper) of a part.
struct Weights {
  float32x4_t lower, upper;
};

/// Channels 0, 1 (pair 0) or 2, 3 (pair 1) out of the 16-bit halves of floats.
Weights weights_of(uint32x4_t lower, uint32x4_t upper, int pair) {
  uint32x4_t const mask = vdupq_n_u32(0xFFFF0000u);
  return {vreinterpretq_f32_u32(pair == 0 ? vshlq_n_u32(lower, 16) : vandq_u32(lower, mask)),
          vreinterpretq_f32_u32(pair == 0 ? vshlq_n_u32(upper, 16) : vandq_u32(upper, mask))};
}

/// Adds X [R, 8] times parts of a line to the sums.
template <int R, int parts, bool asymmetric>
void add_line(std::uint8_t const* line, float const* x, std::int64_t stride, Table table,
              Weights const (&zeros)[parts], Weights (&sums)[R][parts]) {
  // Bytes 0, 2, 1, 3 of every column, so that a pair of channels shares the lower halves of two lanes.
  static constexpr std::uint8_t order[16] = {0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15};
  for (int part = 0; part < parts; ++part) {
    uint8x16_t const bytes = vqtbl1q_u8(vld1q_u8(line + 16 * part), vld1q_u8(order));
    for (int half = 0; half < 2; ++half) {
      uint8x16_t const nibbles = half == 0 ? vandq_u8(bytes, vdupq_n_u8(15)) : vshrq_n_u8(bytes, 4);
      uint8x16_t const low = vqtbl1q_u8(table.low, nibbles), high = vqtbl1q_u8(table.high, nibbles);
      uint32x4_t const lower = vreinterpretq_u32_u8(vzip1q_u8(low, high));
      uint32x4_t const upper = vreinterpretq_u32_u8(vzip2q_u8(low, high));
      for (int pair = 0; pair < 2; ++pair) {
        Weights w = weights_of(lower, upper, pair);
        if constexpr (asymmetric)
          w = {vsubq_f32(w.lower, zeros[part].lower), vsubq_f32(w.upper, zeros[part].upper)};
        for (int r = 0; r < R; ++r) {
          float32x2_t const two = vld1_f32(x + r * stride + 4 * half + 2 * pair);
          float32x4_t const twice = vcombine_f32(two, two);
          Weights& sum = sums[r][part];
          sum = {vfmaq_f32(sum.lower, w.lower, twice), vfmaq_f32(sum.upper, w.upper, twice)};
        }
      }
    }
  }
}

/// Rows [row, row + R) times columns of a panel from `first` on, four per part.
template <int R, int parts, bool asymmetric>
void multiply_float_parts(FloatProduct const& p, std::int64_t panel, std::int64_t row, std::int64_t first,
                          float (&y)[R][columns]) {
  Panels const w = p.w;
  Table const table = table_of(!asymmetric);
  std::uint8_t const* lines = packed_lines(w, panel, 0) + 4 * first;
  float const* x = p.x + row * p.x_stride;
  float32x4_t total[R][parts] = {};
  for (std::int64_t group = 0; group < w.groups; ++group) {
    std::int64_t const count = lines_of(w, group);
    Weights zeros[parts] = {};
    if constexpr (asymmetric)
      for (int part = 0; part < parts; ++part) {
        float zero[4];
        std::uint8_t const* const at =
            w.zero_points + (panel * w.groups + group) * columns + first + 4 * part;
        for (int c = 0; c < 4; ++c) zero[c] = static_cast<float>(at[c]);
        float32x4_t const four = vld1q_f32(zero);
        zeros[part] = {vzip1q_f32(four, four), vzip2q_f32(four, four)};
      }
    Weights sums[R][parts] = {};
    for (std::int64_t line = 0; line < count; ++line, lines += 64, x += 8) {
      PackedLines::fetch(lines);
      add_line<R, parts, asymmetric>(lines, x, p.x_stride, table, zeros, sums);
    }
    for (int part = 0; part < parts; ++part) {
      float32x4_t const scales = vreinterpretq_f32_u8(vld1q_u8(lines + 16 * part));
      for (int r = 0; r < R; ++r)
        total[r][part] =
            vfmaq_f32(total[r][part], vpaddq_f32(sums[r][part].lower, sums[r][part].upper), scales);
    }
    lines += 64;
  }
  for (int r = 0; r < R; ++r)
    for (int part = 0; part < parts; ++part) vst1q_f32(y[r] + first + 4 * part, total[r][part]);
}

template <int R, bool asymmetric>
void multiply_float_rows(FloatProduct const& p, std::int64_t panel, std::int64_t row, float const* bias,
                         std::size_t bytes) {
  if constexpr (R > 1)
    if (p.rows - row < R) return multiply_float_rows<R - 1, asymmetric>(p, panel, row, bias, bytes);
  constexpr int parts = R <= 2 ? 4 : 2;  // 8 to 16 sums: enough for the latency of an FMA, few enough to stay
  float y[R][columns];
  for (std::int64_t first = 0; first < columns; first += 4 * parts)
    multiply_float_parts<R, parts, asymmetric>(p, panel, row, first, y);
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < columns; c += 4)
      vst1q_f32(y[r] + c, vaddq_f32(vld1q_f32(y[r] + c), vld1q_f32(bias + c)));
    std::memcpy(p.y + (row + r) * p.y_stride + panel * columns, y[r], bytes);
  }
}

template <bool asymmetric>
void multiply_float_panels(FloatProduct const& p) {
  for (std::int64_t panel = 0; panel < p.w.count; ++panel) {
    std::int64_t const left = p.cols - panel * columns;
    std::size_t const bytes = static_cast<std::size_t>(left < columns ? left : columns) * sizeof(float);
    float bias[columns] = {};
    if (p.bias != nullptr) std::memcpy(bias, p.bias + panel * columns, bytes);
    for (std::int64_t row = 0; row < p.rows; row += 4)
      multiply_float_rows<4, asymmetric>(p, panel, row, bias, bytes);
  }
}

}  // namespace

void multiply_float_neon(FloatProduct const* p) {
  if (p->w.zero_points == nullptr) multiply_float_panels<false>(*p);
  else multiply_float_panels<true>(*p);
}

ProductKernels const neon_dotprod_products{multiply_panels<NeonDotprod>, multiply_float_neon};

}  // namespace dartquant::cpu
