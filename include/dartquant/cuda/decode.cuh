// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/grid.hpp>
#include <dartquant/cuda/int_product.cuh>

namespace dartquant::cuda {

/// Y = X W^T + bias for 8 TokenTiles tokens or fewer, where reading the weights is all that takes time. A
/// block computes 32 outputs; its 8 warps share out the input channels. A warp reads 512 consecutive bytes at
/// a time and asks for the next before it uses the last; activations are taken as they are, from the caches.
/// The integers of the warps meet in shared memory. Not grouped: they are added. Grouped: 16 groups are
/// collected, two of each warp, then scaled and added in the order of the groups, so the bytes are the CPU's.
template <int TokenTiles, bool Grouped>
struct Decode {
  static constexpr int threads = 256, warps = threads / 32;
  static constexpr int panels = 2, outputs = 16 * panels;
  static constexpr int slots = Grouped ? 2 * warps : warps;
  static constexpr int fragments = panels * TokenTiles;  ///< of a slot, each 128 integers
  static constexpr int entries = fragments * 128 / threads;
  static constexpr int slot_words = fragments * 128 + 8 * TokenTiles;  ///< the last are sums of activations
  IntProduct p;

  [[nodiscard]] static Grid grid(IntProduct const& p) {
    return {.blocks_x = (p.y.out + outputs - 1) / outputs, .shared_bytes = slots * slot_words * 4};
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    float a[entries] = {};
    if constexpr (Grouped) {
      int const tiles = 2 * p.w.width / 64, rounds = (p.w.groups + slots - 1) / slots;
      for (int round = 0; round < rounds; ++round) {
        multiply(thread, (round * warps + thread.warp()) * tiles, 1, tiles, p.w.width / 32);
        thread.synchronize();
        for (int slot = 0; slot < slots && round * slots + slot < p.w.groups; ++slot)
          add(thread, round * slots + slot, slot, slot + 1, a);
        thread.synchronize();
      }
    } else {
      int const tiles = (p.w.tiles_of_panel + warps - 1) / warps;
      multiply(thread, thread.warp(), warps, tiles, 2 * tiles);
      thread.synchronize();
      add(thread, 0, 0, slots, a);
    }
#pragma unroll
    for (int e = 0; e < entries; ++e) {
      Place const at = place(thread, e);
      p.finish(thread, at.token, at.panel * 16 + at.row, a[e]);
    }
  }

 private:
  struct Place {
    int panel, row, token, index;  ///< index: in a slot
  };
  /// What an entry of this thread is, after the integers have met.
  template <class Thread>
  DARTQUANT_DEVICE static Place place(Thread const& thread, int entry) {
    int const index = entry * threads + thread.index(), fragment = index / 128;
    FragmentPlace const at = FragmentPlace::of(index % 128 / 4, index % 4);
    return {thread.block_x() * panels + fragment / TokenTiles, at.row, fragment % TokenTiles * 8 + at.token,
            index};
  }
  template <class Thread>
  DARTQUANT_DEVICE static std::int32_t* slot(Thread const& thread, int index) {
    return reinterpret_cast<std::int32_t*>(thread.shared()) + index * slot_words;
  }

  template <class Thread>
  DARTQUANT_DEVICE void load(Thread const& thread, int tile, Words4 (&weights)[panels]) const {
#pragma unroll
    for (int i = 0; i < panels; ++i) {
      int const panel = thread.block_x() * panels + i;
      weights[i] = panel < p.w.panels && tile < p.w.tiles_of_panel ? *p.w.fragment(panel, tile, thread.lane())
                                                                   : Words4{};
    }
  }

  /// Multiplies `count` tiles, `apart` tiles apart, and leaves the integers of every `group_steps` steps of
  /// 32 channels in a slot: the first of this warp, then the next.
  template <class Thread>
  DARTQUANT_DEVICE void multiply(Thread const& thread, int first, int apart, int count,
                                 int group_steps) const {
    std::int32_t dot[panels][TokenTiles][4] = {};
    std::int32_t x_sum[TokenTiles] = {};
    int to = thread.warp() * (slots / warps), steps = 0;
    Words4 next[panels];
    load(thread, first, next);
    for (int i = 0; i < count; ++i) {
      int const tile = first + i * apart;
      Words4 const current[panels] = {next[0], next[1]};
      load(thread, i + 1 < count ? tile + apart : p.w.tiles_of_panel, next);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int j = 0; j < TokenTiles; ++j) {
          EightLevels const x =
              p.x.eight(thread, j * 8 + thread.lane() / 4, tile * 64 + step * 32 + thread.lane() % 4 * 8);
          if (p.w.zero_points != nullptr)
            x_sum[j] = sum_bytes(thread, x.even, sum_bytes(thread, x.odd, x_sum[j]));
#pragma unroll
          for (int panel = 0; panel < panels; ++panel)
            multiply_bytes(thread, dot[panel][j],
                           SixteenTimes(current[panel].v[2 * step], current[panel].v[2 * step + 1]).a, x.even,
                           x.odd);
        }
        if (++steps == group_steps) {
          leave(thread, to++, dot, x_sum);
          steps = 0;
        }
      }
    }
  }

  template <class Thread>
  DARTQUANT_DEVICE void leave(Thread const& thread, int to, std::int32_t (&dot)[panels][TokenTiles][4],
                              std::int32_t (&x_sum)[TokenTiles]) const {
    std::int32_t* const words = slot(thread, to);
#pragma unroll
    for (int j = 0; j < TokenTiles; ++j) {
#pragma unroll
      for (int panel = 0; panel < panels; ++panel)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          words[(panel * TokenTiles + j) * 128 + thread.lane() * 4 + i] = dot[panel][j][i];
          dot[panel][j][i] = 0;
        }
      if (p.w.zero_points != nullptr) {
        std::int32_t sum = x_sum[j] + thread.shuffle_xor(x_sum[j], 1);
        sum += thread.shuffle_xor(sum, 2);
        if (thread.lane() % 4 == 0) words[fragments * 128 + j * 8 + thread.lane() / 4] = sum;
        x_sum[j] = 0;
      }
    }
  }

  /// Adds the integers of slots first .. last - 1, scaled as group `group`.
  template <class Thread>
  DARTQUANT_DEVICE void add(Thread const& thread, int group, int first, int last, float (&a)[entries]) const {
#pragma unroll
    for (int e = 0; e < entries; ++e) {
      Place const at = place(thread, e);
      std::int32_t dot = 0, x_sum = 0;
      for (int i = first; i < last; ++i) {
        dot += slot(thread, i)[at.index];
        if (p.w.zero_points != nullptr) x_sum += slot(thread, i)[fragments * 128 + at.token];
      }
      a[e] = p.add_corrected(a[e], dot >> sixteen_times_shift, p.w.cell(at.panel, group, at.row), at.token,
                             group, x_sum);
    }
  }
};

}  // namespace dartquant::cuda
