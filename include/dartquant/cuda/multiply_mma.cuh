// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/grid.hpp>
#include <dartquant/cuda/int_product.cuh>
#include <dartquant/cuda/mma_block.cuh>

namespace dartquant::cuda {

/// Operands of MultiplyMma. Bytes: weights become bytes in registers; any architecture from 8.0. Nibbles:
/// both operands stay nibbles; 8.0 to 8.9 alone, groups a multiple of 64.
enum class MmaOperands { bytes, nibbles };

/// Y = X W^T + bias for many tokens with mma.sync: integer tensor instructions of a warp. A block computes
/// 128 outputs x 128 tokens, each of its 8 warps 64 x 32; weights are the first operand (rows = outputs),
/// activations the second. Tiles of 64 channels arrive in shared memory by asynchronous copies, `stages`
/// deep; a lane finds the bytes of its fragments in one piece, so no bank conflicts and no shuffles.
/// Integers are scaled and added in float after every group.
template <MmaOperands Operands>
struct MultiplyMma {
  using Block = MmaBlock;
  static constexpr int threads = Block::threads, stages = 4;
  static constexpr int x_row = Operands == MmaOperands::bytes ? 64 : 32;  ///< bytes of a token and tile
  static constexpr int weight_bytes = Block::weight_bytes, x_bytes = Block::tokens * x_row;
  static constexpr int stage_bytes = weight_bytes + x_bytes;
  static constexpr int panels = Block::panels, token_tiles = Block::token_tiles;
  static constexpr int shift = Operands == MmaOperands::bytes ? sixteen_times_shift : 0;
  static constexpr int steps = Operands == MmaOperands::bytes ? 2 : 1;  ///< of a tile
  IntProduct p;

  [[nodiscard]] static Grid grid(IntProduct const& p) { return Block::grid(p.y, stages * stage_bytes); }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    if (Operands == MmaOperands::nibbles && !has_nibbles(thread)) return;
    int const tiles = p.w.tiles_of_panel;
    for (int tile = 0; tile < stages - 1; ++tile) copy(thread, tile);
    Block::Fragments<std::int32_t> dot = {};
    Block::Fragments<float> sum = {};
    float scales[panels][2] = {};
    int const steps_of_group = p.w.groups > 1 ? p.w.width * steps / 64 : tiles * steps;
    for (int tile = 0, step = 0, group = 0; tile < tiles; ++tile) {
      thread.template wait_copies<stages - 2>();
      thread.synchronize();
      copy(thread, tile + stages - 1);
#pragma unroll
      for (int s = 0; s < steps; ++s) {
        if (step == 0) load_scales(thread, group, scales);
        multiply(thread, tile % stages, s, dot);
        if (++step == steps_of_group || (tile + 1 == tiles && s + 1 == steps)) {
          if (group < p.w.groups) promote(thread, group, scales, dot, sum);
          step = 0;
          ++group;
        }
      }
    }
    Block::finish(thread, p, sum);
  }

 private:
  /// Starts the copies of a tile. What lies behind the last panel or token is left as it is: nothing that is
  /// stored depends on it.
  template <class Thread>
  DARTQUANT_DEVICE void copy(Thread const& thread, int tile) const {
    if (tile < p.w.tiles_of_panel) {
      std::byte* const stage = thread.shared() + tile % stages * stage_bytes;
      Block::copy_weights(thread, p.w, tile, stage);
      for (int chunk = thread.index(); chunk < x_bytes / 16; chunk += threads) {
        int const token = thread.block_y() * Block::tokens + chunk / (x_row / 16);
        if (token < p.y.tokens)
          thread.template copy_async<16>(stage + weight_bytes + chunk * 16,
                                         p.staged +
                                             (std::int64_t{token} * p.w.tiles_of_panel + tile) * x_row +
                                             chunk % (x_row / 16) * 16);
      }
    }
    thread.commit_copies();
  }

  template <class Thread>
  DARTQUANT_DEVICE void load_scales(Thread const& thread, int group, float (&scales)[panels][2]) const {
    if (group >= p.w.groups) return;
#pragma unroll
    for (int i = 0; i < panels; ++i)
      for (int half = 0; half < 2; ++half)
        scales[i][half] =
            p.w.scales[p.w.cell(Block::first_panel(thread) + i, group, thread.lane() / 4 + 8 * half)];
  }

  /// One k step: 32 channels of bytes, 64 of nibbles.
  template <class Thread>
  DARTQUANT_DEVICE void multiply(Thread const& thread, int stage, int step,
                                 Block::Fragments<std::int32_t>& dot) const {
    std::byte const* const weights = thread.shared() + stage * stage_bytes;
    std::byte const* const x = weights + weight_bytes + thread.warp() / 2 * (8 * token_tiles * x_row);
    std::uint32_t b[token_tiles][2];
#pragma unroll
    for (int j = 0; j < token_tiles; ++j) {
      // Lane 4 r + q reads token r, quad q: byte lane * x_row / 4.
      auto const words =
          *reinterpret_cast<Words2 const*>(x + j * 8 * x_row + thread.lane() * (x_row / 4) + step * 8);
      b[j][0] = words.v[0];
      b[j][1] = words.v[1];
    }
#pragma unroll
    for (int i = 0; i < panels; ++i) {
      Words4 const a = Block::weights(thread, weights, i);
#pragma unroll
      for (int j = 0; j < token_tiles; ++j) {
        if constexpr (Operands == MmaOperands::nibbles) {
          multiply_nibbles(thread, dot[i][j], a.v, b[j][0], b[j][1]);
        } else {
          SixteenTimes const bytes(a.v[2 * step], a.v[2 * step + 1]);
          multiply_bytes(thread, dot[i][j], bytes.a, b[j][0], b[j][1]);
        }
      }
    }
  }

  template <class Thread>
  DARTQUANT_DEVICE void promote(Thread const& thread, int group, float const (&scales)[panels][2],
                                Block::Fragments<std::int32_t>& dot, Block::Fragments<float>& sum) const {
#pragma unroll
    for (int i = 0; i < panels; ++i)
#pragma unroll
      for (int j = 0; j < token_tiles; ++j) {
        add_group(p, sum[i][j], dot[i][j], shift, scales[i], Block::first_panel(thread) + i, group,
                  Block::first_token(thread) + 8 * j, thread.lane());
#pragma unroll
        for (int c = 0; c < 4; ++c) dot[i][j][c] = 0;
      }
  }
};

}  // namespace dartquant::cuda
