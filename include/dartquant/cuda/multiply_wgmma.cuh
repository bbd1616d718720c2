// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/grid.hpp>
#include <dartquant/cuda/int_product.cuh>

namespace dartquant::cuda {

/// Y = X W^T + bias for many tokens on sm_90a, with the integer tensor instructions of warpgroups. They take
/// only their first operand from registers, so weights are the first (rows = outputs): they arrive as
/// nibbles and become bytes in registers. Activations are the second, staged as bytes in the order `blocks`.
///
/// A block computes 128 outputs x 128 TokenBlocks tokens. Its ninth warp fills stages of 128 channels by bulk
/// copies, the two warpgroups empty them; two barriers per stage count what has arrived and who has finished.
/// Grouped: TokenBlocks is 1, groups are a multiple of 128 channels or one for all.
template <int TokenBlocks, bool Grouped>
struct MultiplyWgmma {
  static constexpr int threads = 288, stages = 4, consumers = 8;  ///< warps that multiply
  static constexpr int block_outputs = 128, block_tokens = 128 * TokenBlocks;
  static constexpr int weight_bytes = block_outputs / 16 * 1024, x_block_bytes = 16384;
  static constexpr int stage_bytes = weight_bytes + TokenBlocks * x_block_bytes, barrier_bytes = 128;
  IntProduct p;
  StagedLayout staged;

  [[nodiscard]] static Grid grid(IntProduct const& p) {
    return {.blocks_x = (p.y.out + block_outputs - 1) / block_outputs,
            .blocks_y = (p.y.tokens + block_tokens - 1) / block_tokens,
            .shared_bytes = barrier_bytes + stages * stage_bytes};
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    if (thread.index() == 0) {
      for (int stage = 0; stage < stages; ++stage) {
        barrier_start(thread, full(thread, stage), 1);
        barrier_start(thread, empty(thread, stage), consumers);
      }
      barriers_started(thread);
    }
    thread.synchronize();
    if (thread.warp() == consumers) fill(thread);
    else multiply(thread);
  }

 private:
  template <class Thread>
  DARTQUANT_DEVICE static std::uint64_t* full(Thread const& thread, int stage) {
    return reinterpret_cast<std::uint64_t*>(thread.shared()) + stage;
  }
  template <class Thread>
  DARTQUANT_DEVICE static std::uint64_t* empty(Thread const& thread, int stage) {
    return full(thread, stages + stage);
  }
  template <class Thread>
  DARTQUANT_DEVICE static std::byte* stage_data(Thread const& thread, int stage) {
    return thread.shared() + barrier_bytes + stage * stage_bytes;
  }

  /// The ninth warp: lane i copies panel i of the weights, lanes 8 .. the blocks of tokens. What lies behind
  /// the last panel, tile or token is left as it is: bytes of activations there are 0, or nothing is stored.
  template <class Thread>
  DARTQUANT_DEVICE void fill(Thread const& thread) const {
    int const lane = thread.lane(), blocks = staged.tiles / 2, token_block = thread.block_y() * TokenBlocks;
    int const panels = min_of(block_outputs / 16, p.w.panels - thread.block_x() * (block_outputs / 16));
    int const token_blocks = min_of(TokenBlocks, staged.tokens / 128 - token_block);
    for (int block = 0; block < blocks; ++block) {
      int const stage = block % stages;
      int const tile_bytes = 512 * min_of(2, p.w.tiles_of_panel - 2 * block);
      barrier_wait(thread, empty(thread, stage), (block / stages + 1) % 2);
      std::byte* const to = stage_data(thread, stage);
      if (lane == 0)
        barrier_expect(thread, full(thread, stage), panels * tile_bytes + token_blocks * x_block_bytes);
      thread.synchronize_warp();
      if (lane < panels)
        bulk_copy(thread, to + lane * 1024,
                  p.w.fragment(thread.block_x() * (block_outputs / 16) + lane, 2 * block, 0), tile_bytes,
                  full(thread, stage));
      int const at = lane - 8;
      if (at >= 0 && at < token_blocks)
        bulk_copy(thread, to + weight_bytes + at * x_block_bytes,
                  p.staged + (std::int64_t{token_block + at} * blocks + block) * x_block_bytes, x_block_bytes,
                  full(thread, stage));
    }
  }
  [[nodiscard]] static DARTQUANT_DEVICE int min_of(int a, int b) { return a < b ? a : b; }

  /// A warp of a warpgroup: 16 outputs, all tokens of the block.
  template <class Thread>
  DARTQUANT_DEVICE void multiply(Thread const& thread) const {
    int const blocks = staged.tiles / 2, panel = thread.block_x() * (block_outputs / 16) + thread.warp();
    std::int32_t dot[TokenBlocks][16][4] = {};
    float sum[Grouped ? 16 : 1][4] = {};
    int const blocks_of_group = Grouped && p.w.groups > 1 ? p.w.width / 128 : blocks;
    float scales[2] = {};
    for (int block = 0, in_group = 0, group = 0; block < blocks; ++block) {
      int const stage = block % stages;
      if (in_group == 0) load_scales(thread, panel, group, scales);
      barrier_wait(thread, full(thread, stage), block / stages % 2);
      multiply_stage(thread, stage_data(thread, stage), in_group > 0, dot);
      if (thread.lane() == 0) barrier_arrive(thread, empty(thread, stage));
      if (++in_group < blocks_of_group && block + 1 < blocks) continue;
      if constexpr (Grouped) {
#pragma unroll
        for (int j = 0; j < 16; ++j)
          add_group(p, sum[j], dot[0][j], sixteen_times_shift, scales, panel, group,
                    first_token(thread) + 8 * j, thread.lane());
        in_group = 0;
        ++group;
      }
    }
#pragma unroll
    for (int b = 0; b < TokenBlocks; ++b)
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        int const token = first_token(thread) + 128 * b + 8 * j;
        float a[4] = {};
        if constexpr (!Grouped)
          add_group(p, a, dot[b][j], sixteen_times_shift, scales, panel, 0, token, thread.lane());
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          FragmentPlace const at = FragmentPlace::of(thread.lane(), c);
          p.finish(thread, token + at.token, panel * 16 + at.row, Grouped ? sum[Grouped ? j : 0][c] : a[c]);
        }
      }
  }
  template <class Thread>
  DARTQUANT_DEVICE static int first_token(Thread const& thread) {
    return thread.block_y() * block_tokens;
  }

  template <class Thread>
  DARTQUANT_DEVICE void load_scales(Thread const& thread, int panel, int group, float (&scales)[2]) const {
    for (int half = 0; half < 2; ++half)
      scales[half] = p.w.scales[p.w.cell(panel, group, thread.lane() / 4 + 8 * half)];
  }

  /// 128 channels: four instructions of 32 for every 128 tokens.
  template <class Thread>
  DARTQUANT_DEVICE void multiply_stage(Thread const& thread, std::byte const* data, bool accumulate,
                                       std::int32_t (&dot)[TokenBlocks][16][4]) const {
    auto const* const weights = reinterpret_cast<Words4 const*>(data + thread.warp() * 1024) + thread.lane();
    Words4 const first = weights[0], second = weights[32];
    SixteenTimes const a[4] = {{first.v[0], first.v[1]},
                               {first.v[2], first.v[3]},
                               {second.v[0], second.v[1]},
                               {second.v[2], second.v[3]}};
#pragma unroll
    for (int b = 0; b < TokenBlocks; ++b) hold(thread, dot[b]);
    warpgroup_fence(thread);
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
      for (int b = 0; b < TokenBlocks; ++b)
        multiply_warpgroup(thread, dot[b], a[step].a, data + weight_bytes + b * x_block_bytes + step * 256,
                           accumulate || step > 0);
    warpgroup_wait(thread);
#pragma unroll
    for (int b = 0; b < TokenBlocks; ++b) hold(thread, dot[b]);
  }
};

}  // namespace dartquant::cuda
