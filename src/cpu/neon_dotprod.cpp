// SPDX-License-Identifier: Apache-2.0
// Products with the dot product instructions of Armv8.2.

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
  template <int R>
  static void fetch(std::uint8_t const*, std::int64_t) {}
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

}  // namespace

ProductKernels const neon_dotprod_products{multiply_panels<NeonDotprod>};

}  // namespace dartquant::cpu
