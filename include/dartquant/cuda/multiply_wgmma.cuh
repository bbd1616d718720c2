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
/// A block computes 128 OutBlocks outputs x 128 tokens: two warpgroups, each 64 OutBlocks outputs. Weights
/// are half as long as activations, so the wide side of the block is theirs. The first warp also fills stages
/// of 128 channels by bulk copies, two stages behind the one that it multiplies; two barriers per stage count
/// what has arrived and who has finished. Grouped: OutBlocks is 1 (its sums need the registers), groups are a
/// multiple of 128 channels.
template <int OutBlocks, bool Grouped>
struct MultiplyWgmma {
  static constexpr int threads = 256, warps = threads / 32, stages = 6, lag = 2;
  static constexpr int block_outputs = 128 * OutBlocks, block_panels = block_outputs / 16, block_tokens = 128;
  static constexpr int weight_bytes = block_panels * 1024, x_bytes = 16384;
  static constexpr int stage_bytes = weight_bytes + x_bytes, barrier_bytes = 128;
  IntProduct p;
  StagedLayout staged;

  [[nodiscard]] static Grid grid(IntProduct const& p) {
    return {.blocks_x = (p.y.out + block_outputs - 1) / block_outputs,
            .blocks_y = (p.y.tokens + block_tokens - 1) / block_tokens,
            .shared_bytes = barrier_bytes + stages * stage_bytes};
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    if (!has_warpgroups(thread)) return;
    if (thread.index() == 0) {
      for (int stage = 0; stage < stages; ++stage) {
        barrier_start(thread, full(thread, stage), 1);
        barrier_start(thread, empty(thread, stage), warps);
      }
      barriers_started(thread);
    }
    thread.synchronize();
    if (thread.warp() == 0)
      for (int block = 0; block < stages - lag; ++block) fill(thread, block);

    int const blocks = staged.tiles / 2;
    std::int32_t dot[OutBlocks][16][4] = {};
    float sum[Grouped ? 16 : 1][4] = {};
    float scales[OutBlocks][2] = {};
    int const blocks_of_group = Grouped ? p.w.width / 128 : blocks;
    for (int block = 0, in_group = 0, group = 0; block < blocks; ++block) {
      if (thread.warp() == 0) fill(thread, block + stages - lag);
      if (in_group == 0) load_scales(thread, group, scales);
      barrier_wait(thread, full(thread, block % stages), block / stages % 2);
      multiply_stage(thread, stage_data(thread, block % stages), in_group > 0, dot);
      if (thread.lane() == 0) barrier_arrive(thread, empty(thread, block % stages));
      if (++in_group < blocks_of_group && block + 1 < blocks) continue;
      if constexpr (Grouped) {
#pragma unroll
        for (int j = 0; j < 16; ++j)
          add_group(p, sum[j], dot[0][j], sixteen_times_shift, scales[0], panel(thread, 0), group,
                    first_token(thread) + 8 * j, thread.lane());
        in_group = 0;
        ++group;
      }
    }
#pragma unroll
    for (int b = 0; b < OutBlocks; ++b)
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        int const token = first_token(thread) + 8 * j;
        float a[4] = {};
        if constexpr (!Grouped)
          add_group(p, a, dot[b][j], sixteen_times_shift, scales[b], panel(thread, b), 0, token,
                    thread.lane());
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          FragmentPlace const at = FragmentPlace::of(thread.lane(), c);
          p.finish(thread, token + at.token, panel(thread, b) * 16 + at.row,
                   Grouped ? sum[Grouped ? j : 0][c] : a[c]);
        }
      }
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
  template <class Thread>
  DARTQUANT_DEVICE static int first_token(Thread const& thread) {
    return thread.block_y() * block_tokens;
  }
  /// The panel of this warp in the b-th block of 64 outputs of its warpgroup: in the block, and in W.
  template <class Thread>
  DARTQUANT_DEVICE static int panel_in_block(Thread const& thread, int b) {
    return (thread.warp() / 4 * OutBlocks + b) * 4 + thread.warp() % 4;
  }
  template <class Thread>
  DARTQUANT_DEVICE static int panel(Thread const& thread, int b) {
    return thread.block_x() * block_panels + panel_in_block(thread, b);
  }
  [[nodiscard]] static DARTQUANT_DEVICE int min_of(int a, int b) { return a < b ? a : b; }

  /// A warp fills the stage of 128 channels: lane i copies panel i of the weights, the last lane the tokens.
  /// What lies behind the last panel or tile is left as it is: activations there are 0, or nothing is stored.
  template <class Thread>
  DARTQUANT_DEVICE void fill(Thread const& thread, int block) const {
    if (block >= staged.tiles / 2) return;
    int const stage = block % stages, lane = thread.lane();
    int const panels = min_of(block_panels, p.w.panels - thread.block_x() * block_panels);
    int const tile_bytes = 512 * min_of(2, p.w.tiles_of_panel - 2 * block);
    barrier_wait(thread, empty(thread, stage), (block / stages + 1) % 2);
    if (lane == 0) barrier_expect(thread, full(thread, stage), panels * tile_bytes + x_bytes);
    thread.synchronize_warp();
    std::byte* const to = stage_data(thread, stage);
    if (lane < panels)
      bulk_copy(thread, to + lane * 1024, p.w.fragment(thread.block_x() * block_panels + lane, 2 * block, 0),
                tile_bytes, full(thread, stage));
    if (lane == 31)
      bulk_copy(thread, to + weight_bytes,
                p.staged + (std::int64_t{thread.block_y()} * (staged.tiles / 2) + block) * x_bytes, x_bytes,
                full(thread, stage));
  }

  template <class Thread>
  DARTQUANT_DEVICE void load_scales(Thread const& thread, int group, float (&scales)[OutBlocks][2]) const {
#pragma unroll
    for (int b = 0; b < OutBlocks; ++b)
      for (int half = 0; half < 2; ++half)
        scales[b][half] = p.w.scales[p.w.cell(panel(thread, b), group, thread.lane() / 4 + 8 * half)];
  }

  /// 128 channels: four instructions of 32 for every 64 outputs.
  template <class Thread>
  DARTQUANT_DEVICE void multiply_stage(Thread const& thread, std::byte const* data, bool accumulate,
                                       std::int32_t (&dot)[OutBlocks][16][4]) const {
    // All operands are in their registers before the fence: one that is written later would have the compiler
    // wait for the instructions in flight.
    std::uint32_t a[OutBlocks][4][4];
#pragma unroll
    for (int b = 0; b < OutBlocks; ++b) {
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        Words4 const words = reinterpret_cast<Words4 const*>(data + panel_in_block(thread, b) *
                                                                        1024)[tile * 32 + thread.lane()];
#pragma unroll
        for (int i = 0; i < 8; ++i)
          a[b][2 * tile + i / 4][i % 4] = SixteenTimes(words.v[i / 4 * 2], words.v[i / 4 * 2 + 1]).a[i % 4];
      }
      hold(thread, a[b]);
      hold(thread, dot[b]);
    }
    warpgroup_fence(thread);
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
      for (int b = 0; b < OutBlocks; ++b)
        multiply_warpgroup(thread, dot[b], a[b][step], data + weight_bytes + step * 256,
                           accumulate || step > 0);
    warpgroup_wait(thread);
#pragma unroll
    for (int b = 0; b < OutBlocks; ++b) hold(thread, dot[b]);
  }
};

}  // namespace dartquant::cuda
