// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/grid.hpp>
#include <dartquant/cuda/int_product.cuh>

namespace dartquant::cuda {

/// How 8 warps share out 128 outputs x 128 tokens for mma.sync: each has 64 x 32, weights are the first
/// operand (rows = outputs), activations the second.
struct MmaBlock {
  static constexpr int threads = 256, outputs = 128, tokens = 128;
  static constexpr int panels = 4, token_tiles = 4;        ///< of a warp
  static constexpr int weight_bytes = outputs / 16 * 512;  ///< of a tile of 64 channels
  template <class T>
  using Fragments = T[panels][token_tiles][4];

  [[nodiscard]] static Grid grid(Output const& y, std::size_t shared_bytes) {
    return {.blocks_x = (y.out + outputs - 1) / outputs,
            .blocks_y = (y.tokens + tokens - 1) / tokens,
            .shared_bytes = shared_bytes};
  }
  template <class Thread>
  [[nodiscard]] DARTQUANT_DEVICE static int first_panel(Thread const& thread) {
    return thread.block_x() * (outputs / 16) + thread.warp() % 2 * panels;
  }
  template <class Thread>
  [[nodiscard]] DARTQUANT_DEVICE static int first_token(Thread const& thread) {
    return thread.block_y() * tokens + thread.warp() / 2 * (8 * token_tiles);
  }

  /// Starts the copy of a tile of weights: 16 bytes per thread. What lies behind the last panel is left as it
  /// is: nothing that is stored depends on it.
  template <class Thread>
  DARTQUANT_DEVICE static void copy_weights(Thread const& thread, Weights const& w, int tile,
                                            std::byte* stage) {
    int const panel = thread.block_x() * (outputs / 16) + thread.warp();
    if (panel < w.panels)
      thread.template copy_async<16>(stage + thread.index() * 16, w.fragment(panel, tile, thread.lane()));
  }
  /// The piece of a lane of panel i of its warp.
  template <class Thread>
  [[nodiscard]] DARTQUANT_DEVICE static Words4 weights(Thread const& thread, std::byte const* stage, int i) {
    return reinterpret_cast<Words4 const*>(stage + (thread.warp() % 2 * panels + i) * 512)[thread.lane()];
  }

  /// Hands all sums of this thread to p.finish(thread, token, output, sum).
  template <class Thread, class Product>
  DARTQUANT_DEVICE static void finish(Thread const& thread, Product const& p, Fragments<float> const& sum) {
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
};

}  // namespace dartquant::cuda
