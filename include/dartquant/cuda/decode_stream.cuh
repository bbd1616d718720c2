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

/// The weights of a warp: a bite, which is `Bite` consecutive tiles of each panel of a set, is held in
/// registers, and as soon as a tile of it has been multiplied its place is filled with that of the next bite.
/// So 512 Bite Panels bytes of every warp are always on their way.
template <int Panels, int Bite>
class WeightStream {
 public:
  Words4 tiles[Bite][Panels] = {};

  template <class Thread>
  DARTQUANT_DEVICE WeightStream(Thread const& thread, Weights const& w, DecodePlan const& plan)
      : w_(w), plan_(plan), set_(thread.block_x()) {
    find(thread);
  }

  /// Asks for the next bite to be brought into the device's cache.
  template <class Thread>
  DARTQUANT_DEVICE void fetch(Thread const& thread) const {
#pragma unroll
    for (int i = 0; i < Bite; ++i)
#pragma unroll
      for (int panel = 0; panel < Panels; ++panel)
        if (i < count_) fetch_to_cache(thread, next_[panel] + i * 32);
  }
  /// Starts reading tile i of the next bite; what lies behind the last tile is left as it is: activations are
  /// zero there.
  template <class Thread>
  DARTQUANT_DEVICE void refill(Thread const& thread, int i) {
    if (i < count_) {
#pragma unroll
      for (int panel = 0; panel < Panels; ++panel) tiles[i][panel] = read_once(thread, next_[panel] + i * 32);
    }
  }
  /// The bite after the next becomes the next.
  template <class Thread>
  DARTQUANT_DEVICE void advance(Thread const& thread) {
    if (++round_ == plan_.rounds) {
      round_ = 0;
      set_ += plan_.blocks;
    }
    find(thread);
  }
  /// Of the next bite; set() >= plan.sets behind the last.
  [[nodiscard]] DARTQUANT_DEVICE int set() const { return set_; }
  [[nodiscard]] DARTQUANT_DEVICE int round() const { return round_; }

 private:
  template <class Thread>
  DARTQUANT_DEVICE void find(Thread const& thread) {
    int const tile = (round_ * DecodePlan::warps + thread.warp()) * Bite;
    count_ = set_ < plan_.sets ? w_.tiles_of_panel - tile : 0;
#pragma unroll
    for (int panel = 0; panel < Panels; ++panel) {
      int const of = set_ * Panels + panel;
      next_[panel] = w_.fragment(of < w_.panels ? of : w_.panels - 1, tile, thread.lane());
    }
  }

  Weights const& w_;
  DecodePlan const& plan_;
  Words4 const* next_[Panels];  ///< of this lane
  int set_, round_ = 0, count_ = 0;
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
  DARTQUANT_DEVICE SliceStream(TokenRows const& x, DecodePlan const& plan, int sets)
      : x_(x), plan_(plan), left_(plan.slices() > 1 ? plan.slices() * sets : 1) {}

  /// Starts the copy of the next slice, if there is one.
  template <class Thread>
  DARTQUANT_DEVICE void copy_next(Thread const& thread) {
    if (left_ == 0) return;
    --left_;
    x_.copy(thread, copied_ * plan_.slice_bytes, plan_.slice_bytes, stage(thread, to_), plan_.row_stride);
    thread.commit_copies();
    to_ ^= 1;
    if (++copied_ == plan_.slices()) copied_ = 0;
  }
  template <class Thread>
  [[nodiscard]] DARTQUANT_DEVICE std::byte* stage(Thread const& thread, int i) const {
    return thread.shared() + i * x_.tokens * plan_.row_stride;
  }

 private:
  TokenRows const& x_;
  DecodePlan const& plan_;
  int left_, copied_ = 0, to_ = 0;
};

/// What all products of few tokens do. `product` is told
///
///     begin(thread)                       once, when activations may be read
///     begin_set(thread, set)
///     multiply(thread, stream, x, tile)   a bite from `tile` on; x: the first token's activations from there
///     meet(thread, set, round)            after every round, by all warps alike
///
/// multiply refills the stream. What is read before wait_for_predecessors returns is a hint for the cache and
/// nothing else.
template <int Panels, int Bite, class Thread, class Product>
DARTQUANT_DEVICE void decode(Thread const& thread, Weights const& w, TokenRows const& rows, int x_bits,
                             DecodePlan const& plan, Product& product) {
  let_dependents_start(thread);
  WeightStream<Panels, Bite> stream(thread, w, plan);
  stream.fetch(thread);
  wait_for_predecessors(thread);
#pragma unroll
  for (int i = 0; i < Bite; ++i) stream.refill(thread, i);
  SliceStream slices(rows, plan, (plan.sets - thread.block_x() + plan.blocks - 1) / plan.blocks);
  slices.copy_next(thread);
  product.begin(thread);
  thread.template wait_copies<0>();
  thread.synchronize();
  slices.copy_next(thread);
  bool const several = plan.slices() > 1;
  int const bite_bytes = 8 * x_bits * Bite;
  int stage = 0;
  for (int set = thread.block_x(); set < plan.sets; set += plan.blocks) {
    product.begin_set(thread, set);
    for (int first = 0; first < plan.rounds; first += plan.slice) {
      int const end = first + plan.slice < plan.rounds ? first + plan.slice : plan.rounds;
      std::byte const* x = slices.stage(thread, stage) + thread.warp() * bite_bytes;
      for (int round = first; round < end; ++round) {
        stream.advance(thread);
        product.multiply(thread, stream, x, (round * DecodePlan::warps + thread.warp()) * Bite);
        x += DecodePlan::warps * bite_bytes;
        product.meet(thread, set, round);
      }
      if (several) {
        thread.template wait_copies<0>();
        thread.synchronize();
        stage ^= 1;
        slices.copy_next(thread);
      }
    }
  }
}

}  // namespace dartquant::cuda
