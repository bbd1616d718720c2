// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/float_product.cuh>
#include <dartquant/cuda/grid.hpp>

namespace dartquant::cuda {

/// W4A16 for 8 TokenTiles tokens or fewer: as Decode, but the sums of the warps are floats and added in the
/// order of the warps.
template <class T, int TokenTiles>
struct DecodeFloat {
  static constexpr int threads = 256, warps = threads / 32;
  static constexpr int panels = 2, outputs = 16 * panels, fragments = panels * TokenTiles;
  FloatProduct<T> p;

  [[nodiscard]] static Grid grid(FloatProduct<T> const& p) {
    return {.blocks_x = (p.y.out + outputs - 1) / outputs, .shared_bytes = warps * fragments * 512};
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    float sum[panels][TokenTiles][4] = {};
    Words4 next[panels];
    load(thread, thread.warp(), next);
    for (int tile = thread.warp(); tile < p.w.tiles_of_panel; tile += warps) {
      Words4 const current[panels] = {next[0], next[1]};
      load(thread, tile + warps, next);
#pragma unroll
      for (int step = 0; step < 2; ++step) multiply(thread, current, tile, step, sum);
    }
    auto* const sums = reinterpret_cast<float*>(thread.shared());
#pragma unroll
    for (int panel = 0; panel < panels; ++panel)
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          sums[(thread.warp() * fragments + panel * TokenTiles + j) * 128 + thread.lane() * 4 + i] =
              sum[panel][j][i];
    thread.synchronize();
    for (int index = thread.index(); index < fragments * 128; index += threads) {
      float a = 0;
      for (int warp = 0; warp < warps; ++warp) a += sums[warp * fragments * 128 + index];
      FragmentPlace const at = FragmentPlace::of(index % 128 / 4, index % 4);
      int const fragment = index / 128, panel = thread.block_x() * panels + fragment / TokenTiles;
      p.finish(thread, fragment % TokenTiles * 8 + at.token, panel * 16 + at.row, a);
    }
  }

 private:
  template <class Thread>
  DARTQUANT_DEVICE void load(Thread const& thread, int tile, Words4 (&weights)[panels]) const {
#pragma unroll
    for (int i = 0; i < panels; ++i) {
      int const panel = thread.block_x() * panels + i;
      weights[i] = panel < p.w.panels && tile < p.w.tiles_of_panel ? *p.w.fragment(panel, tile, thread.lane())
                                                                   : Words4{};
    }
  }
  template <class Thread>
  DARTQUANT_DEVICE void multiply(Thread const& thread, Words4 const (&weights)[panels], int tile, int step,
                                 float (&sum)[panels][TokenTiles][4]) const {
    int const channel = tile * 64 + step * 32, row = thread.lane() / 4;
    if (channel >= p.w.in) return;
    int const group = channel / p.w.width;
#pragma unroll
    for (int panel = 0; panel < panels; ++panel) {
      int const of = thread.block_x() * panels + panel;
      DequantizedPairs<T> const low(thread, weights[panel].v[2 * step], p.zero_pair(of, group, row));
      DequantizedPairs<T> const high(thread, weights[panel].v[2 * step + 1], p.zero_pair(of, group, row + 8));
      float const scales[2] = {p.w.scales[p.w.cell(of, group, row)],
                               p.w.scales[p.w.cell(of, group, row + 8)]};
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j) {
        ActivationPairs const x(thread, p.x.eight(j * 8 + row, channel + thread.lane() % 4 * 8));
        float dot[4] = {};
        multiply_pairs(thread, dot, low, high, x);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[panel][j][i] = std::fma(dot[i], scales[i / 2], sum[panel][j][i]);
      }
    }
  }
};

}  // namespace dartquant::cuda
