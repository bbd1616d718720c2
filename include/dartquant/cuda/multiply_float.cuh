// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/float_product.cuh>
#include <dartquant/cuda/grid.hpp>

namespace dartquant::cuda {

/// W4A16 for many tokens with mma.sync: a block computes 128 outputs x 128 tokens, each of its 8 warps 64
/// x 32. Weights become floats in registers. Rows of activations lie in shared memory as 8 chunks of 16
/// bytes, those of odd tokens with their halves exchanged, so that no two lanes of a quarter warp meet in a
/// bank.
template <class T>
struct MultiplyFloat {
  static constexpr int threads = 256, stages = 3;
  static constexpr int block_outputs = 128, block_tokens = 128;
  static constexpr int weight_bytes = block_outputs / 16 * 512, x_bytes = block_tokens * 128;
  static constexpr int stage_bytes = weight_bytes + x_bytes;
  static constexpr int panels = 4, token_tiles = 4;  ///< of a warp
  FloatProduct<T> p;

  [[nodiscard]] static Grid grid(FloatProduct<T> const& p) {
    return {.blocks_x = (p.y.out + block_outputs - 1) / block_outputs,
            .blocks_y = (p.y.tokens + block_tokens - 1) / block_tokens,
            .shared_bytes = stages * stage_bytes};
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    int const tiles = p.w.tiles_of_panel;
    for (int tile = 0; tile < stages - 1; ++tile) copy(thread, tile);
    float dot[panels][token_tiles][4] = {};
    float sum[panels][token_tiles][4] = {};
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
#pragma unroll
    for (int i = 0; i < panels; ++i)
#pragma unroll
      for (int j = 0; j < token_tiles; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          FragmentPlace const at = FragmentPlace::of(thread.lane(), c);
          p.finish(thread, first_token(thread) + 8 * j + at.token, (first_panel(thread) + i) * 16 + at.row,
                   sum[i][j][c]);
        }
  }

 private:
  template <class Thread>
  DARTQUANT_DEVICE static int first_panel(Thread const& thread) {
    return thread.block_x() * (block_outputs / 16) + thread.warp() % 2 * panels;
  }
  template <class Thread>
  DARTQUANT_DEVICE static int first_token(Thread const& thread) {
    return thread.block_y() * block_tokens + thread.warp() / 2 * (8 * token_tiles);
  }
  /// Where a chunk of 8 channels of a token lies in its row.
  static DARTQUANT_DEVICE int chunk_place(int token, int chunk) { return chunk ^ (token % 2 * 4); }

  template <class Thread>
  DARTQUANT_DEVICE void copy(Thread const& thread, int tile) const {
    if (tile < p.w.tiles_of_panel) {
      std::byte* const stage = thread.shared() + tile % stages * stage_bytes;
      int const panel = thread.block_x() * (block_outputs / 16) + thread.warp();
      if (panel < p.w.panels)
        thread.template copy_async<16>(stage + thread.index() * 16, p.w.fragment(panel, tile, thread.lane()));
#pragma unroll
      for (int i = 0; i < x_bytes / 16 / threads; ++i) {
        int const at = i * threads + thread.index(), row = at / 8, chunk = at % 8;
        int const token = thread.block_y() * block_tokens + row, channel = tile * 64 + chunk * 8;
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
                                 float (&dot)[panels][token_tiles][4]) const {
    std::byte const* const weights = thread.shared() + stage * stage_bytes;
    std::byte const* const x = weights + weight_bytes + thread.warp() / 2 * (8 * token_tiles * 128);
    int const row = thread.lane() / 4;
    ActivationPairs const b[token_tiles] = {x_pairs(thread, x, 0, step), x_pairs(thread, x, 1, step),
                                            x_pairs(thread, x, 2, step), x_pairs(thread, x, 3, step)};
#pragma unroll
    for (int i = 0; i < panels; ++i) {
      auto const a =
          reinterpret_cast<Words4 const*>(weights + (thread.warp() % 2 * panels + i) * 512)[thread.lane()];
      int const panel = first_panel(thread) + i;
      DequantizedPairs<T> const low(thread, a.v[2 * step], p.zero_pair(panel, group, row));
      DequantizedPairs<T> const high(thread, a.v[2 * step + 1], p.zero_pair(panel, group, row + 8));
#pragma unroll
      for (int j = 0; j < token_tiles; ++j) multiply_pairs(thread, dot[i][j], low, high, b[j]);
    }
  }
  template <class Thread>
  DARTQUANT_DEVICE static ActivationPairs x_pairs(Thread const& thread, std::byte const* x, int j, int step) {
    int const token = j * 8 + thread.lane() / 4;
    return {thread, reinterpret_cast<Words4 const*>(
                        x + token * 128)[chunk_place(token, step * 4 + thread.lane() % 4)]};
  }

  template <class Thread>
  DARTQUANT_DEVICE void scale(Thread const& thread, int group, float (&dot)[panels][token_tiles][4],
                              float (&sum)[panels][token_tiles][4]) const {
#pragma unroll
    for (int i = 0; i < panels; ++i)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        int const row = thread.lane() / 4 + 8 * (c / 2);
        float const factor = p.w.scales[p.w.cell(first_panel(thread) + i, group, row)];
#pragma unroll
        for (int j = 0; j < token_tiles; ++j) {
          sum[i][j][c] = std::fma(dot[i][j][c], factor, sum[i][j][c]);
          dot[i][j][c] = 0;
        }
      }
  }
};

}  // namespace dartquant::cuda
