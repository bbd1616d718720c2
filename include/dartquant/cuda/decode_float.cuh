// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/decode.cuh>
#include <dartquant/cuda/decode_plan.hpp>
#include <dartquant/cuda/decode_stream.cuh>
#include <dartquant/cuda/float_product.cuh>

namespace dartquant::cuda {

/// W4A16 for 8 TokenTiles tokens or fewer: as Decode, but a warp scales its own sums, piece by piece of the
/// groups, and those of the warps are floats which are added in the order of the warps.
template <class T, int TokenTiles, int PieceSteps>
struct DecodeFloat {
  static constexpr bool grouped = PieceSteps > 0;
  static constexpr int threads = 32 * DecodePlan::warps, panels = 2;
  static constexpr int bite = (PieceSteps == 1 || PieceSteps == 2 ? 2 : 4) / TokenTiles;
  static constexpr int pitch = 20;  ///< as of Decode
  static constexpr bool overlaps = true;
  using Stream = WeightStream<panels, bite>;
  FloatProduct<T> p;
  DecodePlan plan;

  [[nodiscard]] static DARTQUANT_HD constexpr int slot_words(int tokens) { return panels * tokens * pitch; }
  [[nodiscard]] static DecodePlan plan_of(FloatProduct<T> const& p, DecodeDevice const& device) {
    return decode_plan({.panels = p.w.panels,
                        .tiles = p.w.tiles_of_panel,
                        .tokens = p.y.tokens,
                        .x_bits = 16,
                        .panels_of_set = panels,
                        .bite = bite,
                        .slot_bytes = 4 * DecodePlan::warps * slot_words(p.y.tokens)},
                       device);
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    Warp warp(thread, p, plan);
    TokenRows const rows{reinterpret_cast<std::byte const*>(p.x.data), p.x.stride * 2, p.x.channels * 2,
                         p.y.tokens};
    decode<panels, bite>(thread, p.w, rows, 16, plan, warp);
  }

 private:
  /// The sums of a warp.
  class Warp {
   public:
    template <class Thread>
    DARTQUANT_DEVICE Warp(Thread const& thread, FloatProduct<T> const& product, DecodePlan const& of)
        : p(product), plan(of) {
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j) {
        int const token = j * 8 + thread.lane() / 4;
        x_at_[j] = (token < p.y.tokens ? token : p.y.tokens - 1) * plan.row_stride + thread.lane() % 4 * 16;
      }
    }

    template <class Thread>
    DARTQUANT_DEVICE void begin(Thread const&) {
      if (grouped && p.w.zero_points == nullptr) read_zeros(0);
    }

    template <class Thread>
    DARTQUANT_DEVICE void begin_set(Thread const& thread, int set) {
      cell_ = p.w.cell(set * panels, 0, thread.lane() / 4);
      next_panel_ = set * panels + 1 < p.w.panels ? p.w.groups * 16 : 0;
      if constexpr (!grouped) {
        Value const value(thread, p.y.tokens);
        if (value.exists) scale_ = p.w.scales[p.w.cell(set * panels + value.panel, 0, value.row)];
        read_zeros(cell_);
      }
    }

    template <class Thread>
    DARTQUANT_DEVICE void multiply(Thread const& thread, Stream& stream, std::byte const* x, int tile) {
      if constexpr (grouped) fetch_cells(thread, stream.set(), stream.round());
#pragma unroll
      for (int i = 0; i < bite; ++i) {
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          if constexpr (grouped)
            if ((2 * i + step) % PieceSteps == 0) begin_piece((2 * tile + 2 * i + step) / PieceSteps);
          multiply_step(thread, stream.tiles[i], x + i * 128, step);
          if constexpr (grouped)
            if ((2 * i + step + 1) % PieceSteps == 0) end_piece();
        }
        stream.refill(thread, i);
      }
    }

    template <class Thread>
    DARTQUANT_DEVICE void meet(Thread const& thread, int set, int round) {
      if (round + 1 < plan.rounds) return;
      thread.synchronize();  // what lay in the slots has been added
      leave(thread);
      thread.synchronize();
      Value const value(thread, p.y.tokens);
      if (!value.exists) return;
      float const* sums = slot(thread, 0) + (value.panel * p.y.tokens + value.token) * pitch + value.row;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < DecodePlan::warps; ++i) sum += sums[i * slot_words(p.y.tokens)];
      p.finish(thread, value.token, (set * panels + value.panel) * 16 + value.row,
               grouped ? sum : sum * scale_);
    }

   private:
    /// The value of Y that a thread adds up, if it has one; found anew, as registers are scarce.
    struct Value {
      int panel, token, row;
      bool exists;
      template <class Thread>
      DARTQUANT_DEVICE Value(Thread const& thread, int tokens)
          : panel(thread.index() / (16 * tokens)),
            token(thread.index() % (16 * tokens) / 16),
            row(thread.index() % 16),
            exists(panel < panels) {}
    };

    template <class Thread>
    [[nodiscard]] DARTQUANT_DEVICE float* slot(Thread const& thread, int index) const {
      return reinterpret_cast<float*>(thread.shared() + plan.slot_offset) + index * slot_words(p.y.tokens);
    }

    template <class Thread>
    DARTQUANT_DEVICE void multiply_step(Thread const& thread, Words4 const (&weights)[panels],
                                        std::byte const* x, int step) {
      std::uint32_t pairs[TokenTiles][4];
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j) {
        ActivationPairs const of(thread, *reinterpret_cast<Words4 const*>(x + x_at_[j] + step * 64));
#pragma unroll
        for (int k = 0; k < 4; ++k) pairs[j][k] = of.pair[k];
      }
#pragma unroll
      for (int panel = 0; panel < panels; ++panel) {
        DequantizedPairs<T> const low(thread, weights[panel].v[2 * step], zeros_[panel][0]);
        DequantizedPairs<T> const high(thread, weights[panel].v[2 * step + 1], zeros_[panel][1]);
#pragma unroll
        for (int j = 0; j < TokenTiles; ++j) multiply_pairs(thread, dot_[panel][j], low, high, pairs[j]);
      }
    }

    DARTQUANT_DEVICE void read_zeros(std::int64_t cell) {
#pragma unroll
      for (int panel = 0; panel < panels; ++panel)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          zeros_[panel][half] = ZeroPair<T>(p.zero_pair(cell + panel * next_panel_ + 8 * half));
    }
    /// Brings scales and zero points of a bite into the cache.
    template <class Thread>
    DARTQUANT_DEVICE void fetch_cells(Thread const& thread, int set, int round) const {
      constexpr int pieces = grouped && 2 * bite > PieceSteps ? 2 * bite / (grouped ? PieceSteps : 1) : 1;
      if (thread.lane() >= panels * pieces || set >= plan.sets) return;
      int const group =
          group_of(((round * DecodePlan::warps + thread.warp()) * 2 * bite) / (grouped ? PieceSteps : 1) +
                   thread.lane() % pieces);
      if (group < p.w.groups)
        fetch_cell(thread, p.w, p.w.cell(set * panels + thread.lane() / pieces, group, 0));
    }
    [[nodiscard]] DARTQUANT_DEVICE int group_of(int piece) const {
      int const pieces = p.w.width / (32 * (grouped ? PieceSteps : 1));
      return pieces == 1 ? piece : piece / pieces;
    }
    /// Pieces behind the last channel belong to the last group here; their activations are zero.
    DARTQUANT_DEVICE void begin_piece(int piece) {
      int group = group_of(piece);
      if (group >= p.w.groups) group = p.w.groups - 1;
      std::int64_t const cell = cell_ + group * 16;
      if (p.w.zero_points != nullptr) read_zeros(cell);
      float const* scales = p.w.scales + cell;
#pragma unroll
      for (int panel = 0; panel < panels; ++panel, scales += next_panel_) {
        piece_scales_[panel][0] = scales[0];
        piece_scales_[panel][1] = scales[8];
      }
    }
    DARTQUANT_DEVICE void end_piece() {
#pragma unroll
      for (int panel = 0; panel < panels; ++panel)
#pragma unroll
        for (int j = 0; j < TokenTiles; ++j)
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            sum_[panel][j][c] = std::fma(dot_[panel][j][c], piece_scales_[panel][c / 2], sum_[panel][j][c]);
            dot_[panel][j][c] = 0;
          }
    }
    /// Writes the sums to the slot of this warp, [panel][token][row], and starts new ones.
    template <class Thread>
    DARTQUANT_DEVICE void leave(Thread const& thread) {
      float* const sums = slot(thread, thread.warp());
      auto& from = grouped ? sum_ : dot_;
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          FragmentPlace const at = FragmentPlace::of(thread.lane(), c);
          int const token = 8 * j + at.token;
#pragma unroll
          for (int panel = 0; panel < panels; ++panel) {
            if (token < p.y.tokens) sums[(panel * p.y.tokens + token) * pitch + at.row] = from[panel][j][c];
            from[panel][j][c] = 0;
          }
        }
    }

    FloatProduct<T> const& p;
    DecodePlan const& plan;
    float dot_[panels][TokenTiles][4] = {};
    float sum_[panels][TokenTiles][4] = {};  ///< of pieces that are scaled already
    float piece_scales_[panels][2] = {};
    ZeroPair<T> zeros_[panels][2] = {};
    int x_at_[TokenTiles] = {};
    std::int64_t cell_ = 0;  ///< of this lane's first output of a set in the first group
    int next_panel_ = 0;     ///< cells from there to the next panel
    float scale_ = 0;
  };
};

}  // namespace dartquant::cuda
