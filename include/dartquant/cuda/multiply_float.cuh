// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/float_product.cuh>
#include <dartquant/cuda/grid.hpp>
#include <dartquant/cuda/mma_block.cuh>

namespace dartquant::cuda {

/// W4A16 for many tokens with mma.sync: a block computes 128 outputs x 128 tokens, each of its 8 warps 64
/// x 32. Weights become floats in registers. Rows of activations lie in shared memory as 8 chunks of 16
/// bytes, those of odd tokens with their halves exchanged, so that no two lanes of a quarter warp meet in a
/// bank.
template <class T>
struct MultiplyFloat {
  using Block = MmaBlock;
  static constexpr int threads = Block::threads, stages = 3;
  static constexpr int weight_bytes = Block::weight_bytes, x_bytes = Block::tokens * 128;
  static constexpr int stage_bytes = weight_bytes + x_bytes;
  static constexpr int panels = Block::panels, token_tiles = Block::token_tiles;
  FloatProduct<T> p;

  [[nodiscard]] static Grid grid(FloatProduct<T> const& p) { return Block::grid(p.y, stages * stage_bytes); }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    int const tiles = p.w.tiles_of_panel;
    for (int tile = 0; tile < stages - 1; ++tile) copy(thread, tile);
    Block::Fragments<float> dot = {};
    Block::Fragments<float> sum = {};
    int const steps_of_group = p.w.groups > 1 ? p.w.width / 32 : 2 * tiles;
    for (int tile = 0, step = 0, group = 0; tile < tiles; ++tile) {
      thread.template wait_copies<stages - 2>();
      thread.synchronize();
      copy(thread, tile + stages - 1);
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        if (group < p.w.groups) multiply(thread, tile % stages, s, group, dot);
        if (++step == steps_of_group || (tile + 1 == tiles && s == 1)) {
          if (group < p.w.groups) scale(thread, group, dot, sum);
          step = 0;
          ++group;
        }
      }
    }
    Block::finish(thread, p, sum);
  }

 private:
  /// Where a chunk of 8 channels of a token lies in its row.
  static DARTQUANT_DEVICE int chunk_place(int token, int chunk) { return chunk ^ (token % 2 * 4); }

  template <class Thread>
  DARTQUANT_DEVICE void copy(Thread const& thread, int tile) const {
    if (tile < p.w.tiles_of_panel) {
      std::byte* const stage = thread.shared() + tile % stages * stage_bytes;
      Block::copy_weights(thread, p.w, tile, stage);
#pragma unroll
      for (int i = 0; i < x_bytes / 16 / threads; ++i) {
        int const at = i * threads + thread.index(), row = at / 8, chunk = at % 8;
        int const token = thread.block_y() * Block::tokens + row, channel = tile * 64 + chunk * 8;
        auto* const to =
            reinterpret_cast<Words4*>(stage + weight_bytes + row * 128) + chunk_place(row, chunk);
        if (p.x.whole(token, channel)) thread.template copy_async<16>(to, p.x.at(token, channel));
        else *to = p.x.eight(token, channel);
      }
    }
    thread.commit_copies();
  }

  template <class Thread>
  DARTQUANT_DEVICE void multiply(Thread const& thread, int stage, int step, int group,
                                 Block::Fragments<float>& dot) const {
    std::byte const* const weights = thread.shared() + stage * stage_bytes;
    std::byte const* const x = weights + weight_bytes + thread.warp() / 2 * (8 * token_tiles * 128);
    int const row = thread.lane() / 4;
    ActivationPairs const b[token_tiles] = {x_pairs(thread, x, 0, step), x_pairs(thread, x, 1, step),
                                            x_pairs(thread, x, 2, step), x_pairs(thread, x, 3, step)};
#pragma unroll
    for (int i = 0; i < panels; ++i) {
      Words4 const a = Block::weights(thread, weights, i);
      int const panel = Block::first_panel(thread) + i;
      DequantizedPairs<T> const low(thread, a.v[2 * step], ZeroPair<T>(p.zero_pair(panel, group, row)));
      DequantizedPairs<T> const high(thread, a.v[2 * step + 1],
                                     ZeroPair<T>(p.zero_pair(panel, group, row + 8)));
#pragma unroll
      for (int j = 0; j < token_tiles; ++j) multiply_pairs(thread, dot[i][j], low, high, b[j].pair);
    }
  }
  template <class Thread>
  DARTQUANT_DEVICE static ActivationPairs x_pairs(Thread const& thread, std::byte const* x, int j, int step) {
    int const token = j * 8 + thread.lane() / 4;
    return {thread, reinterpret_cast<Words4 const*>(
                        x + token * 128)[chunk_place(token, step * 4 + thread.lane() % 4)]};
  }

  template <class Thread>
  DARTQUANT_DEVICE void scale(Thread const& thread, int group, Block::Fragments<float>& dot,
                              Block::Fragments<float>& sum) const {
#pragma unroll
    for (int i = 0; i < panels; ++i)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        int const row = thread.lane() / 4 + 8 * (c / 2);
        float const factor = p.w.scales[p.w.cell(Block::first_panel(thread) + i, group, row)];
#pragma unroll
        for (int j = 0; j < token_tiles; ++j) {
          sum[i][j][c] = std::fma(dot[i][j][c], factor, sum[i][j][c]);
          dot[i][j][c] = 0;
        }
      }
  }
};

}  // namespace dartquant::cuda
