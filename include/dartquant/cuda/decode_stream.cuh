// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/decode_plan.hpp>
#include <dartquant/cuda/int_product.cuh>

namespace dartquant::cuda {

/// Asks for what belongs to a group to be brought into the device's cache.
template <class Thread>
DARTQUANT_DEVICE void fetch_cell(Thread const& thread, Weights const& w, std::int64_t cell) {
  fetch_to_cache(thread, w.scales + cell);
  if (w.zero_points != nullptr) fetch_to_cache(thread, w.zero_points + cell);
  if (w.sums != nullptr) fetch_to_cache(thread, w.sums + cell);
}

/// The weights of a warp, piece by piece on their way to shared memory: a piece is one tile of each panel of
/// a set, and lies there as it lies in global memory, so that each lane reads what it has copied itself.
/// Scales come with the first tile of a chunk, if asked for.
template <int Panels, bool Scales>
class WeightStream {
 public:
  static constexpr int panel_bytes = 512 + (Scales ? 128 : 0), piece_bytes = Panels * panel_bytes;
  static constexpr int depth = DQ_STAGES / Panels;  ///< pieces that have a place, a power of two
  static constexpr int ring_bytes = depth * piece_bytes;

  template <class Thread>
  DARTQUANT_DEVICE WeightStream(Thread const& thread, Weights const& w, DecodePlan const& plan)
      : w_(w), plan_(plan), ring_(thread.shared() + thread.warp() * ring_bytes), set_(thread.block_x()) {
    start_set(thread);
  }

  /// Starts the copy of the next piece, in a group of copies of its own; an empty one behind the last.
  template <class Thread>
  DARTQUANT_DEVICE void copy_next(Thread const& thread) {
    next(
        [&](int panel, Words4 const* source) {
          std::byte* const target = ring_ + to_ * piece_bytes + panel * panel_bytes;
          thread.template copy_async<16>(target + thread.lane() * 16, source);
          if (i_ > 0 || w_.groups == 1 || thread.lane() >= 4 * plan_.group_slots) return;
          int const group = group_of_chunk(thread) + thread.lane() / 4;
          if (group >= w_.groups) return;
          std::int64_t const cell = w_.cell(set_ * Panels + panel, group, thread.lane() % 4 * 4);
          if constexpr (Scales)
            thread.template copy_async<16>(target + 512 + thread.lane() * 16, w_.scales + cell);
          else fetch_cell(thread, w_, cell);
        },
        thread);
    to_ = (to_ + 1) & (depth - 1);
    thread.commit_copies();
  }
  /// Asks for the next piece to be brought into the device's cache.
  template <class Thread>
  DARTQUANT_DEVICE void fetch_next(Thread const& thread) {
    next([&](int, Words4 const* source) { fetch_to_cache(thread, source); }, thread);
  }

  /// The first group of the chunk that is copied next.
  template <class Thread>
  [[nodiscard]] DARTQUANT_DEVICE int group_of_chunk(Thread const& thread) const {
    int const slot = (round_ * DecodePlan::warps + thread.warp()) * plan_.group_slots;
    return plan_.pieces == 1 ? slot : slot / plan_.pieces;
  }

  /// The oldest piece that has not been taken; it must have arrived.
  DARTQUANT_DEVICE std::byte const* take() {
    std::byte const* const piece = ring_ + from_ * piece_bytes;
    from_ = (from_ + 1) & (depth - 1);
    return piece;
  }

 private:
  template <class Thread>
  DARTQUANT_DEVICE void start_set(Thread const& thread) {
    int const panel = set_ * Panels;
    round_ = i_ = 0;
    tile_ = thread.warp() * plan_.chunk;
    source_ = w_.fragment(panel, tile_, thread.lane());
  }
  template <class Copy, class Thread>
  DARTQUANT_DEVICE void next(Copy const& copy, Thread const& thread) {
    if (set_ >= plan_.sets) return;
    if (tile_ < w_.tiles_of_panel) {
#pragma unroll
      for (int panel = 0; panel < Panels; ++panel)
        if (panel == 0 || set_ * Panels + panel < w_.panels)
          copy(panel, source_ + std::int64_t{panel} * w_.tiles_of_panel * 32);
    }
    ++tile_;
    source_ += 32;
    if (++i_ < plan_.chunk) return;
    i_ = 0;
    int const others = (DecodePlan::warps - 1) * plan_.chunk;
    tile_ += others;
    source_ += std::int64_t{others} * 32;
    if (++round_ < plan_.rounds) return;
    set_ += plan_.blocks;
    start_set(thread);
  }

  Weights const& w_;
  DecodePlan const& plan_;
  std::byte* ring_;
  Words4 const* source_ = nullptr;  ///< of this lane, in the first panel
  int set_, round_ = 0, tile_ = 0, i_ = 0, to_ = 0, from_ = 0;
};

/// Rows of activations as they are, whatever their elements, and how slices of them come to shared memory.
struct TokenRows {
  std::byte const* data;
  std::int64_t stride;  ///< bytes
  int bytes;            ///< of a row
  int tokens;

  /// Whether every row starts on a multiple of 16 bytes.
  [[nodiscard]] DARTQUANT_DEVICE bool vectors() const {
    return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && stride % 16 == 0;
  }
  /// Starts the copy of bytes first .. first + count - 1 of all rows, zeros behind the ends; count is a
  /// multiple of 16. It has arrived for the block when the copies of all threads have and a barrier has been
  /// passed.
  template <class Thread>
  DARTQUANT_DEVICE void copy(Thread const& thread, int first, int count, std::byte* target,
                             int target_stride) const {
    int const units = count / 16, step = thread.count();
    bool const by_copies = vectors();
    int token = thread.index() / units, unit = thread.index() % units;
    int const token_step = step / units, unit_step = step % units;
#pragma unroll 1
    while (token < tokens) {
      int const at = first + unit * 16;
      std::byte* const to = target + token * target_stride + unit * 16;
      if (by_copies && at + 16 <= bytes) thread.template copy_async<16>(to, data + token * stride + at);
      else *reinterpret_cast<Words4*>(to) = unit_of(token, at);
      token += token_step;
      unit += unit_step;
      if (unit >= units) {
        unit -= units;
        ++token;
      }
    }
  }

 private:
  [[nodiscard]] DARTQUANT_DEVICE Words4 unit_of(int token, int first) const {
    Words4 words{};
#pragma unroll
    for (int i = 0; i < 16; ++i)
      if (first + i < bytes)
        words.v[i / 4] |= static_cast<std::uint32_t>(data[token * stride + first + i]) << (8 * (i % 4));
    return words;
  }
};

/// The slices of activations of a block, one after the other and from the first again for the next set, in
/// two stages of shared memory in turn; in one where a row is one slice, which is copied once.
class SliceStream {
 public:
  DARTQUANT_DEVICE SliceStream(TokenRows const& x, DecodePlan const& plan, int x_bits, int sets)
      : x_(x),
        plan_(plan),
        bytes_(plan.slice_bytes(x_bits)),
        left_(plan.slices() > 1 ? plan.slices() * sets : 1) {}

  /// Starts the copy of the next slice, if there is one; it joins the group of copies that is closed next.
  template <class Thread>
  DARTQUANT_DEVICE void copy_next(Thread const& thread) {
    if (left_ == 0) return;
    --left_;
    x_.copy(thread, copied_ * bytes_, bytes_, stage(thread, to_), plan_.row_stride);
    to_ ^= 1;
    if (++copied_ == plan_.slices()) copied_ = 0;
  }
  template <class Thread>
  [[nodiscard]] DARTQUANT_DEVICE std::byte* stage(Thread const& thread, int i) const {
    return thread.shared() + plan_.x_offset + i * x_.tokens * plan_.row_stride;
  }

 private:
  TokenRows const& x_;
  DecodePlan const& plan_;
  int bytes_, left_, copied_ = 0, to_ = 0;
};

/// What all products of few tokens do. `product` is told
///
///     begin(thread)                       once, when activations may be read
///     begin_set(thread, set)
///     multiply(thread, piece, x, tile, i) a tile, number i of its chunk; x: its activations in the first row
///     meet(thread, set, round)            after every round, by all warps alike
///
/// What is read before wait_for_predecessors returns is a hint for the cache and nothing else.
template <class Stream, class Thread, class Product>
DARTQUANT_DEVICE void decode(Thread const& thread, Weights const& w, TokenRows const& rows, int x_bits,
                             DecodePlan const& plan, Product& product) {
  constexpr int depth = Stream::depth;
  let_dependents_start(thread);
  Stream stream(thread, w, plan);
  {
    Stream ahead = stream;
#pragma unroll 1
    for (int i = 0; i < depth - 1; ++i) ahead.fetch_next(thread);
  }
  wait_for_predecessors(thread);
  SliceStream slices(rows, plan, x_bits, (plan.sets - thread.block_x() + plan.blocks - 1) / plan.blocks);
  slices.copy_next(thread);
  thread.commit_copies();
#pragma unroll 1
  for (int i = 0; i < depth - 1; ++i) stream.copy_next(thread);
  product.begin(thread);
  thread.template wait_copies<depth - 1>();
  thread.synchronize();
  slices.copy_next(thread);
  bool const several = plan.slices() > 1;
  int const tile_bytes = 8 * x_bits;
  int stage = 0;
  for (int set = thread.block_x(); set < plan.sets; set += plan.blocks) {
    product.begin_set(thread, set);
    for (int first = 0; first < plan.rounds; first += plan.slice) {
      int const end = first + plan.slice < plan.rounds ? first + plan.slice : plan.rounds;
      std::byte const* const x =
          slices.stage(thread, stage) - first * DecodePlan::warps * plan.chunk * tile_bytes;
      for (int round = first; round < end; ++round) {
        int tile = (round * DecodePlan::warps + thread.warp()) * plan.chunk;
#pragma unroll 1
        for (int i = 0; i < plan.chunk; ++i, ++tile) {
          thread.template wait_copies<depth - 2>();
          if (i == 0) thread.synchronize_warp();
          stream.copy_next(thread);
          std::byte const* const piece = stream.take();
          if (tile < w.tiles_of_panel) product.multiply(thread, piece, x + tile * tile_bytes, tile, i);
        }
        product.meet(thread, set, round);
      }
      if (several) {
        if ((end - first) * plan.chunk < depth) thread.template wait_copies<0>();
        thread.synchronize();
        stage ^= 1;
        slices.copy_next(thread);
      }
    }
  }
}

}  // namespace dartquant::cuda
