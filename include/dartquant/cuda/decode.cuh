// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/decode_plan.hpp>
#include <dartquant/cuda/decode_stream.cuh>
#include <dartquant/cuda/int_product.cuh>

namespace dartquant::cuda {

/// Y = X W^T + bias for 8 TokenTiles tokens or fewer, where reading the weights is all that takes time: a
/// block reads each of its weights once, 16 bytes per lane and `depth` pieces ahead of their use, and holds
/// the activations in shared memory as they are. Warps share out the channels; their integers meet in shared
/// memory, in one slot per warp, or Grouped in one per group: there they are scaled and added in the order of
/// the groups, so the bytes are the CPU's. Corrected: whatever is asymmetric, or scaled by groups of X.
///
/// Per tile of 512 bytes about 20 + 8 TokenTiles instructions of a warp.
template <int Bits, int TokenTiles, int Panels, bool Grouped, bool Corrected>
struct Decode {
  static constexpr int threads = 32 * DecodePlan::warps;
  static constexpr int blocks =
      DQ_BLOCKS;  ///< of a multiprocessor: the next kernel starts while this one ends
  static constexpr bool overlaps = DQ_OVERLAP;
  static constexpr int pitch = 20;  ///< words between tokens of a slot: 16 outputs, and no bank conflicts
  using Stream = WeightStream<Panels, Grouped && !Corrected>;
  IntProduct p;
  DecodePlan plan;

  [[nodiscard]] static constexpr int scales_at(int tokens) { return Panels * tokens * pitch; }
  [[nodiscard]] static constexpr int x_sums_at(int tokens) { return scales_at(tokens) + Panels * 16; }
  [[nodiscard]] static DARTQUANT_HD constexpr int slot_words(int tokens) {
    return Panels * (tokens * pitch + 16) + (Corrected ? 16 : 0);
  }
  [[nodiscard]] static DecodePlan plan_of(IntProduct const& p, DecodeDevice const& device) {
    return decode_plan({.panels = p.w.panels,
                        .tiles = p.w.tiles_of_panel,
                        .tokens = p.y.tokens,
                        .x_bits = Bits,
                        .group_steps = Grouped ? p.w.width / 32 : 0,
                        .panels_of_set = Panels,
                        .ring_bytes = Stream::ring_bytes,
                        .slot_words = slot_words(p.y.tokens),
                        .slots = Grouped ? 0 : DecodePlan::warps},
                       device);
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    Warp warp(thread, p, plan);
    TokenRows const rows{reinterpret_cast<std::byte const*>(p.x.levels), p.x.level_stride,
                         (p.x.channels * Bits + 7) / 8, p.y.tokens};
    decode<Stream>(thread, p.w, rows, Bits, plan, warp);
  }

 private:
  /// The integers of a warp, and the value of Y that a thread adds up, if it has one.
  class Warp {
   public:
    template <class Thread>
    DARTQUANT_DEVICE Warp(Thread const& thread, IntProduct const& product, DecodePlan const& of)
        : p(product), plan(of) {
      int const outputs = 16 * p.y.tokens;
      adds_ = thread.index() < Panels * outputs;
      panel_ = thread.index() / outputs;
      token_ = thread.index() % outputs / 16;
      row_ = thread.index() % 16;
    }

    template <class Thread>
    DARTQUANT_DEVICE void begin(Thread const& thread) {
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j) {
        int const token = row_of(thread, j);
        x_at_[j] = token * plan.row_stride + thread.lane() % 4 * Bits;
        if constexpr (Corrected && Bits == 4)
          zero_[j] = p.x.zero_points == nullptr ? 8 : p.x.zero_point(token, 0);
      }
    }

    template <class Thread>
    DARTQUANT_DEVICE void begin_set(Thread const& thread, int set) {
      sum_ = 0;
      if constexpr (Grouped) piece_ = n_ = x_sums_ = group_ = 0;
      if constexpr (!Grouped)
        if (adds_) {
          std::int64_t const cell = p.w.cell(set * Panels + panel_, 0, row_);
          if constexpr (Corrected) fetch_cell(thread, p.w, cell);
          else scale_ = p.w.scales[cell];
        }
    }

    template <class Thread>
    DARTQUANT_DEVICE void multiply(Thread const& thread, std::byte const* piece, std::byte const* x, int tile,
                                   int i) {
      if constexpr (Grouped)
        if (i == 0) begin_chunk(thread, piece);
      Words4 weights[Panels];
#pragma unroll
      for (int panel = 0; panel < Panels; ++panel)
        weights[panel] = reinterpret_cast<Words4 const*>(piece + panel * Stream::panel_bytes)[thread.lane()];
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        if constexpr (Grouped && Corrected && Bits == 4)
          if (steps_ == 0 && p.x.grouped && p.x.zero_points != nullptr) read_zeros(thread, tile * 2 + step);
        EightLevels levels[TokenTiles];
#pragma unroll
        for (int j = 0; j < TokenTiles; ++j) levels[j] = read(thread, x + x_at_[j], tile, step, j);
#pragma unroll
        for (int panel = 0; panel < Panels; ++panel) {
          SixteenTimes const w(weights[panel].v[2 * step], weights[panel].v[2 * step + 1]);
#pragma unroll
          for (int j = 0; j < TokenTiles; ++j)
            multiply_bytes(thread, dot_[panel][j], w.a, levels[j].even, levels[j].odd);
        }
        if constexpr (Corrected)
          if (p.w.zero_points != nullptr) {
            std::uint32_t const ones[4] = {0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u};
#pragma unroll
            for (int j = 0; j < TokenTiles; ++j)
              multiply_bytes(thread, x_sum_[j], ones, levels[j].even, levels[j].odd);
          }
        if constexpr (Grouped)
          if (++steps_ == plan.slot_steps) leave(thread, to_++);
      }
    }

    template <class Thread>
    DARTQUANT_DEVICE void meet(Thread const& thread, int set, int round) {
      bool const last = round + 1 == plan.rounds;
      if constexpr (Grouped) {
        if (steps_ > 0) leave(thread, to_);
        thread.synchronize();
        if (adds_) add_groups(thread, set, round);
      } else {
        if (!last) return;
        thread.synchronize();  // the last set's integers have been added
        leave(thread, thread.warp());
        thread.synchronize();
        if (adds_) add_all(thread, set);
      }
      if (last && adds_) p.finish(thread, token_, (set * Panels + panel_) * 16 + row_, sum_);
      if constexpr (Grouped) buffer_ ^= 1;
    }

   private:
    static constexpr int shift = Bits == 4 && !Corrected ? 8 : 4;

    template <class Thread>
    [[nodiscard]] DARTQUANT_DEVICE int row_of(Thread const& thread, int j) const {
      int const token = j * 8 + thread.lane() / 4;
      return token < p.y.tokens ? token : p.y.tokens - 1;
    }
    template <class Thread>
    [[nodiscard]] DARTQUANT_DEVICE std::int32_t* slot(Thread const& thread, int index) const {
      int const words = slot_words(p.y.tokens), slots = DecodePlan::warps * plan.group_slots;
      return reinterpret_cast<std::int32_t*>(thread.shared() + plan.slot_offset) +
             (buffer_ * slots + index) * words;
    }

    /// Eight channels of a token. Corrected: as Activations::eight. Else sixteen times nibbles, as weights.
    template <class Thread>
    [[nodiscard]] DARTQUANT_DEVICE EightLevels read(Thread const& thread, std::byte const* x, int tile,
                                                    int step, int j) const {
      int const left = p.x.channels - (tile * 64 + step * 32 + thread.lane() % 4 * 8);
      if constexpr (Bits == 8) {
        Words2 const words = *reinterpret_cast<Words2 const*>(x + step * 32);
        if constexpr (!Corrected) return EightLevels::of_bytes(thread, words.v[0], words.v[1]);
        std::uint32_t const flip = p.x.zero_points == nullptr ? 0 : 0x80808080u;
        return EightLevels::of_bytes(thread, words.v[0] ^ flip, words.v[1] ^ flip).first(left);
      } else {
        std::uint32_t const word = *reinterpret_cast<std::uint32_t const*>(x + step * 16);
        if constexpr (!Corrected) return {word << 4 & 0xF0F0F0F0u, word & 0xF0F0F0F0u};
        return EightLevels::of_nibbles(p.x.zero_points == nullptr ? word ^ 0x88888888u : word, zero_[j])
            .first(left);
      }
    }
    template <class Thread>
    DARTQUANT_DEVICE void read_zeros(Thread const& thread, int step) {
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j) zero_[j] = p.x.zero_point(row_of(thread, j), step * 32);
    }

    /// Of the groups of a chunk: their slots, and the scales there.
    template <class Thread>
    DARTQUANT_DEVICE void begin_chunk(Thread const& thread, std::byte const* piece) {
      to_ = thread.warp() * plan.group_slots;
      if constexpr (!Corrected)
        if (thread.lane() < 16 * plan.group_slots) {
          std::int32_t* const scales =
              slot(thread, to_ + thread.lane() / 16) + scales_at(p.y.tokens) + thread.lane() % 16;
#pragma unroll
          for (int panel = 0; panel < Panels; ++panel)
            scales[panel * 16] = reinterpret_cast<std::int32_t const*>(piece + panel * Stream::panel_bytes +
                                                                       512)[thread.lane()];
        }
    }

    /// Writes the integers to a slot, [panel][token][row], and starts new ones.
    template <class Thread>
    DARTQUANT_DEVICE void leave(Thread const& thread, int index) {
      std::int32_t* const words = slot(thread, index);
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          FragmentPlace const at = FragmentPlace::of(thread.lane(), c);
          int const token = 8 * j + at.token;
          if (token < p.y.tokens) {
#pragma unroll
            for (int panel = 0; panel < Panels; ++panel)
              words[(panel * p.y.tokens + token) * pitch + at.row] = dot_[panel][j][c];
            if constexpr (Corrected)
              if (at.row == 0) words[x_sums_at(p.y.tokens) + token] = x_sum_[j][c];
          }
#pragma unroll
          for (int panel = 0; panel < Panels; ++panel) dot_[panel][j][c] = 0;
          if constexpr (Corrected) x_sum_[j][c] = 0;
        }
      steps_ = 0;
    }

    template <class Thread>
    DARTQUANT_DEVICE void add_all(Thread const& thread, int set) {
      std::int32_t const* words = slot(thread, 0);
      std::int32_t n = 0, x_sum = 0;
#pragma unroll
      for (int i = 0; i < DecodePlan::warps; ++i) {
        n += words[(panel_ * p.y.tokens + token_) * pitch + row_];
        if constexpr (Corrected) x_sum += words[x_sums_at(p.y.tokens) + token_];
        words += slot_words(p.y.tokens);
      }
      if constexpr (Corrected)
        sum_ = p.add_corrected(0.0f, n >> shift, p.w.cell(set * Panels + panel_, 0, row_), token_, 0, x_sum);
      else sum_ = std::fma(static_cast<float>(n >> shift), scale_, 0.0f);
    }
    /// Adds the slots of a round in their order: whole groups, or pieces of them that are one integer.
    template <class Thread>
    DARTQUANT_DEVICE void add_groups(Thread const& thread, int set, int round) {
      int const slots = DecodePlan::warps * plan.group_slots;
      int const all = ((p.w.in + 31) / 32 + plan.slot_steps - 1) / plan.slot_steps,
                left = all - round * slots;
      std::int32_t const* words = slot(thread, 0);
#pragma unroll 4
      for (int i = 0; i < slots && i < left; ++i) {
        n_ += words[(panel_ * p.y.tokens + token_) * pitch + row_];
        if constexpr (Corrected) x_sums_ += words[x_sums_at(p.y.tokens) + token_];
        if (++piece_ == plan.pieces || i + 1 == left) {
          if constexpr (Corrected) {
            sum_ = p.add_corrected(sum_, n_ >> shift, p.w.cell(set * Panels + panel_, group_, row_), token_,
                                   group_, x_sums_);
            ++group_;
          } else {
            float const scale =
                reinterpret_cast<float const*>(words)[scales_at(p.y.tokens) + panel_ * 16 + row_];
            sum_ = std::fma(static_cast<float>(n_ >> shift), scale, sum_);
          }
          piece_ = n_ = x_sums_ = 0;
        }
        words += slot_words(p.y.tokens);
      }
    }

    IntProduct const& p;
    DecodePlan const& plan;
    std::int32_t dot_[Panels][TokenTiles][4] = {};
    std::int32_t x_sum_[TokenTiles][4] = {};  ///< the same in all rows: products with weights of 1
    int x_at_[TokenTiles] = {}, zero_[TokenTiles] = {};
    int steps_ = 0, to_ = 0, buffer_ = 0;
    int piece_ = 0, group_ = 0, n_ = 0, x_sums_ = 0;  ///< of the value that is added up
    int panel_, token_, row_;
    bool adds_;
    float scale_ = 0, sum_ = 0;
  };
};

}  // namespace dartquant::cuda
