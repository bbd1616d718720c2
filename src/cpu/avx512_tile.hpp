// SPDX-License-Identifier: Apache-2.0
#pragma once

// The inner loop of the 512-bit product: up to 12 rows by one or two panels, sums in 24 registers. It is
// written in assembler because no compiler of today keeps 24 sums and 12 addresses in registers reliably, and
// one spilled sum costs as much as a whole row.

#include <cstdint>

namespace dartquant::cpu {
namespace {

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
  std::int32_t* sums;   ///< [12][2][16]
  float const* scales;  ///< [panels][16]
  float* totals;        ///< [12][2][16]
};

// clang-format off
#define DARTQUANT_EACH6(D) D(0, 0, 1) D(1, 2, 3) D(2, 4, 5) D(3, 6, 7) D(4, 8, 9) D(5, 10, 11)
#define DARTQUANT_EACH7(D) DARTQUANT_EACH6(D) D(6, 12, 13)
#define DARTQUANT_EACH8(D) DARTQUANT_EACH7(D) D(7, 14, 15)
#define DARTQUANT_EACH9(D) DARTQUANT_EACH8(D) D(8, 16, 17)
#define DARTQUANT_EACH10(D) DARTQUANT_EACH9(D) D(9, 18, 19)
#define DARTQUANT_EACH11(D) DARTQUANT_EACH10(D) D(10, 20, 21)
#define DARTQUANT_EACH12(D) DARTQUANT_EACH11(D) D(11, 22, 23)

// What happens to the sums a and b of row r; one panel has a alone. Two broadcasts and no move: moves between
// registers may need a port of the arithmetic, loads never do.
#define DARTQUANT_START1(r, a, b) "vpbroadcastd 4*" #r "(%[starts]), %%zmm" #a "\n\t"
#define DARTQUANT_START2(r, a, b) DARTQUANT_START1(r, a, b) DARTQUANT_START1(r, b, a)
#define DARTQUANT_LOAD1(r, a, b) "vmovdqa64 64*" #a "(%[sums]), %%zmm" #a "\n\t"
#define DARTQUANT_LOAD2(r, a, b) DARTQUANT_LOAD1(r, a, b) DARTQUANT_LOAD1(r, b, a)
#define DARTQUANT_STORE1(r, a, b) "vmovdqa64 %%zmm" #a ", 64*" #a "(%[sums])\n\t"
#define DARTQUANT_STORE2(r, a, b) DARTQUANT_STORE1(r, a, b) DARTQUANT_STORE1(r, b, a)
#define DARTQUANT_SCALE(a, scale) \
  "vcvtdq2ps %%zmm" #a ", %%zmm" #a "\n\tvfmadd213ps 64*" #a "(%[totals]), %%zmm" #scale ", %%zmm" #a "\n\t" \
  "vmovaps %%zmm" #a ", 64*" #a "(%[totals])\n\t"
#define DARTQUANT_SCALE1(r, a, b) DARTQUANT_SCALE(a, 28)
#define DARTQUANT_SCALE2(r, a, b) DARTQUANT_SCALE(a, 28) DARTQUANT_SCALE(b, 29)

// Four channels of one row: one panel takes them straight from memory, two share one broadcast.
#define DARTQUANT_DOT1(a, b, address) "vpdpbusd " address "%{1to16%}, %%zmm28, %%zmm" #a "\n\t"
#define DARTQUANT_DOT2(a, b, address) \
  "vpbroadcastd " address ", %%zmm30\n\tvpdpbusd %%zmm30, %%zmm28, %%zmm" #a "\n\t" \
  "vpdpbusd %%zmm30, %%zmm29, %%zmm" #b "\n\t"

#define DARTQUANT_ROWS6(D, h) \
  D(0, 1, h "(%[x0])") D(2, 3, h "(%[x0],%[stride])") D(4, 5, h "(%[x0],%[stride],2)") \
  D(6, 7, h "(%[x3])") D(8, 9, h "(%[x3],%[stride])") D(10, 11, h "(%[x3],%[stride],2)")
#define DARTQUANT_ROWS7(D, h) DARTQUANT_ROWS6(D, h) D(12, 13, h "(%[x6])")
#define DARTQUANT_ROWS8(D, h) DARTQUANT_ROWS7(D, h) D(14, 15, h "(%[x6],%[stride])")
#define DARTQUANT_ROWS9(D, h) DARTQUANT_ROWS8(D, h) D(16, 17, h "(%[x6],%[stride],2)")
#define DARTQUANT_ROWS10(D, h) DARTQUANT_ROWS9(D, h) D(18, 19, h "(%[x9])")
#define DARTQUANT_ROWS11(D, h) DARTQUANT_ROWS10(D, h) D(20, 21, h "(%[x9],%[stride])")
#define DARTQUANT_ROWS12(D, h) DARTQUANT_ROWS11(D, h) D(22, 23, h "(%[x9],%[stride],2)")

#define DARTQUANT_WEIGHTS1(half) "vmovdqa64 64*" half "(%[weights]), %%zmm28\n\t"
#define DARTQUANT_WEIGHTS2(half) \
  "vmovdqa64 128*" half "(%[weights]), %%zmm28\n\tvmovdqa64 128*" half "+64(%[weights]), %%zmm29\n\t"

#define DARTQUANT_TILE(rows, panels)                                                                       \
  if constexpr (row_count == rows && panel_count == panels)                                                \
    __asm__ volatile(                                                                                      \
        "test %[starts], %[starts]\n\tjz 1f\n\t" DARTQUANT_EACH##rows(DARTQUANT_START##panels) "jmp 2f\n"  \
        "1:\n\t" DARTQUANT_EACH##rows(DARTQUANT_LOAD##panels)                                              \
        "\n\t.p2align 6\n2:\n\t"                                                                           \
        DARTQUANT_WEIGHTS##panels("0") DARTQUANT_ROWS##rows(DARTQUANT_DOT##panels, "0")                    \
        DARTQUANT_WEIGHTS##panels("1") DARTQUANT_ROWS##rows(DARTQUANT_DOT##panels, "4")                    \
        "sub $-128*" #panels ", %[weights]\n\t"                                                            \
        "add $8, %[x0]\n\tadd $8, %[x3]\n\tadd $8, %[x6]\n\tadd $8, %[x9]\n\t"                             \
        "cmp %[end], %[weights]\n\tjne 2b\n\t"                                                             \
        "test %[scales], %[scales]\n\tjz 3f\n\tvmovaps (%[scales]), %%zmm28\n\t"                           \
        "vmovaps 64*(" #panels "-1)(%[scales]), %%zmm29\n\t"                                               \
        DARTQUANT_EACH##rows(DARTQUANT_SCALE##panels) "jmp 4f\n"                                           \
        "3:\n\t" DARTQUANT_EACH##rows(DARTQUANT_STORE##panels) "4:"                                        \
        : [weights] "+r"(weights), [x0] "+r"(x0), [x3] "+r"(x3), [x6] "+r"(x6), [x9] "+r"(x9)              \
        : [stride] "r"(stride), [end] "r"(a.end), [starts] "r"(a.starts), [sums] "r"(a.sums),              \
          [scales] "r"(a.scales), [totals] "r"(a.totals)                                                   \
        : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",  \
          "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19",        \
          "xmm20", "xmm21", "xmm22", "xmm23", "xmm28", "xmm29", "xmm30")
// clang-format on

template <int row_count, int panel_count>
inline __attribute__((always_inline)) void multiply_lines(TileArguments const& a) {
  static_assert(row_count >= 6 && row_count <= 12 && panel_count >= 1 && panel_count <= 2);
  std::uint8_t const* weights = a.weights;
  std::int64_t const stride = a.stride;
  std::int8_t const *x0 = a.x, *x3 = x0 + 3 * stride, *x6 = x3 + 3 * stride, *x9 = x6 + 3 * stride;
  DARTQUANT_TILE(6, 1);
  DARTQUANT_TILE(7, 1);
  DARTQUANT_TILE(8, 1);
  DARTQUANT_TILE(9, 1);
  DARTQUANT_TILE(10, 1);
  DARTQUANT_TILE(11, 1);
  DARTQUANT_TILE(12, 1);
  DARTQUANT_TILE(6, 2);
  DARTQUANT_TILE(7, 2);
  DARTQUANT_TILE(8, 2);
  DARTQUANT_TILE(9, 2);
  DARTQUANT_TILE(10, 2);
  DARTQUANT_TILE(11, 2);
  DARTQUANT_TILE(12, 2);
}

#undef DARTQUANT_EACH6
#undef DARTQUANT_EACH7
#undef DARTQUANT_EACH8
#undef DARTQUANT_EACH9
#undef DARTQUANT_EACH10
#undef DARTQUANT_EACH11
#undef DARTQUANT_EACH12
#undef DARTQUANT_START1
#undef DARTQUANT_START2
#undef DARTQUANT_LOAD1
#undef DARTQUANT_LOAD2
#undef DARTQUANT_STORE1
#undef DARTQUANT_STORE2
#undef DARTQUANT_SCALE
#undef DARTQUANT_SCALE1
#undef DARTQUANT_SCALE2
#undef DARTQUANT_DOT1
#undef DARTQUANT_DOT2
#undef DARTQUANT_ROWS6
#undef DARTQUANT_ROWS7
#undef DARTQUANT_ROWS8
#undef DARTQUANT_ROWS9
#undef DARTQUANT_ROWS10
#undef DARTQUANT_ROWS11
#undef DARTQUANT_ROWS12
#undef DARTQUANT_WEIGHTS1
#undef DARTQUANT_WEIGHTS2
#undef DARTQUANT_TILE

}  // namespace
}  // namespace dartquant::cpu
