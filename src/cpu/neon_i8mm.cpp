// SPDX-License-Identifier: Apache-2.0
// Products with the 8-bit matrix multiply instructions: smmla, two rows times two columns of eight channels.

#include <arm_neon.h>

#include <cstdint>

#include "cpu/kernel_table.hpp"
#include "cpu/neon_products.hpp"

namespace dartquant::cpu {
namespace {

/// Eight channels of columns 2 pair and 2 pair + 1. The low and the high nibbles of a line are channels 0..3
/// and 4..7 of a column; interleaving them by dwords brings the eight together.
int8x16_t column_pair(std::uint8_t const* line, int pair) {
  int32x4_t const low = vreinterpretq_s32_s8(PackedLines::nibbles(line, 0, pair / 2));
  int32x4_t const high = vreinterpretq_s32_s8(PackedLines::nibbles(line, 1, pair / 2));
  return vreinterpretq_s8_s32(pair % 2 == 0 ? vzip1q_s32(low, high) : vzip2q_s32(low, high));
}

struct PackedPairs : PackedLines {
  static int8x16_t columns_of(std::uint8_t const* line, int pair) { return column_pair(line, pair); }
};

struct UnpackedPairs {
  static constexpr std::int64_t line_bytes = 128, gap = 0;
  static int8x16_t columns_of(std::uint8_t const* line, int pair) {
    return vreinterpretq_s8_u8(vld1q_u8(line + 16 * pair));
  }
  template <int R>
  static void fetch(std::uint8_t const*, std::int64_t) {}
};

struct NeonI8mm : NeonBase {
  using Packed = PackedPairs;
  using Unpacked = UnpackedPairs;
  static constexpr int tile_rows = 4, stream_rows = 4;  // 16 sums, 8 weights and 2 pairs of rows of 32

  static void unpack(std::uint8_t const* lines, std::int64_t count, std::uint8_t* to) {
    for (std::int64_t line = 0; line < count; ++line, lines += 64, to += 128)
      for (int pair = 0; pair < 8; ++pair)
        vst1q_u8(to + 16 * pair, vreinterpretq_u8_s8(column_pair(lines, pair)));
  }

  /// An odd last row is multiplied twice, beside itself.
  template <class Lines, int R>
  static void dot_pairs(std::uint8_t const* lines, std::int64_t count, std::int8_t const* x,
                        std::int64_t stride, Dots<R>& dots) {
    constexpr int row_pairs = (R + 1) / 2;
    int32x4_t sums[row_pairs][8];
    for (auto& row : sums)
      for (int32x4_t& sum : row) sum = vdupq_n_s32(0);
    for (std::int64_t line = 0; line < count; ++line, lines += Lines::line_bytes, x += 8) {
      Lines::template fetch<R>(lines, line);
      int8x16_t rows[row_pairs];
      for (int r = 0; r < row_pairs; ++r)
        rows[r] = vcombine_s8(vld1_s8(x + 2 * r * stride),
                              vld1_s8(x + (2 * r + 1 < R ? 2 * r + 1 : 2 * r) * stride));
      for (int pair = 0; pair < 8; ++pair) {
        int8x16_t const weights = Lines::columns_of(lines, pair);
        for (int r = 0; r < row_pairs; ++r) sums[r][pair] = vmmlaq_s32(sums[r][pair], rows[r], weights);
      }
    }
    for (int r = 0; r < R; ++r)
      for (int part = 0; part < 4; ++part) {
        int64x2_t const left = vreinterpretq_s64_s32(sums[r / 2][2 * part]);
        int64x2_t const right = vreinterpretq_s64_s32(sums[r / 2][2 * part + 1]);
        dots[r][part] = vreinterpretq_s32_s64(r % 2 == 0 ? vzip1q_s64(left, right) : vzip2q_s64(left, right));
      }
  }

  /// One row alone needs no pairs.
  template <class Lines, int R>
  static void dot(std::uint8_t const* lines, std::int64_t count, std::int8_t const* x, std::int64_t stride,
                  Dots<R>& dots) {
    if constexpr (R == 1 && Lines::line_bytes == Packed::line_bytes)
      dot_product<PackedLines, R>(lines, count, x, stride, dots);
    else dot_pairs<Lines, R>(lines, count, x, stride, dots);
  }
};

}  // namespace

ProductKernels const neon_i8mm_products{multiply_panels<NeonI8mm>};

}  // namespace dartquant::cpu
