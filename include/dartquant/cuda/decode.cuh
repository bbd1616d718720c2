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

/// The most steps of 32 channels, 1, 2 or 4, that a group is whole pieces of.
[[nodiscard]] constexpr int piece_steps(int width) { return width % 128 == 0 ? 4 : width % 64 == 0 ? 2 : 1; }

/// Y = X W^T + bias for 8 TokenTiles tokens or fewer, where reading the weights is all that takes time: a
/// block reads each of its weights once, 64 KiB ahead of their use, and holds the activations in shared
/// memory as they are. Warps share out the channels; their integers meet in shared memory, in one slot per
/// warp, or with groups in one per piece of PieceSteps steps of 32 channels (0: no groups): there the pieces
/// of a group are added, scaled, and added in the order of the groups, so the bytes are the CPU's. Corrected:
/// whatever is asymmetric, or scaled by groups of X.
///
/// Without groups a warp spends about 17 + 6 TokenTiles instructions on 512 bytes of weights (sm_90a).
template <int Bits, int TokenTiles, int PieceSteps, bool Corrected>
struct Decode {
  static constexpr bool grouped = PieceSteps > 0;
  static constexpr int threads = 32 * DecodePlan::warps, panels = 2;
  static constexpr int bite =
      PieceSteps == 0 || PieceSteps == 4 ? 4 : PieceSteps * (TokenTiles == 1 && !Corrected ? 2 : 1);
  static constexpr int pieces = grouped ? 2 * bite / PieceSteps : 1;  ///< of a bite, 1, 2 or 4
  static constexpr int slots = DecodePlan::warps * pieces;
  static constexpr int pitch = 20;  ///< words between tokens of a slot: 16 outputs, and no bank conflicts
  static constexpr bool overlaps = true;
  static constexpr bool keeps_scales = grouped && !Corrected;
  using Stream = WeightStream<panels, bite>;
  IntProduct p;
  DecodePlan plan;

  /// A slot: integers [panels][tokens][pitch], scales [panels][16], sums of activations [tokens].
  [[nodiscard]] static DARTQUANT_HD constexpr int scales_at(int tokens) { return panels * tokens * pitch; }
  [[nodiscard]] static DARTQUANT_HD constexpr int x_sums_at(int tokens) {
    return scales_at(tokens) + (keeps_scales ? panels * 16 : 0);
  }
  [[nodiscard]] static DARTQUANT_HD constexpr int slot_words(int tokens) {
    return x_sums_at(tokens) + (Corrected ? 16 : 0);
  }
  [[nodiscard]] static DecodePlan plan_of(IntProduct const& p, DecodeDevice const& device) {
    return decode_plan({.panels = p.w.panels,
                        .tiles = p.w.tiles_of_panel,
                        .tokens = p.y.tokens,
                        .x_bits = Bits,
                        .panels_of_set = panels,
                        .bite = bite,
                        .slot_bytes = 4 * slots * slot_words(p.y.tokens)},
                       device);
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    Warp warp(thread, p, plan);
    TokenRows const rows{reinterpret_cast<std::byte const*>(p.x.levels), p.x.level_stride,
                         (p.x.channels * Bits + 7) / 8, p.y.tokens};
    decode<panels, bite>(thread, p.w, rows, Bits, plan, warp);
  }

 private:
  /// The integers of a warp, and the value of Y that a thread adds up, if it has one.
  class Warp {
   public:
    template <class Thread>
    DARTQUANT_DEVICE Warp(Thread const& thread, IntProduct const& product, DecodePlan const& of)
        : p(product), plan(of), pieces_of_group_(grouped ? p.w.width / (32 * PieceSteps) : 1) {
      int const outputs = 16 * p.y.tokens;
      adds_ = thread.index() < panels * outputs;
      panel_ = thread.index() / outputs;
      token_ = thread.index() % outputs / 16;
      row_ = thread.index() % 16;
    }

    template <class Thread>
    DARTQUANT_DEVICE void begin(Thread const& thread) {
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j) {
        int const token = token_of(thread, j);
        x_at_[j] = token * plan.row_stride + thread.lane() % 4 * Bits;
        if constexpr (Corrected && Bits == 4)
          zero_[j] = p.x.zero_points == nullptr ? 8 : p.x.zero_point(token, 0);
      }
      if constexpr (grouped) prepare_cells(thread, thread.block_x(), 0);
    }

    template <class Thread>
    DARTQUANT_DEVICE void begin_set(Thread const& thread, int set) {
      sum_ = 0;
      if constexpr (grouped) piece_ = n_ = x_sums_ = group_ = 0;
      else if (adds_) {
        std::int64_t const cell = p.w.cell(set * panels + panel_, 0, row_);
        if constexpr (Corrected) fetch_cell(thread, p.w, cell);
        else scale_ = p.w.scales[cell];
      }
    }

    template <class Thread>
    DARTQUANT_DEVICE void multiply(Thread const& thread, Stream& stream, std::byte const* x, int tile) {
      if constexpr (grouped) {
        if constexpr (keeps_scales) scales_ = next_scales_;
        prepare_cells(thread, stream.set(), stream.round());
#pragma unroll
        for (int i = 0; i < pieces; ++i) clear(i);
      }
#pragma unroll
      for (int i = 0; i < bite; ++i) {
#pragma unroll
        for (int step = 0; step < 2; ++step)
          multiply_step(thread, stream.tiles[i], x + i * 8 * Bits, (tile + i) * 2 + step, step,
                        grouped ? (2 * i + step) / (grouped ? PieceSteps : 1) : 0);
        stream.refill(thread, i);
      }
    }

    template <class Thread>
    DARTQUANT_DEVICE void meet(Thread const& thread, int set, int round) {
      bool const last = round + 1 == plan.rounds;
      if (!grouped && !last) return;
      thread.synchronize();  // what lay in the slots has been added
#pragma unroll
      for (int i = 0; i < pieces; ++i) leave(thread, i);
      if constexpr (keeps_scales) leave_scales(thread);
      if constexpr (!grouped) clear(0);
      thread.synchronize();
      if (!adds_) return;
      if constexpr (grouped) add_pieces(thread, set, round);
      else add_warps(thread, set);
      if (last) p.finish(thread, token_, (set * panels + panel_) * 16 + row_, sum_);
    }

   private:
    static constexpr int shift = Bits == 4 && !Corrected ? 8 : 4;

    template <class Thread>
    [[nodiscard]] DARTQUANT_DEVICE int token_of(Thread const& thread, int j) const {
      int const token = j * 8 + thread.lane() / 4;
      return token < p.y.tokens ? token : p.y.tokens - 1;
    }
    template <class Thread>
    [[nodiscard]] DARTQUANT_DEVICE std::int32_t* slot(Thread const& thread, int index) const {
      return reinterpret_cast<std::int32_t*>(thread.shared() + plan.slot_offset) +
             index * slot_words(p.y.tokens);
    }

    template <class Thread>
    DARTQUANT_DEVICE void multiply_step(Thread const& thread, Words4 const (&weights)[panels],
                                        std::byte const* x, int channel_step, int step, int piece) {
      if constexpr (grouped && Corrected && Bits == 4)
        if (p.x.grouped && p.x.zero_points != nullptr && channel_step * 32 < p.x.channels)
          read_zeros(thread, channel_step);
      EightLevels levels[TokenTiles];
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j) levels[j] = read(thread, x + x_at_[j], channel_step, step, j);
#pragma unroll
      for (int panel = 0; panel < panels; ++panel) {
        SixteenTimes const w(weights[panel].v[2 * step], weights[panel].v[2 * step + 1]);
#pragma unroll
        for (int j = 0; j < TokenTiles; ++j)
          multiply_bytes(thread, dot_[piece][panel][j], w.a, levels[j].even, levels[j].odd);
      }
      if constexpr (Corrected)
        if (p.w.zero_points != nullptr) {
          std::uint32_t const ones[4] = {0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u};
#pragma unroll
          for (int j = 0; j < TokenTiles; ++j)
            multiply_bytes(thread, x_sum_[piece][j], ones, levels[j].even, levels[j].odd);
        }
    }

    /// Eight channels of a token. Corrected: as Activations::eight. Else sixteen times nibbles, as weights.
    template <class Thread>
    [[nodiscard]] DARTQUANT_DEVICE EightLevels read(Thread const& thread, std::byte const* x,
                                                    int channel_step, int step, int j) const {
      int const left = p.x.channels - (channel_step * 32 + thread.lane() % 4 * 8);
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
    DARTQUANT_DEVICE void read_zeros(Thread const& thread, int channel_step) {
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j) zero_[j] = p.x.zero_point(token_of(thread, j), channel_step * 32);
    }

    /// Reads the scales of a bite, four of them per lane: [panels][pieces][16]; Corrected: brings them and
    /// what else belongs to the groups into the cache.
    template <class Thread>
    DARTQUANT_DEVICE void prepare_cells(Thread const& thread, int set, int round) {
      int const part = thread.lane() / 4;
      if (part >= panels * pieces || set >= plan.sets) return;
      int const piece = (round * DecodePlan::warps + thread.warp()) * pieces + part % pieces;
      int const group = pieces_of_group_ == 1 ? piece : piece / pieces_of_group_;
      if (group >= p.w.groups) return;
      std::int64_t const cell = p.w.cell(set * panels + part / pieces, group, thread.lane() % 4 * 4);
      if constexpr (keeps_scales)
        next_scales_ = read_once(thread, reinterpret_cast<Words4 const*>(p.w.scales + cell));
      else fetch_cell(thread, p.w, cell);
    }
    template <class Thread>
    DARTQUANT_DEVICE void leave_scales(Thread const& thread) const {
      int const part = thread.lane() / 4;
      if (part >= panels * pieces) return;
      std::int32_t* const words = slot(thread, thread.warp() * pieces + part % pieces);
      *reinterpret_cast<Words4*>(words + scales_at(p.y.tokens) + part / pieces * 16 + thread.lane() % 4 * 4) =
          scales_;
    }

    DARTQUANT_DEVICE void clear(int piece) {
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
#pragma unroll
          for (int panel = 0; panel < panels; ++panel) dot_[piece][panel][j][c] = 0;
          if constexpr (Corrected) x_sum_[piece][j][c] = 0;
        }
    }
    /// Writes the integers of a piece to their slot.
    template <class Thread>
    DARTQUANT_DEVICE void leave(Thread const& thread, int piece) const {
      std::int32_t* const words = slot(thread, thread.warp() * pieces + piece);
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          FragmentPlace const at = FragmentPlace::of(thread.lane(), c);
          int const token = 8 * j + at.token;
          if (token >= p.y.tokens) continue;
#pragma unroll
          for (int panel = 0; panel < panels; ++panel)
            words[(panel * p.y.tokens + token) * pitch + at.row] = dot_[piece][panel][j][c];
          if constexpr (Corrected)
            if (at.row == 0) words[x_sums_at(p.y.tokens) + token] = x_sum_[piece][j][c];
        }
    }

    template <class Thread>
    DARTQUANT_DEVICE void add_warps(Thread const& thread, int set) {
      std::int32_t const* words = slot(thread, 0);
      std::int32_t n = 0, x_sum = 0;
#pragma unroll
      for (int i = 0; i < slots; ++i) {
        n += words[(panel_ * p.y.tokens + token_) * pitch + row_];
        if constexpr (Corrected) x_sum += words[x_sums_at(p.y.tokens) + token_];
        words += slot_words(p.y.tokens);
      }
      if constexpr (Corrected)
        sum_ = p.add_corrected(0.0f, n >> shift, p.w.cell(set * panels + panel_, 0, row_), token_, 0, x_sum);
      else sum_ = std::fma(static_cast<float>(n >> shift), scale_, 0.0f);
    }
    /// Adds the pieces of a round in their order.
    template <class Thread>
    DARTQUANT_DEVICE void add_pieces(Thread const& thread, int set, int round) {
      int const all = (p.w.in + 32 * PieceSteps - 1) / (32 * (grouped ? PieceSteps : 1));
      int const left = all - round * slots;
      std::int32_t const* words = slot(thread, 0);
      if (!Corrected && pieces_of_group_ == 1 && left >= slots) {
#pragma unroll 8
        for (int i = 0; i < slots; ++i) {
          std::int32_t const n = words[(panel_ * p.y.tokens + token_) * pitch + row_];
          sum_ = std::fma(static_cast<float>(n >> shift), scale_of(words), sum_);
          words += slot_words(p.y.tokens);
        }
        return;
      }
      for (int i = 0; i < slots && i < left; ++i) {
        n_ += words[(panel_ * p.y.tokens + token_) * pitch + row_];
        if constexpr (Corrected) x_sums_ += words[x_sums_at(p.y.tokens) + token_];
        if (++piece_ == pieces_of_group_ || i + 1 == left) {
          if constexpr (Corrected)
            sum_ = p.add_corrected(sum_, n_ >> shift, p.w.cell(set * panels + panel_, group_, row_), token_,
                                   group_, x_sums_);
          else sum_ = std::fma(static_cast<float>(n_ >> shift), scale_of(words), sum_);
          ++group_;
          piece_ = n_ = x_sums_ = 0;
        }
        words += slot_words(p.y.tokens);
      }
    }
    [[nodiscard]] DARTQUANT_DEVICE float scale_of(std::int32_t const* words) const {
      return reinterpret_cast<float const*>(words)[scales_at(p.y.tokens) + panel_ * 16 + row_];
    }

    IntProduct const& p;
    DecodePlan const& plan;
    int pieces_of_group_;
    std::int32_t dot_[pieces][panels][TokenTiles][4] = {};
    std::int32_t x_sum_[pieces][TokenTiles][4] = {};  ///< the same in all rows: products with weights of 1
    Words4 scales_ = {}, next_scales_ = {};
    int x_at_[TokenTiles] = {}, zero_[TokenTiles] = {};
    int panel_, token_, row_;
    bool adds_;
    float scale_ = 0, sum_ = 0;
    std::int32_t n_ = 0, x_sums_ = 0, piece_ = 0, group_ = 0;  ///< of the group that is added up
  };
};

}  // namespace dartquant::cuda
