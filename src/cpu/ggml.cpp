// SPDX-License-Identifier: Apache-2.0
// ggml's Q4_0 and Q8_0 blocks: quantizers with the bytes of ggml's reference, and conversions to and from the
// plain row-major form.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include <dartquant/kernels.h>
#include <dartquant/core/half.hpp>

#include "cpu/status.hpp"

namespace dartquant::cpu {
namespace {

constexpr std::int64_t block_cols = 32;
constexpr std::uint16_t half_nan = 0x7E00;
static_assert(std::endian::native == std::endian::little);  // nibbles are moved eight bytes at a time

using BlockQ4 = dartquant_block_q4_0;
using BlockQ8 = dartquant_block_q8_0;

constexpr int bits_of(BlockQ4 const*) { return 4; }
constexpr int bits_of(BlockQ8 const*) { return 8; }

// The loops over values and blocks have no branches and constant rounds, so that compilers make vectors of
// them; the blocks of a batch go through one loop after the other, so that the latencies of neighbours
// overlap.

using Four = float __attribute__((vector_size(16)));
using FourIntegers = std::int32_t __attribute__((vector_size(16)));
Four four_of(float const* x) {
  Four v;
  std::memcpy(&v, x, sizeof v);
  return v;
}
Four larger(Four a, Four b) { return a > b ? a : b; }
Four smaller(Four a, Four b) { return a < b ? a : b; }

/// Some blocks of a row.
struct Batch {
  static constexpr int most = 32;
  float highest[most], lowest[most];  ///< of the values and 0
  bool finite[most];                  ///< whether all values are
  float d[most], inverse[most];  ///< the scale, before it is rounded; 1 / d, or 0 where that is not finite
  std::uint16_t half[most];
};

void find_range(float const* x, Batch& batch, std::int64_t b) {
  Four high[2] = {}, low[2] = {}, zero[2] = {};
  for (int j = 0; j < block_cols; j += 8)
    for (int k = 0; k < 2; ++k) {
      Four const v = four_of(x + j + 4 * k);
      high[k] = larger(v, high[k]);
      low[k] = smaller(v, low[k]);
      zero[k] += v * 0.0f;  // NaN for what is not finite
    }
  Four const top = larger(high[0], high[1]), bottom = smaller(low[0], low[1]), sum = zero[0] + zero[1];
  batch.highest[b] = std::max(std::max(top[0], top[1]), std::max(top[2], top[3]));
  batch.lowest[b] = std::min(std::min(bottom[0], bottom[1]), std::min(bottom[2], bottom[3]));
  batch.finite[b] = (sum[0] + sum[1]) + (sum[2] + sum[3]) == 0.0f;
}

/// d and what follows from it.
void keep_scale(Batch& batch, int b, float d) {
  float const inverse = 1.0f / d;
  batch.d[b] = d;
  batch.inverse[b] = std::fabs(inverse) <= std::numeric_limits<float>::max() ? inverse : 0.0f;
}

/// d = -1/8 of the first value of largest magnitude, +0 for zeros of any sign.
void find_scales(Batch& batch, float const* x, std::int64_t count, BlockQ4 const*) {
  for (int b = 0; b < Batch::most; ++b) {
    float const high = batch.highest[b], low = batch.lowest[b];
    keep_scale(batch, b, (high < -low ? low : high) / -8.0f);
  }
  for (int b = 0; b < count; ++b)
    if (batch.highest[b] == -batch.lowest[b] && batch.lowest[b] != 0.0f) {
      auto const is_extreme = [&](float v) { return v == batch.highest[b] || v == batch.lowest[b]; };
      float const* const block = x + b * block_cols;
      keep_scale(batch, b, *std::find_if(block, block + block_cols, is_extreme) / -8.0f);
    }
}
/// d = the largest magnitude / 127.
void find_scales(Batch& batch, float const*, std::int64_t, BlockQ8 const*) {
  for (int b = 0; b < Batch::most; ++b) {
    float const high = batch.highest[b], low = batch.lowest[b];
    keep_scale(batch, b, (high < -low ? -low : high) / 127.0f);
  }
}

/// Quotients and sums are rounded one after the other; the truncation rounds the sum.
FourIntegers codes_of(float const* x, float inverse) {
  Four const shifted = four_of(x) * inverse + 8.5f;
  return __builtin_convertvector(smaller(shifted, Four{} + 15.5f), FourIntegers);
}
void set_levels(BlockQ4& block, float const* x, float inverse) {
  std::int32_t codes[16];
  for (int j = 0; j < 16; j += 4) {
    FourIntegers const both = codes_of(x + j, inverse) | codes_of(x + j + 16, inverse) << 4;
    std::memcpy(codes + j, &both, sizeof both);
  }
  for (int j = 0; j < 16; ++j) block.qs[j] = static_cast<std::uint8_t>(codes[j]);
}

void set_levels(BlockQ8& block, float const* x, float inverse) {
  for (int j = 0; j < block_cols; ++j) {
    float const quotient = x[j] * inverse;
    // The nearest integer, halves away from zero: the number added is the last one below 1/2.
    block.qs[j] = static_cast<std::int8_t>(quotient + std::copysign(0x1.fffffep-2f, quotient));
  }
}

/// All levels 0.
void clear(BlockQ4& block) { std::memset(block.qs, 0x88, sizeof block.qs); }
void clear(BlockQ8& block) { std::memset(block.qs, 0, sizeof block.qs); }

/// The levels of a plain row, two or one a byte. A Q4_0 block has levels j and j + 16 in its byte j, plus 8;
/// eight bytes are turned at a time.
std::uint64_t spread(std::uint64_t x) {  // the lower four bytes, to the even ones
  x = (x | x << 16) & 0x0000FFFF0000FFFFu;
  return (x | x << 8) & 0x00FF00FF00FF00FFu;
}
std::uint64_t gather(std::uint64_t x) {  // the even bytes, to the lower four
  x &= 0x00FF00FF00FF00FFu;
  x = (x | x >> 8) & 0x0000FFFF0000FFFFu;
  return (x | x >> 16) & 0xFFFFFFFFu;
}
constexpr std::uint64_t low_nibbles = 0x0F0F0F0F0F0F0F0Fu, flips = 0x8888888888888888u;

void copy_levels(std::uint8_t const* plain, BlockQ4& block) {
  std::uint64_t low, high;
  std::memcpy(&low, plain, 8);
  std::memcpy(&high, plain + 8, 8);
  std::uint64_t const even = (low & low_nibbles) | (high & low_nibbles) << 4;
  std::uint64_t const odd = (low >> 4 & low_nibbles) | (high & ~low_nibbles);
  std::uint64_t const first = (spread(even & 0xFFFFFFFFu) | spread(odd & 0xFFFFFFFFu) << 8) ^ flips;
  std::uint64_t const last = (spread(even >> 32) | spread(odd >> 32) << 8) ^ flips;
  std::memcpy(block.qs, &first, 8);
  std::memcpy(block.qs + 8, &last, 8);
}
void copy_levels(std::uint8_t const* plain, BlockQ8& block) { std::memcpy(block.qs, plain, sizeof block.qs); }

void copy_levels(BlockQ4 const& block, std::uint8_t* plain) {
  std::uint64_t first, last;
  std::memcpy(&first, block.qs, 8);
  std::memcpy(&last, block.qs + 8, 8);
  first ^= flips;
  last ^= flips;
  std::uint64_t const even = gather(first) | gather(last) << 32, odd = gather(first >> 8) | gather(last >> 8)
                                                                                                << 32;
  std::uint64_t const low = (even & low_nibbles) | (odd & low_nibbles) << 4;
  std::uint64_t const high = (even >> 4 & low_nibbles) | (odd & ~low_nibbles);
  std::memcpy(plain, &low, 8);
  std::memcpy(plain + 8, &high, 8);
}
void copy_levels(BlockQ8 const& block, std::uint8_t* plain) { std::memcpy(plain, block.qs, sizeof block.qs); }

/// `count` floats of a row from column `first` on: where they are, or brought to `space`.
template <class T>
float const* load_values(T const* from, std::int64_t count, float* space) {
  for (std::int64_t j = 0; j < count; ++j) space[j] = to_float(from[j]);
  return space;
}
float const* load_values(dartquant_matrix const& m, std::int64_t i, std::int64_t first, std::int64_t count,
                         float* space) {
  std::int64_t const at = i * m.stride + first;
  if (m.type == dartquant_float32) return static_cast<float const*>(m.data) + at;
  if (m.type == dartquant_float16) return load_values(static_cast<Half const*>(m.data) + at, count, space);
  return load_values(static_cast<BFloat16 const*>(m.data) + at, count, space);
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

/// The blocks of at most Batch::most * block_cols values of a row.
template <class Block>
void quantize_batch(dartquant_matrix const& x, std::int64_t row, std::int64_t first, Block* blocks,
                    NotFinite& found) {
  float space[Batch::most * block_cols];
  std::int64_t const count = std::min<std::int64_t>(x.cols - first, Batch::most * block_cols);
  float const* const values = load_values(x, row, first, count, space);
  Batch batch{};
  for (std::int64_t b = 0; b < count / block_cols; ++b) find_range(values + b * block_cols, batch, b);
  find_scales(batch, values, count / block_cols, blocks);
  for (int b = 0; b < Batch::most; ++b) batch.half[b] = to_half(batch.d[b]).bits;
  for (std::int64_t b = 0; b < count / block_cols; ++b) {
    if (!batch.finite[b]) {
      blocks[b].d = half_nan;
      clear(blocks[b]);
      found.x = true;
      continue;
    }
    blocks[b].d = batch.half[b];
    found.scales = found.scales || !is_finite(batch.half[b]);
    set_levels(blocks[b], values + b * block_cols, batch.inverse[b]);
  }
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
    for (std::int64_t first = 0; first < x->cols; first += Batch::most * block_cols)
      quantize_batch(*x, i, first, blocks + i * stride + first / block_cols, found);
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
      copy_levels(row + b * (block_cols * bits_of(blocks) / 8), block);
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
      copy_levels(block, row + b * (block_cols * bits_of(blocks) / 8));
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
