// SPDX-License-Identifier: Apache-2.0
#pragma once

// What an instruction set provides. Plain data only: the files that include this are compiled for different
// processors, and an inline function or template shared by them could be the one copy that the linker keeps.

#include <cstddef>
#include <cstdint>

#include <dartquant/core/tile_product.hpp>

namespace dartquant::cpu {

/// 4-bit weights in panels of 16 output channels, see docs/int4_format.md. A panel is, for every group, its
/// lines of 64 bytes and 16 float scales. Byte 4 c + t of line s of a group holds output channel c; its low
/// nibble is input channel 8 s + t of the group, its high nibble 8 s + 4 + t. Nibbles are level + 8 where the
/// weights are symmetric and the level 0..15 where they are not.
struct Panels {
  std::uint8_t const* data;         ///< the first panel, 64-byte aligned
  std::int64_t bytes;               ///< from panel to panel
  std::int64_t count;               ///< panels
  std::int64_t groups;              ///< groups of a panel
  std::int64_t lines;               ///< lines of every group but the last
  std::int64_t last_lines;          ///< lines of the last group
  std::uint8_t const* zero_points;  ///< [count, groups, 16], or null: all are 8
  std::int32_t const* sums;         ///< [count, groups, 16] sums of nibble - zero point, or null
};

/// The product of quantized activations with panels, one block of rows; see dartquant_matmul for the formula.
struct Product {
  Panels w;
  std::int8_t const* x;   ///< [rows, stride]; zeros from the channels up to the stride
  std::int64_t x_stride;  ///< bytes, a multiple of 64
  std::int64_t rows;
  std::int32_t const* x_sums;         ///< [rows, groups] sums of x over each group
  std::int32_t const* x_zero_points;  ///< [rows, groups], what is to be subtracted from x; null: nothing
  float const* x_scales;              ///< [rows], or [rows, groups] where scales_per_group
  std::int64_t x_scale_stride;        ///< elements
  bool scales_per_group;
  float const* bias;      ///< [cols] or null
  float* y;               ///< [rows, cols]
  std::int64_t y_stride;  ///< elements
  std::int64_t cols;      ///< at most 16 count; columns beyond are not written
  std::uint8_t* scratch;  ///< scratch_bytes, 64-byte aligned
};
inline constexpr std::int64_t row_block = 256;  ///< most rows of a Product
inline constexpr std::size_t scratch_bytes = 640 * 1024;

/// Storage types, numbered as dartquant_type.
enum class Type : std::int32_t { float32 = 0, float16 = 1, bfloat16 = 2 };

struct Range {
  float min, max;
  bool finite;  ///< false: min and max mean nothing
};

/// The map from values to centered levels, see quant/scale.hpp: round(clamp((x factor) inverse, lowest,
/// highest)) + zero_point.
struct LevelMap {
  float factor, inverse, lowest, highest;
  std::int32_t zero_point;
  bool bounded = false;  ///< (x factor) inverse is known to lie within +-2^30
};

/// y = the Walsh-Hadamard transforms of x: `count` blocks of `length` = 2^m >= 16 values. x may be y where it
/// is float32. Either the ranges of y are wanted, or y is multiplied by `factor` (rounded once more).
struct Transform {
  Type type;  ///< of x
  void const* x;
  float* y;
  std::int64_t count, length;
  Range* ranges;           ///< of every `per_range` blocks, or null
  std::int64_t per_range;  ///< divides `count`
  float factor;            ///< counts where `ranges` is null
};

/// Consecutive groups of values that become levels, each by its own map.
struct QuantizedGroups {
  float const* x;  ///< [count, width]
  std::int64_t width, count;
  LevelMap const* maps;
  std::int32_t bits;  ///< 4: packed as pack_nibbles packs, and `width` is even or `count` is 1; or 8
  void* levels;
};

/// A row of 4-bit levels that becomes 16-bit floats. A group has sixteen values at most, so they are looked
/// up.
struct NibbleRow {
  std::uint8_t const* nibbles;      ///< low nibble first
  std::int64_t cols, width;         ///< channels, and those of a group: even, or all
  float const* scales;              ///< of every group
  std::int32_t const* zero_points;  ///< of every group; null: levels are signed
  Type type;                        ///< float16 or bfloat16
  std::uint16_t* y;                 ///< scale (level - zero point), rounded to float, then to the type
};

/// Memory that is wanted soon: it is asked for a line at a time, every `pitch` bytes, while a kernel works.
/// Requests that come in a bunch wait for each other, and the work waits for them.
struct Ahead {
  char const* at;
  std::int64_t pitch;  ///< at most 64; below that some requests repeat, which costs next to nothing
};

/// The kernels of RowKernels that also ask for what comes next: as often as their share of the time demands,
/// per 64 values once, load and store, twice, range and quantize, and four times, walsh (of 16 and more
/// values).
struct RowKernelsAhead {
  void (*load)(Type type, void const* x, std::int32_t const* permutation, float* y, std::int64_t count,
               Ahead* ahead);
  void (*store)(Type type, float const* x, float factor, void* y, std::int64_t count, Ahead* ahead);
  void (*walsh)(float* x, std::int64_t count, std::int64_t length, Ahead* ahead);
  Range (*range)(float const* x, std::int64_t count, Ahead* ahead);
  void (*quantize)(float const* x, std::int64_t count, LevelMap const* map, std::int8_t* levels,
                   Ahead* ahead);
};

/// Kernels over rows. Buffers may have any alignment and length unless stated.
struct RowKernels {
  /// y_j = float(x_j), or float(x_permutation[j]).
  void (*load)(Type type, void const* x, std::int32_t const* permutation, float* y, std::int64_t count);
  /// y_j = x_j factor, rounded to the type.
  void (*store)(Type type, float const* x, float factor, void* y, std::int64_t count);
  /// `count` consecutive blocks of `length` = 2^m values are multiplied by the Sylvester-Hadamard matrix.
  /// Stages h = 1, 2, 4, ... in this order, so that the bytes are the same for every instruction set.
  void (*walsh)(float* x, std::int64_t count, std::int64_t length);
  /// One block X [order, length], row-major, length a power of two: X <- S^T X, S [order, order] of +-1.
  /// Every sum is formed of four rows at a time from row 0 upwards, of which there may be fewer at the end:
  ///
  ///     s0 ((x0 + s0 s1 x1) + s0 s2 (x2 + s2 s3 x3)),
  ///
  /// so that the bytes are the same for every instruction set. buffer [order, length].
  void (*multiply_base)(std::int8_t const* signs, std::int64_t order, std::int64_t length, float* x,
                        float* buffer);
  /// The range of x, extended to hold 0.
  Range (*range)(float const* x, std::int64_t count);
  void (*quantize)(float const* x, std::int64_t count, LevelMap const* map, std::int8_t* levels);
  /// Two levels per byte, low nibble first; an odd last high nibble is 0.
  void (*pack_nibbles)(std::int8_t const* levels, std::int64_t count, std::uint8_t* bytes);
  /// The inverse, levels as int8_t: -8..7 if `is_signed`, else 0..15.
  void (*unpack_nibbles)(std::uint8_t const* bytes, std::int64_t count, bool is_signed, std::int8_t* levels);
  /// y_j = scale (level - zero_point), levels int8_t or, unless `is_signed`, uint8_t.
  void (*dequantize)(std::int8_t const* levels, std::int64_t count, bool is_signed, float scale,
                     std::int32_t zero_point, float* y);
  /// The sum of int8_t levels.
  std::int32_t (*sum)(std::int8_t const* levels, std::int64_t count);
  /// 65536 high + 256 middle + low = x_j factor inverse rounded to an integer, halves away from 0. The
  /// factors are powers of two and the integers at most 0x7F7F7F in magnitude. Buffers do not overlap.
  void (*digits)(float const* x, std::int64_t count, float factor, float inverse, std::int8_t* high,
                 std::int8_t* middle, std::int8_t* low);
  // What follows is null where the instruction set has none.
  RowKernelsAhead const* ahead = nullptr;
  /// load, walsh and range or factor at once; four requests per 64 values.
  void (*transform)(Transform const* transform, Ahead* ahead) = nullptr;
  /// quantize of many groups and, of 4-bit levels, pack_nibbles at once; two requests per 64 values.
  void (*quantize_groups)(QuantizedGroups const* groups, Ahead* ahead) = nullptr;
  /// unpack_nibbles, dequantize and store at once.
  void (*look_up)(NibbleRow const* row) = nullptr;
};

/// Products with packed weights.
struct ProductKernels {
  void (*multiply)(Product const* product);
};

extern RowKernels const portable_rows;
extern ProductKernels const portable_products;
#if defined(__x86_64__) || defined(_M_X64)
extern RowKernels const avx2_rows, avx512_rows;
extern TileKernels const avx2_tiles, avx512_tiles;
extern ProductKernels const avx2_products, avx_vnni_products, avx512_vnni_products, amx_int8_products;
#elif defined(__aarch64__) || defined(_M_ARM64)
extern RowKernels const neon_rows;
extern ProductKernels const neon_dotprod_products, neon_i8mm_products;
#endif

}  // namespace dartquant::cpu
