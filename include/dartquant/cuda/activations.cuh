// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/grid.hpp>

namespace dartquant::cuda {

struct alignas(8) Words2 {
  std::uint32_t v[2];
};
struct alignas(16) Words4 {
  std::uint32_t v[4];
};

/// Eight consecutive channels of a token as signed bytes: channels 0 2 4 6 and 1 3 5 7, the order in which
/// two operations take them out of a word of nibbles.
struct EightLevels {
  std::uint32_t even, odd;

  /// Unsigned nibbles minus `zero`, in order in the word.
  [[nodiscard]] DARTQUANT_DEVICE static EightLevels of_nibbles(std::uint32_t word, int zero) {
    std::uint32_t const zeros = 0x01010101u * static_cast<std::uint32_t>(zero);
    // 128 + level - zero stays in its byte; then the 128 becomes the sign.
    return {(((word & 0x0F0F0F0Fu) | 0x80808080u) - zeros) ^ 0x80808080u,
            (((word >> 4 & 0x0F0F0F0Fu) | 0x80808080u) - zeros) ^ 0x80808080u};
  }
  template <class Thread>
  [[nodiscard]] DARTQUANT_DEVICE static EightLevels of_bytes(Thread const& thread, std::uint32_t low,
                                                             std::uint32_t high) {
    return {select_bytes(thread, low, high, 0x6420), select_bytes(thread, low, high, 0x7531)};
  }
  /// The first `left` of the channels, zeros instead of the others.
  [[nodiscard]] DARTQUANT_DEVICE EightLevels first(int left) const {
    if (left >= 8) return *this;
    if (left <= 0) return {0, 0};
    return {left < 7 ? even & ((1u << (8 * ((left + 1) / 2))) - 1) : even,
            odd & ((1u << (8 * (left / 2))) - 1)};
  }
};

/// Plain quantized activations X [tokens, channels], as docs/int4_format.md describes them, for kernels.
struct Activations {
  std::uint8_t const* levels;
  std::int64_t level_stride;
  float const* scales;
  std::int64_t scale_stride;
  std::int32_t const* zero_points;  ///< null where symmetric
  std::int64_t zero_point_stride;
  int tokens, channels;
  int bits;      ///< 4 or 8
  int width;     ///< channels under one scale of the weights, a multiple of 8 unless there is one group
  bool grouped;  ///< a scale per group of the weights, else one per token
  bool aligned;  ///< every row of levels starts on a multiple of 4 bytes

  [[nodiscard]] DARTQUANT_DEVICE std::int32_t zero_point(int token, int channel) const {
    return zero_points[token * zero_point_stride + (grouped ? channel / width : 0)];
  }

  /// Four bytes of a row, zeros behind its end.
  [[nodiscard]] DARTQUANT_DEVICE std::uint32_t bytes(int token, int first, int row_bytes) const {
    std::uint8_t const* const at = levels + token * level_stride + first;
    if (aligned && first + 4 <= row_bytes) return *reinterpret_cast<std::uint32_t const*>(at);
    std::uint32_t word = 0;
    for (int i = 0; i < 4; ++i)
      if (first + i < row_bytes) word |= static_cast<std::uint32_t>(at[i]) << (8 * i);
    return word;
  }

  /// Channels channel .. channel + 7 as two's complement nibbles, in order; unsigned levels minus 8; 0 behind
  /// the last channel.
  [[nodiscard]] DARTQUANT_DEVICE std::uint32_t nibbles(int token, int channel) const {
    int const left = channels - channel;
    if (token >= tokens || left <= 0) return 0;
    std::uint32_t word = bytes(token, channel / 2, (channels + 1) / 2);
    if (zero_points != nullptr) word ^= 0x88888888u;
    return left < 8 ? word & ((1u << (4 * left)) - 1) : word;
  }

  /// The same channels as bytes: level - zero point of 4-bit levels, level or level - 128 of 8-bit ones, as
  /// prepare_row of the CPU's kernels; 0 behind the last channel. `select_bytes` is found by the thread.
  template <class Thread>
  [[nodiscard]] DARTQUANT_DEVICE EightLevels eight(Thread const& thread, int token, int channel) const {
    int const left = channels - channel;
    if (token >= tokens || left <= 0) return {0, 0};
    if (bits == 4) {
      std::uint32_t const word = bytes(token, channel / 2, (channels + 1) / 2);
      return (zero_points == nullptr ? EightLevels::of_nibbles(word ^ 0x88888888u, 8)
                                     : EightLevels::of_nibbles(word, zero_point(token, channel)))
          .first(left);
    }
    std::uint32_t const flip = zero_points == nullptr ? 0 : 0x80808080u;
    return EightLevels::of_bytes(thread, bytes(token, channel, channels) ^ flip,
                                 bytes(token, channel + 4, channels) ^ flip)
        .first(left);
  }

  /// What `eight` leaves of the zero point: of unsigned 8-bit levels zero_point - 128.
  [[nodiscard]] DARTQUANT_DEVICE std::int32_t zero_point_left(int token, int group) const {
    return zero_points[token * zero_point_stride + (grouped ? group : 0)] - (bits == 8 ? 128 : 8);
  }
};

/// In which order staged activations lie.
enum class StagedOrder {
  bytes,    ///< for mma.sync of bytes: [tokens][tiles of 64 channels][lane mod 4][16 bytes]
  nibbles,  ///< for mma.sync of nibbles: [tokens][tiles of 64 channels][lane mod 4][8 bytes]
  blocks    ///< for wgmma: [128 tokens][128 channels] in blocks of 16 KiB, each [8 tokens][16 bytes of
            ///< K][token][16]
};

/// Where staged activations lie, and how many bytes they have.
struct StagedLayout {
  StagedOrder order;
  int tokens;  ///< of `blocks` a multiple of 128
  int tiles;   ///< of 64 channels, of `blocks` an even number

  [[nodiscard]] DARTQUANT_HD constexpr std::int64_t bytes() const {
    return std::int64_t{tokens} * tiles * (order == StagedOrder::nibbles ? 32 : 64);
  }
  /// Of the four bytes `half` (0: even, 1: odd channels) of channels 64 tile + 32 step + 8 quad .. + 7, in
  /// the order `blocks`: what wgmma calls core matrices of 8 tokens x 16 bytes.
  [[nodiscard]] DARTQUANT_HD constexpr std::int64_t block_offset(int token, int tile, int step, int half,
                                                                 int quad) const {
    std::int64_t const block = std::int64_t{token / 128} * (tiles / 2) + tile / 2;
    int const core = tile % 2 * 4 + step * 2 + half;
    return block * 16384 + token % 128 / 8 * 1024 + core * 128 + token % 8 * 16 + quad * 4;
  }
};

[[nodiscard]] constexpr StagedLayout staged_layout(StagedOrder order, std::int64_t tokens,
                                                   std::int64_t channels) {
  bool const blocks = order == StagedOrder::blocks;
  std::int64_t const tiles = (channels + 63) / 64;
  return {order, static_cast<int>(blocks ? (tokens + 127) / 128 * 128 : tokens),
          static_cast<int>(blocks ? (tiles + 1) / 2 * 2 : tiles)};
}

/// Brings plain activations into the order that a product takes them in. One thread per token, tile and lane
/// mod 4; it moves 16 channels. A block has eight tokens and eight tiles where the order is `blocks`, so that
/// a warp writes 128 bytes at a time, else one token and 64 tiles.
struct StageActivations {
  static constexpr int threads = 256;
  Activations x;
  StagedLayout layout;
  std::byte* staged;

  [[nodiscard]] static constexpr Grid grid(StagedLayout const& l) {
    bool const blocks = l.order == StagedOrder::blocks;
    return {.blocks_x = blocks ? l.tokens / 8 : l.tokens, .blocks_y = (l.tiles - 1) / (blocks ? 8 : 64) + 1};
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    bool const blocks = layout.order == StagedOrder::blocks;
    int const quad = thread.index() % 4;
    int const token = blocks ? thread.block_x() * 8 + thread.index() / 4 % 8 : thread.block_x();
    int const tile =
        blocks ? thread.block_y() * 8 + thread.warp() : thread.block_y() * 64 + thread.index() / 4;
    if (tile >= layout.tiles) return;
    int const channel = tile * 64 + quad * 8;
    if (layout.order == StagedOrder::nibbles) {
      Words2 const words{{x.nibbles(token, channel), x.nibbles(token, channel + 32)}};
      reinterpret_cast<Words2*>(staged)[(std::int64_t{token} * layout.tiles + tile) * 4 + quad] = words;
      return;
    }
    EightLevels const first = x.eight(thread, token, channel), second = x.eight(thread, token, channel + 32);
    Words4 const words{{first.even, first.odd, second.even, second.odd}};
    if (layout.order == StagedOrder::bytes) {
      reinterpret_cast<Words4*>(staged)[(std::int64_t{token} * layout.tiles + tile) * 4 + quad] = words;
      return;
    }
    for (int i = 0; i < 4; ++i)
      *reinterpret_cast<std::uint32_t*>(staged + layout.block_offset(token, tile, i / 2, i % 2, quad)) =
          words.v[i];
  }
};

/// sums [tokens, groups] of the staged levels of every group, which zero points of weights are multiplied
/// with. One warp per token and group.
struct SumActivations {
  static constexpr int threads = 128;
  Activations x;
  bool nibbles;  ///< staged as nibbles: unsigned levels minus 8
  int groups;
  std::int32_t* sums;

  [[nodiscard]] static constexpr std::int64_t block_count(std::int64_t tokens, std::int64_t groups) {
    return (tokens * groups + threads / 32 - 1) / (threads / 32);
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    std::int64_t const at = std::int64_t{thread.block_x()} * (threads / 32) + thread.warp();
    bool const some = at < std::int64_t{x.tokens} * groups;
    int const token = some ? static_cast<int>(at / groups) : 0,
              group = some ? static_cast<int>(at % groups) : 0;
    int const first = group * x.width, end = first + x.width < x.channels ? first + x.width : x.channels;
    std::int32_t sum = 0;
    for (int channel = first + thread.lane() * 8; some && channel < end; channel += 256) {
      if (nibbles) {
        std::uint32_t const word = x.nibbles(token, channel);
        for (int i = 0; i < 8; ++i) sum += static_cast<std::int32_t>(word << (28 - 4 * i)) >> 28;
      } else {
        EightLevels const levels = x.eight(thread, token, channel);
        sum = sum_bytes(thread, levels.even, sum_bytes(thread, levels.odd, sum));
      }
    }
    for (int mask = 16; mask > 0; mask /= 2) sum += thread.shuffle_xor(sum, mask);
    if (some && thread.lane() == 0) sums[at] = sum;
  }
};

}  // namespace dartquant::cuda
