// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/decode_plan.hpp>
#include <dartquant/cuda/decode_stream.cuh>
#include <dartquant/cuda/float_product.cuh>

namespace dartquant::cuda {

/// W4A16 for 8 TokenTiles tokens or fewer: as Decode, but the sums of the warps are floats, those of groups
/// scaled by each warp, and added in the order of the warps.
template <class T, int TokenTiles, int Panels, bool Grouped>
struct DecodeFloat {
  static constexpr int threads = 32 * DecodePlan::warps;
  static constexpr int blocks = DQ_BLOCKS;  ///< as of Decode
  static constexpr bool overlaps = DQ_OVERLAP;
  static constexpr int pitch = 20;  ///< as of Decode
  using Stream = WeightStream<Panels, Grouped>;
  FloatProduct<T> p;
  DecodePlan plan;

  [[nodiscard]] static DARTQUANT_HD constexpr int slot_words(int tokens) { return Panels * tokens * pitch; }
  [[nodiscard]] static DecodePlan plan_of(FloatProduct<T> const& p, DecodeDevice const& device) {
    return decode_plan({.panels = p.w.panels,
                        .tiles = p.w.tiles_of_panel,
                        .tokens = p.y.tokens,
                        .x_bits = 16,
                        .group_steps = Grouped ? p.w.width / 32 : 0,
                        .panels_of_set = Panels,
                        .ring_bytes = Stream::ring_bytes,
                        .slot_words = slot_words(p.y.tokens),
                        .slots = DecodePlan::warps},
                       device);
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    Warp warp(thread, p, plan);
    TokenRows const rows{reinterpret_cast<std::byte const*>(p.x.data), p.x.stride * 2, p.x.channels * 2,
                         p.y.tokens};
    decode<Stream>(thread, p.w, rows, 16, plan, warp);
  }

 private:
  /// The sums of a warp, and the value of Y that a thread adds up, if it has one.
  class Warp {
   public:
    template <class Thread>
    DARTQUANT_DEVICE Warp(Thread const& thread, FloatProduct<T> const& product, DecodePlan const& of)
        : p(product), plan(of) {
      int const outputs = 16 * p.y.tokens;
      adds_ = thread.index() < Panels * outputs;
      panel_ = thread.index() / outputs;
      token_ = thread.index() % outputs / 16;
      row_ = thread.index() % 16;
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j) {
        int const token = j * 8 + thread.lane() / 4;
        x_at_[j] = (token < p.y.tokens ? token : p.y.tokens - 1) * plan.row_stride + thread.lane() % 4 * 16;
      }
    }

    template <class Thread>
    DARTQUANT_DEVICE void begin(Thread const&) {}

    template <class Thread>
    DARTQUANT_DEVICE void begin_set(Thread const& thread, int set) {
      set_ = set;
      if constexpr (!Grouped) {
        if (adds_) scale_ = p.w.scales[p.w.cell(set * Panels + panel_, 0, row_)];
        read_zeros(thread, 0);
      }
    }

    template <class Thread>
    DARTQUANT_DEVICE void multiply(Thread const& thread, std::byte const* piece, std::byte const* x, int tile,
                                   int i) {
      Words4 weights[Panels];
#pragma unroll
      for (int panel = 0; panel < Panels; ++panel)
        weights[panel] = reinterpret_cast<Words4 const*>(piece + panel * Stream::panel_bytes)[thread.lane()];
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        if constexpr (Grouped)
          if (steps_ == 0 && (tile * 2 + step) * 32 < p.w.in)
            begin_group(thread, i + step == 0 ? piece : nullptr, tile * 2 + step);
        std::uint32_t pairs[TokenTiles][4];
#pragma unroll
        for (int j = 0; j < TokenTiles; ++j) {
          ActivationPairs const of(thread, *reinterpret_cast<Words4 const*>(x + x_at_[j] + step * 64));
#pragma unroll
          for (int k = 0; k < 4; ++k) pairs[j][k] = of.pair[k];
        }
#pragma unroll
        for (int panel = 0; panel < Panels; ++panel) {
          DequantizedPairs<T> const low(thread, weights[panel].v[2 * step], zeros_[panel][0]);
          DequantizedPairs<T> const high(thread, weights[panel].v[2 * step + 1], zeros_[panel][1]);
#pragma unroll
          for (int j = 0; j < TokenTiles; ++j) multiply_pairs(thread, dot_[panel][j], low, high, pairs[j]);
        }
        if constexpr (Grouped)
          if (++steps_ == plan.slot_steps) end_group();
      }
    }

    template <class Thread>
    DARTQUANT_DEVICE void meet(Thread const& thread, int set, int round) {
      if constexpr (Grouped)
        if (steps_ > 0) end_group();
      if (round + 1 < plan.rounds) return;
      thread.synchronize();  // the last set's sums have been added
      leave(thread);
      thread.synchronize();
      if (adds_) {
        float const* sums = slot(thread, 0) + (panel_ * p.y.tokens + token_) * pitch + row_;
        float sum = 0;
#pragma unroll
        for (int i = 0; i < DecodePlan::warps; ++i) sum += sums[i * slot_words(p.y.tokens)];
        p.finish(thread, token_, (set * Panels + panel_) * 16 + row_, Grouped ? sum : sum * scale_);
      }
    }

   private:
    template <class Thread>
    [[nodiscard]] DARTQUANT_DEVICE float* slot(Thread const& thread, int index) const {
      return reinterpret_cast<float*>(thread.shared() + plan.slot_offset) + index * slot_words(p.y.tokens);
    }
    template <class Thread>
    DARTQUANT_DEVICE void read_zeros(Thread const& thread, int group) {
#pragma unroll
      for (int panel = 0; panel < Panels; ++panel)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          zeros_[panel][half] = p.zero_pair(set_ * Panels + panel, group, thread.lane() / 4 + 8 * half);
    }
    /// The scales of the first group of a chunk have come with its first piece.
    template <class Thread>
    DARTQUANT_DEVICE void begin_group(Thread const& thread, std::byte const* piece, int step) {
      int const group = step / (p.w.width / 32), row = thread.lane() / 4;
      read_zeros(thread, group);
#pragma unroll
      for (int panel = 0; panel < Panels; ++panel)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          group_scales_[panel][half] =
              piece == nullptr
                  ? p.w.scales[p.w.cell(set_ * Panels + panel, group, row + 8 * half)]
                  : reinterpret_cast<float const*>(piece + panel * Stream::panel_bytes + 512)[row + 8 * half];
    }
    DARTQUANT_DEVICE void end_group() {
#pragma unroll
      for (int panel = 0; panel < Panels; ++panel)
#pragma unroll
        for (int j = 0; j < TokenTiles; ++j)
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            sum_[panel][j][c] = std::fma(dot_[panel][j][c], group_scales_[panel][c / 2], sum_[panel][j][c]);
            dot_[panel][j][c] = 0;
          }
      steps_ = 0;
    }
    /// Writes the sums to the slot of this warp, [panel][token][row], and starts new ones.
    template <class Thread>
    DARTQUANT_DEVICE void leave(Thread const& thread) {
      float* const sums = slot(thread, thread.warp());
      auto& from = Grouped ? sum_ : dot_;
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          FragmentPlace const at = FragmentPlace::of(thread.lane(), c);
          int const token = 8 * j + at.token;
#pragma unroll
          for (int panel = 0; panel < Panels; ++panel) {
            if (token < p.y.tokens) sums[(panel * p.y.tokens + token) * pitch + at.row] = from[panel][j][c];
            from[panel][j][c] = 0;
          }
        }
    }

    FloatProduct<T> const& p;
    DecodePlan const& plan;
    float dot_[Panels][TokenTiles][4] = {};
    float sum_[Panels][TokenTiles][4] = {};  ///< of groups that are scaled already
    float group_scales_[Panels][2] = {};
    std::uint32_t zeros_[Panels][2] = {};
    int x_at_[TokenTiles] = {};
    int steps_ = 0, set_ = 0;
    int panel_, token_, row_;
    bool adds_;
    float scale_ = 0;
  };
};

}  // namespace dartquant::cuda
