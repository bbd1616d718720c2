// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <dartquant/core/half.hpp>
#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/grid.hpp>
#include <dartquant/cuda/int_product.cuh>

namespace dartquant::cuda {

/// Over how many channels MultiplyWgmma sums integers before it scales them.
enum class WgmmaSums {
  whole,   ///< all: one scale per output
  stages,  ///< 128, where nothing but the scales of weights is to be applied
  groups   ///< a multiple of 128, with all corrections of IntProduct
};

/// Y = X W^T + bias for many tokens on sm_90a, with the integer tensor instructions of warpgroups. They take
/// only their first operand from registers, so weights are the first (rows = outputs): they arrive as
/// nibbles and become bytes in registers. Activations are the second, staged as bytes in the order `blocks`.
///
/// A block computes 128 out_blocks outputs x 128 tokens: two warpgroups, each 64 out_blocks outputs. A thread
/// reads the nibbles that it needs itself from global memory, a stage of 128 channels ahead of their use.
/// Activations go through a ring of stages in shared memory, `ahead` of them under way: bulk copies of the
/// first warp, with two barriers per stage that count what has arrived and who has finished.
///
/// What bounds it: per stage of 1024 cycles of the tensor cores 16 KiB of nibbles and 16 KiB of activations
/// from the L2 cache, and 64 KiB that the instructions read from shared memory.
///
/// whole: the weights of a stage become bytes while the instructions of the stage before run. stages: both
/// blocks of outputs of a warpgroup use one set of integers in turn; while one warpgroup scales, the other
/// multiplies. groups: one block of outputs, correct for everything.
template <WgmmaSums Sums>
struct MultiplyWgmma {
  static constexpr int threads = 256, warps = threads / 32;
  static constexpr int out_blocks = Sums == WgmmaSums::groups ? 1 : 2;
  static constexpr int stages = 12, ahead = 8;
  static constexpr int block_outputs = 128 * out_blocks, block_panels = block_outputs / 16,
                       block_tokens = 128;
  static constexpr int x_bytes = 16384, scale_bytes = Sums == WgmmaSums::stages ? 4 * block_outputs : 0;
  static constexpr int barrier_bytes = 256, token_bytes = 4 * block_tokens;
  IntProduct p;
  StagedLayout staged;

  [[nodiscard]] static Grid grid(IntProduct const& p) {
    return {.blocks_x = (p.y.out + block_outputs - 1) / block_outputs,
            .blocks_y = (p.y.tokens + block_tokens - 1) / block_tokens,
            .shared_bytes = barrier_bytes + token_bytes + stages * (x_bytes + scale_bytes)};
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    if (!has_warpgroups(thread)) return;
    start(thread);
    float values[out_blocks][16][4];
    if constexpr (Sums == WgmmaSums::whole) multiply_whole(thread, values);
    else multiply_groups(thread, values);
    thread.synchronize();  // the memory of the stages is free
    if (p.y.type == OutputType::float32) store_tile<float>(thread, values);
    else if (p.y.type == OutputType::float16) store_tile<Half>(thread, values);
    else store_tile<BFloat16>(thread, values);
  }

 private:
  /// The place of a stage in shared memory, and which time round the ring it is.
  struct Place {
    int slot = 0, round = 0;
    DARTQUANT_DEVICE void advance() {
      if (++slot == stages) {
        slot = 0;
        round ^= 1;
      }
    }
  };
  /// Weights of 64 outputs x 128 channels of a warpgroup: nibbles of two tiles, and bytes, four steps of 32
  /// channels.
  using Nibbles = Words4[2];
  using Operand = std::uint32_t[4][4];

  template <class Thread>
  DARTQUANT_DEVICE static std::uint64_t* full(Thread const& thread, int slot) {
    return reinterpret_cast<std::uint64_t*>(thread.shared()) + slot;
  }
  template <class Thread>
  DARTQUANT_DEVICE static std::uint64_t* empty(Thread const& thread, int slot) {
    return full(thread, stages + slot);
  }
  /// The scales of the tokens.
  template <class Thread>
  DARTQUANT_DEVICE static float* token_scales(Thread const& thread) {
    return reinterpret_cast<float*>(thread.shared() + barrier_bytes);
  }
  /// The activations of a stage.
  template <class Thread>
  DARTQUANT_DEVICE static std::byte* stage_data(Thread const& thread, int slot) {
    return thread.shared() + barrier_bytes + token_bytes + slot * x_bytes;
  }
  /// The scales of a stage that this warp needs: 16 of each panel.
  template <class Thread>
  DARTQUANT_DEVICE static float* stage_scales(Thread const& thread, int slot) {
    std::byte* const all = stage_data(thread, stages) + slot * scale_bytes;
    return reinterpret_cast<float*>(all) + thread.warp() * 16 * out_blocks;
  }
  template <class Thread>
  DARTQUANT_DEVICE static int first_token(Thread const& thread) {
    return thread.block_y() * block_tokens;
  }
  /// The panel of this warp in the b-th block of 64 outputs of its warpgroup: in the block, and in W.
  template <class Thread>
  DARTQUANT_DEVICE static int panel_in_block(Thread const& thread, int b) {
    return (thread.warp() / 4 * out_blocks + b) * 4 + thread.warp() % 4;
  }
  template <class Thread>
  DARTQUANT_DEVICE static int panel(Thread const& thread, int b) {
    return thread.block_x() * block_panels + panel_in_block(thread, b);
  }

  template <class Thread>
  DARTQUANT_DEVICE void start(Thread const& thread) const {
    if (thread.index() == 0) {
      for (int slot = 0; slot < stages; ++slot) {
        barrier_start(thread, full(thread, slot), 1);
        barrier_start(thread, empty(thread, slot), warps);
      }
      barriers_started(thread);
    }
    if (thread.index() < block_tokens) {
      int const token = first_token(thread) + thread.index();
      token_scales(thread)[thread.index()] =
          p.x.grouped ? 1.0f : p.x.scales[(token < p.y.tokens ? token : p.y.tokens - 1) * p.x.scale_stride];
    }
    thread.synchronize();
    Place at;
    for (int block = 0; block < ahead; ++block, at.advance()) fill(thread, block, at);
  }

  /// Starts what fills a stage.
  template <class Thread>
  DARTQUANT_DEVICE void fill(Thread const& thread, int block, Place const& at) const {
    bool const any = block < staged.tiles / 2;
    if constexpr (Sums == WgmmaSums::stages) {
      int const lane = thread.lane(), b = lane / 16;
      if (any && block < p.w.groups)
        thread.template copy_async<4>(stage_scales(thread, at.slot) + lane,
                                      p.w.scales + p.w.cell(panel(thread, b), block, lane % 16));
      thread.commit_copies();
    }
    if (thread.warp() != 0 || !any) return;
    barrier_wait(thread, empty(thread, at.slot), at.round ^ 1);
    if (thread.lane() != 0) return;
    barrier_expect(thread, full(thread, at.slot), x_bytes);
    std::byte* const to = stage_data(thread, at.slot);
    std::byte const* const from =
        p.staged + (std::int64_t{thread.block_y()} * (staged.tiles / 2) + block) * x_bytes;
    bulk_copy(thread, to, from, x_bytes, full(thread, at.slot));
  }
  /// This warp has read the activations of a stage.
  template <class Thread>
  DARTQUANT_DEVICE static void leave(Thread const& thread, int slot) {
    thread.synchronize_warp();  // what the other lanes have read comes before the arrival of one
    if (thread.lane() == 0) barrier_arrive(thread, empty(thread, slot));
  }

  /// Reads the nibbles of a stage. What lies behind the last panel is not stored, and activations behind the
  /// last tile are 0: any weights will do there.
  template <class Thread>
  DARTQUANT_DEVICE void read(Thread const& thread, int block, int b, Nibbles& nibbles) const {
    int const at = panel(thread, b) < p.w.panels ? panel(thread, b) : p.w.panels - 1;
    int const last = p.w.tiles_of_panel - 1;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile)
      nibbles[tile] = *p.w.fragment(at, 2 * block + tile < last ? 2 * block + tile : last, thread.lane());
  }
  DARTQUANT_DEVICE static void unpack(Nibbles const& nibbles, Operand& a) {
#pragma unroll
    for (int tile = 0; tile < 2; ++tile)
#pragma unroll
      for (int i = 0; i < 8; ++i)
        a[2 * tile + i / 4][i % 4] =
            SixteenTimes(nibbles[tile].v[i / 4 * 2], nibbles[tile].v[i / 4 * 2 + 1]).a[i % 4];
  }

  /// The two scales of this lane's outputs in a group.
  template <class Thread>
  DARTQUANT_DEVICE void load_scales(Thread const& thread, int group, float (&scales)[out_blocks][2]) const {
#pragma unroll
    for (int b = 0; b < out_blocks; ++b)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        scales[b][half] = p.w.scales[p.w.cell(panel(thread, b), group, thread.lane() / 4 + 8 * half)];
  }

  // ---- whole: one scale per output

  template <class Thread>
  DARTQUANT_DEVICE void multiply_whole(Thread const& thread, float (&values)[out_blocks][16][4]) const {
    int const blocks = staged.tiles / 2;
    std::int32_t dot[out_blocks][16][4] = {};
    Operand even[out_blocks], odd[out_blocks];  // of two stages in turn: one is read while the other changes
    Nibbles nibbles[out_blocks];
#pragma unroll
    for (int b = 0; b < out_blocks; ++b) read(thread, 0, b, nibbles[b]);
    Place at, next;
    for (int i = 0; i < ahead; ++i) next.advance();
    int block = 0;
    for (; block + 1 < blocks; block += 2) {
      multiply_stage(thread, block, at, next, nibbles, even, dot);
      multiply_stage(thread, block + 1, at, next, nibbles, odd, dot);
    }
    if (block < blocks) multiply_stage(thread, block, at, next, nibbles, even, dot);
    warpgroup_wait<0>(thread);
    float scales[out_blocks][2];
    load_scales(thread, 0, scales);
#pragma unroll
    for (int b = 0; b < out_blocks; ++b) {
      hold(thread, dot[b]);
#pragma unroll
      for (int j = 0; j < 16; ++j) {
#pragma unroll
        for (int c = 0; c < 4; ++c) values[b][j][c] = 0;
        add_group(p, values[b][j], dot[b][j], sixteen_times_shift, scales[b], panel(thread, b), 0,
                  first_token(thread) + 8 * j, thread.lane());
      }
    }
  }

  template <class Thread>
  DARTQUANT_DEVICE void multiply_stage(Thread const& thread, int block, Place& at, Place& next,
                                       Nibbles (&nibbles)[out_blocks], Operand (&a)[out_blocks],
                                       std::int32_t (&dot)[out_blocks][16][4]) const {
    fill(thread, block + ahead, next);
    next.advance();
#pragma unroll
    for (int b = 0; b < out_blocks; ++b) {
      unpack(nibbles[b], a[b]);
      hold(thread, a[b]);
      read(thread, block + 1, b, nibbles[b]);
    }
    barrier_wait(thread, full(thread, at.slot), at.round);
#pragma unroll
    for (int b = 0; b < out_blocks; ++b) hold(thread, dot[b]);
    warpgroup_fence(thread);
    std::byte const* const x = stage_data(thread, at.slot);
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
      for (int b = 0; b < out_blocks; ++b)
        multiply_warpgroup(thread, dot[b], a[b][step], x + step * 256, true);
    warpgroup_commit(thread);
    warpgroup_wait<1>(thread);  // the stage before is done
    if (block > 0) leave(thread, at.slot == 0 ? stages - 1 : at.slot - 1);
    at.advance();
  }

  // ---- a scale per group of channels

  template <class Thread>
  DARTQUANT_DEVICE void multiply_groups(Thread const& thread, float (&sum)[out_blocks][16][4]) const {
    int const blocks = staged.tiles / 2, blocks_of_group = p.w.width / 128;
#pragma unroll
    for (int b = 0; b < out_blocks; ++b)
#pragma unroll
      for (int j = 0; j < 16; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c) sum[b][j][c] = 0;
    std::int32_t dot[16][4];
    float scales[out_blocks][2];
    Nibbles nibbles[out_blocks];
#pragma unroll
    for (int b = 0; b < out_blocks; ++b) read(thread, 0, b, nibbles[b]);
    Place at, next;
    for (int i = 0; i < ahead; ++i) next.advance();
    for (int block = 0, in_group = 0, group = 0; block < blocks; ++block, at.advance()) {
      fill(thread, block + ahead, next);
      next.advance();
      if constexpr (Sums == WgmmaSums::stages) {
        thread.template wait_copies<ahead>();
        thread.synchronize_warp();  // scales that other lanes copied
#pragma unroll
        for (int b = 0; b < out_blocks; ++b)
#pragma unroll
          for (int half = 0; half < 2; ++half)
            scales[b][half] = stage_scales(thread, at.slot)[b * 16 + thread.lane() / 4 + 8 * half];
      } else if (in_group == 0) {
        load_scales(thread, group, scales);
      }
      barrier_wait(thread, full(thread, at.slot), at.round);
      bool const complete = ++in_group == blocks_of_group || block + 1 == blocks;
#pragma unroll
      for (int b = 0; b < out_blocks; ++b) {
        Operand a;
        unpack(nibbles[b], a);
        // All operands are in their registers before the fence: one that is written later would have the
        // compiler wait for the instructions in flight.
        hold(thread, a);
        read(thread, block + 1, b, nibbles[b]);
        multiply_block(thread, stage_data(thread, at.slot), a, in_group > 1, dot);
        if constexpr (Sums == WgmmaSums::stages) add_stage(dot, scales[b], sum[b]);
        else if (complete)
#pragma unroll
          for (int j = 0; j < 16; ++j)
            add_group(p, sum[b][j], dot[j], sixteen_times_shift, scales[b], panel(thread, b), group,
                      first_token(thread) + 8 * j, thread.lane());
      }
      leave(thread, at.slot);
      if (!complete) continue;
      in_group = 0;
      ++group;
    }
  }

  template <class Thread>
  DARTQUANT_DEVICE static void multiply_block(Thread const& thread, std::byte const* x, Operand const& a,
                                              bool accumulate, std::int32_t (&dot)[16][4]) {
    hold(thread, dot);
    warpgroup_fence(thread);
#pragma unroll
    for (int step = 0; step < 4; ++step)
      multiply_warpgroup(thread, dot, a[step], x + step * 256, accumulate || step > 0);
    warpgroup_commit(thread);
    warpgroup_wait<0>(thread);
    hold(thread, dot);
  }

  /// sum += float(dot / 16) scale. A sixteenth of the scale saves the shift: it is exact, and so is 16 n in
  /// float wherever n is rounded alike; scales too small for that take the shift.
  DARTQUANT_DEVICE static void add_stage(std::int32_t const (&dot)[16][4], float const (&scales)[2],
                                         float (&sum)[16][4]) {
    float const low = std::fabs(scales[0]), high = std::fabs(scales[1]);
    bool const tiny = (low > 0 && low < 0x1p-100f) || (high > 0 && high < 0x1p-100f);
    float const sixteenth[2] = {scales[0] * 0.0625f, scales[1] * 0.0625f};
    if (!tiny) {
#pragma unroll
      for (int j = 0; j < 16; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          sum[j][c] = std::fma(static_cast<float>(dot[j][c]), sixteenth[c / 2], sum[j][c]);
      return;
    }
#pragma unroll
    for (int j = 0; j < 16; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        sum[j][c] = std::fma(static_cast<float>(dot[j][c] >> sixteen_times_shift), scales[c / 2], sum[j][c]);
  }

  // ---- Y

  /// Scales and biases the sums and brings them to memory: through shared memory, so that a row of Y is
  /// written in whole pieces of 16 bytes where Y allows it.
  template <class T, class Thread>
  DARTQUANT_DEVICE void store_tile(Thread const& thread, float const (&values)[out_blocks][16][4]) const {
    constexpr int pitch = block_outputs + 16 / static_cast<int>(sizeof(T));
    static_assert(block_tokens * pitch * static_cast<int>(sizeof(T)) <= stages * x_bytes);
    auto* const tile = reinterpret_cast<T*>(stage_data(thread, 0));
    float const* const scales = token_scales(thread);
#pragma unroll
    for (int b = 0; b < out_blocks; ++b) {
      float bias[2] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const out = panel(thread, b) * 16 + thread.lane() / 4 + 8 * half;
        if (p.bias != nullptr && out < p.y.out) bias[half] = p.bias[out];
      }
#pragma unroll
      for (int j = 0; j < 16; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          FragmentPlace const at = FragmentPlace::of(thread.lane(), c);
          int const token = 8 * j + at.token;
          tile[token * pitch + panel_in_block(thread, b) * 16 + at.row] =
              thread.template from_float<T>(std::fma(values[b][j][c], scales[token], bias[c / 2]));
        }
    }
    thread.synchronize();
    constexpr int each = 16 / static_cast<int>(sizeof(T));  // outputs of a piece
    int const first_out = thread.block_x() * block_outputs, outputs = p.y.out - first_out;
    auto* const y = static_cast<T*>(p.y.data) + first_out;
    bool const whole =
        outputs >= block_outputs && p.y.stride % each == 0 && reinterpret_cast<std::uintptr_t>(y) % 16 == 0;
    for (int row = thread.warp(); row < block_tokens; row += warps) {
      if (first_token(thread) + row >= p.y.tokens) break;
      T const* const from = tile + row * pitch;
      T* const to = y + (first_token(thread) + row) * p.y.stride;
      if (whole) {
#pragma unroll
        for (int i = 0; i < block_outputs / each; i += 32)
          if (i + thread.lane() < block_outputs / each)
            reinterpret_cast<Words4*>(to)[i + thread.lane()] =
                reinterpret_cast<Words4 const*>(from)[i + thread.lane()];
      } else {
        for (int i = thread.lane(); i < outputs && i < block_outputs; i += 32) to[i] = from[i];
      }
    }
  }
};

}  // namespace dartquant::cuda
