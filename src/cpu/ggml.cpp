// SPDX-License-Identifier: Apache-2.0
// ggml's Q4_0 and Q8_0 blocks: quantizers with the bytes of ggml's reference, and conversions to and from the
// plain row-major form.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <dartquant/kernels.h>
#include <dartquant/core/half.hpp>
#include <dartquant/quant/int4.hpp>

#include "cpu/status.hpp"

namespace dartquant::cpu {
namespace {

constexpr std::int64_t block_cols = 32;
constexpr std::uint16_t half_nan = 0x7E00;

using BlockQ4 = dartquant_block_q4_0;
using BlockQ8 = dartquant_block_q8_0;

constexpr int bits_of(BlockQ4 const*) { return 4; }
constexpr int bits_of(BlockQ8 const*) { return 8; }

void set_levels(BlockQ4& block, int const (&levels)[block_cols]) {
  for (int j = 0; j < 16; ++j) block.qs[j] = pack_int4(levels[j] + 8, levels[j + 16] + 8);
}
void set_levels(BlockQ8& block, int const (&levels)[block_cols]) {
  for (int j = 0; j < block_cols; ++j) block.qs[j] = static_cast<std::int8_t>(levels[j]);
}

void get_levels(BlockQ4 const& block, int (&levels)[block_cols]) {
  for (int j = 0; j < 16; ++j) {
    levels[j] = uint4_even(block.qs[j]) - 8;
    levels[j + 16] = uint4_odd(block.qs[j]) - 8;
  }
}
void get_levels(BlockQ8 const& block, int (&levels)[block_cols]) {
  for (int j = 0; j < block_cols; ++j) levels[j] = block.qs[j];
}

/// The first value of largest magnitude; +0 for zeros of any sign.
float extreme_of(float const (&x)[block_cols]) {
  float most = 0, extreme = 0;
  for (float const value : x)
    if (std::fabs(value) > most) {
      most = std::fabs(value);
      extreme = value;
    }
  return extreme;
}

/// 1 / d, or 0 where that is not finite: d is then 0 or rounds to 0.
float reciprocal(float d) {
  float const inverse = 1.0f / d;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

float quantize_block(float const (&x)[block_cols], BlockQ4 const*, int (&levels)[block_cols]) {
  float const d = extreme_of(x) / -8.0f, inverse = reciprocal(d);
  for (int j = 0; j < block_cols; ++j) {
    float const quotient = x[j] * inverse;  // rounded before the sum, whose truncation rounds it
    levels[j] = std::min(15, static_cast<int>(quotient + 8.5f)) - 8;
  }
  return d;
}

float quantize_block(float const (&x)[block_cols], BlockQ8 const*, int (&levels)[block_cols]) {
  float const d = std::fabs(extreme_of(x)) / 127.0f, inverse = reciprocal(d);
  for (int j = 0; j < block_cols; ++j)
    levels[j] = static_cast<int>(std::round(x[j] * inverse));  // halves away from zero
  return d;
}

template <class T>
void load_block(T const* from, float (&x)[block_cols]) {
  for (int j = 0; j < block_cols; ++j) x[j] = to_float(from[j]);
}

void load_block(dartquant_matrix const& m, std::int64_t i, std::int64_t block, float (&x)[block_cols]) {
  std::int64_t const at = i * m.stride + block * block_cols;
  switch (m.type) {
    case dartquant_float32:
      return load_block(static_cast<float const*>(m.data) + at, x);
    case dartquant_float16:
      return load_block(static_cast<Half const*>(m.data) + at, x);
    case dartquant_bfloat16:
      return load_block(static_cast<BFloat16 const*>(m.data) + at, x);
  }
}

/// What was met on the way that is not finite.
struct NotFinite {
  bool x = false, scales = false;
  [[nodiscard]] dartquant_status result() const {
    if (x) return status(dartquant_arg_x, dartquant_not_finite);
    return scales ? status(dartquant_arg_scales, dartquant_not_finite) : 0;
  }
};

bool is_finite(std::uint16_t half) { return (half & 0x7C00) != 0x7C00; }

template <class Block>
void check_blocks(Checks& checks, std::int64_t rows, std::int64_t cols, Block const* blocks,
                  std::int64_t stride, std::int64_t part, std::int64_t parts) {
  if (!checks.ok()) return;
  checks.require(cols % block_cols == 0, dartquant_arg_cols, dartquant_bad_size);
  checks.require(stride >= cols / block_cols, dartquant_arg_stride, dartquant_bad_size);
  if (!checks.ok()) return;
  Size const bytes = Size(rows) * stride * static_cast<std::int64_t>(sizeof(Block));
  checks.require(bytes.ok(), dartquant_arg_packed, dartquant_overflow);
  checks.pointer(blocks, alignof(Block), dartquant_arg_packed).part(part, parts);
}

template <class Block>
dartquant_status quantize_rows(dartquant_matrix const* x, Block* blocks, std::int64_t stride,
                               std::int64_t part, std::int64_t parts) {
  Checks checks;
  check(checks, x, dartquant_arg_x);
  if (checks.ok()) check_blocks(checks, x->rows, x->cols, blocks, stride, part, parts);
  if (!checks.ok()) return checks.result();
  NotFinite found;
  Share const rows = share(x->rows, part, parts);
  for (std::int64_t i = rows.first; i < rows.last; ++i)
    for (std::int64_t b = 0; b < x->cols / block_cols; ++b) {
      Block& block = blocks[i * stride + b];
      float values[block_cols];
      int levels[block_cols] = {};
      load_block(*x, i, b, values);
      if (std::all_of(values, values + block_cols, [](float v) { return std::isfinite(v); })) {
        block.d = to_half(quantize_block(values, &block, levels)).bits;
        found.scales = found.scales || !is_finite(block.d);
      } else {
        block.d = half_nan;
        found.x = true;
      }
      set_levels(block, levels);
    }
  return found.result();
}

/// The checks of a quantized matrix that blocks of this kind can hold.
template <class Block>
void check_plain(Checks& checks, dartquant_quantized const* q, Block const* blocks) {
  check(checks, q);
  if (!checks.ok()) return;
  checks.require(q->bits == bits_of(blocks), dartquant_arg_bits, dartquant_unsupported);
  checks.require(q->symmetry == dartquant_symmetric, dartquant_arg_symmetry, dartquant_unsupported);
  checks.require(group_width(*q) == block_cols, dartquant_arg_group, dartquant_unsupported);
}

template <class Block>
dartquant_status to_blocks(dartquant_quantized const* q, Block* blocks, std::int64_t stride,
                           std::int64_t part, std::int64_t parts) {
  Checks checks;
  check_plain(checks, q, blocks);
  if (checks.ok()) check_blocks(checks, q->rows, q->cols, blocks, stride, part, parts);
  if (!checks.ok()) return checks.result();
  NotFinite found;
  Share const rows = share(q->rows, part, parts);
  for (std::int64_t i = rows.first; i < rows.last; ++i) {
    auto const* const row = static_cast<std::uint8_t const*>(q->levels) + i * q->level_stride;
    for (std::int64_t b = 0; b < q->cols / block_cols; ++b) {
      Block& block = blocks[i * stride + b];
      auto const* const bytes = row + b * (block_cols * bits_of(blocks) / 8);
      int levels[block_cols];
      for (int j = 0; j < block_cols; ++j)
        if (bits_of(blocks) == 8) levels[j] = static_cast<std::int8_t>(bytes[j]);
        else levels[j] = j % 2 == 0 ? int4_even(bytes[j / 2]) : int4_odd(bytes[j / 2]);
      set_levels(block, levels);
      block.d = to_half(q->scales[i * q->scale_stride + b]).bits;
      found.scales = found.scales || !is_finite(block.d);
    }
  }
  return found.result();
}

template <class Block>
dartquant_status from_blocks(Block const* blocks, std::int64_t stride, dartquant_quantized const* q,
                             std::int64_t part, std::int64_t parts) {
  Checks checks;
  check_plain(checks, q, blocks);
  if (checks.ok()) check_blocks(checks, q->rows, q->cols, blocks, stride, part, parts);
  if (!checks.ok()) return checks.result();
  NotFinite found;
  Share const rows = share(q->rows, part, parts);
  for (std::int64_t i = rows.first; i < rows.last; ++i) {
    auto* const row = static_cast<std::uint8_t*>(q->levels) + i * q->level_stride;
    for (std::int64_t b = 0; b < q->cols / block_cols; ++b) {
      Block const& block = blocks[i * stride + b];
      auto* const bytes = row + b * (block_cols * bits_of(blocks) / 8);
      int levels[block_cols];
      get_levels(block, levels);
      if (bits_of(blocks) == 8)
        for (int j = 0; j < block_cols; ++j) bytes[j] = static_cast<std::uint8_t>(levels[j]);
      else
        for (int j = 0; j < block_cols; j += 2) bytes[j / 2] = pack_int4(levels[j], levels[j + 1]);
      q->scales[i * q->scale_stride + b] = to_float(Half{block.d});
      found.scales = found.scales || !is_finite(block.d);
    }
  }
  return found.result();
}

}  // namespace
}  // namespace dartquant::cpu

using namespace dartquant::cpu;

dartquant_status dartquant_quantize_q4_0(dartquant_matrix const* x, dartquant_block_q4_0* blocks,
                                         std::int64_t block_stride, std::int64_t part, std::int64_t parts) {
  return quantize_rows(x, blocks, block_stride, part, parts);
}

dartquant_status dartquant_quantize_q8_0(dartquant_matrix const* x, dartquant_block_q8_0* blocks,
                                         std::int64_t block_stride, std::int64_t part, std::int64_t parts) {
  return quantize_rows(x, blocks, block_stride, part, parts);
}

dartquant_status dartquant_to_q4_0(dartquant_quantized const* q, dartquant_block_q4_0* blocks,
                                   std::int64_t block_stride, std::int64_t part, std::int64_t parts) {
  return to_blocks(q, blocks, block_stride, part, parts);
}

dartquant_status dartquant_to_q8_0(dartquant_quantized const* q, dartquant_block_q8_0* blocks,
                                   std::int64_t block_stride, std::int64_t part, std::int64_t parts) {
  return to_blocks(q, blocks, block_stride, part, parts);
}

dartquant_status dartquant_from_q4_0(dartquant_block_q4_0 const* blocks, std::int64_t block_stride,
                                     dartquant_quantized const* q, std::int64_t part, std::int64_t parts) {
  return from_blocks(blocks, block_stride, q, part, parts);
}

dartquant_status dartquant_from_q8_0(dartquant_block_q8_0 const* blocks, std::int64_t block_stride,
                                     dartquant_quantized const* q, std::int64_t part, std::int64_t parts) {
  return from_blocks(blocks, block_stride, q, part, parts);
}
