// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

#include <dartquant/cuda/group_levels.cuh>
#include <dartquant/cuda/row_strip.cuh>

namespace dartquant::cuda {

namespace detail {

/// How `Count` codes 0 .. 2^Bits - 1 = centered level + zero code become one word, the first in the lowest
/// bits: shifts and sums modulo 2^32, in which the bits of magic are a constant; symmetric ones lose their
/// bias by turning over the sign bit.
template <int Bits, int Count>
struct LevelWord {
  std::uint32_t added, flipped;

  DARTQUANT_HD LevelWord(std::uint32_t zero, bool symmetric)
      : added(zero * repeated(1) - repeated(magic_bits)), flipped(symmetric ? repeated(1) << (Bits - 1) : 0u) {}

  /// Of rounded(...) values.
  template <class Rounded>
  DARTQUANT_HD std::uint32_t operator()(Rounded const& level) const {
    std::uint32_t word = level(Count - 1);
    for (int k = Count - 2; k >= 0; --k) word = (word << Bits) + level(k);
    return (word + added) ^ flipped;
  }

 private:
  [[nodiscard]] DARTQUANT_HD static constexpr std::uint32_t repeated(std::uint32_t one) {
    std::uint32_t sum = 0;
    for (int k = 0; k < Count; ++k) sum += one << (Bits * k);
    return sum;
  }
};

}  // namespace detail

/// q <- quantize(transform(X)) by strips. Group: 0, a strip is a row and has one scale; 128: so many channels
/// have one. Ranges stay within a warp or, of whole rows, go through a few bytes of shared memory.
template <class Transform, int Group, int Blocks>
struct QuantizeStrips {
  static_assert(Group == 0 || Group == 128);
  static constexpr int Threads = Transform::threads, threads = Threads, blocks = Blocks;
  static constexpr int shared_bytes = Transform::shared_bytes + 256;
  Transform transform;
  QuantizeStep q;
  float factor = 1;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    auto strip = static_cast<std::uint32_t>(thread.block_x());
    auto const step = static_cast<std::uint32_t>(thread.blocks_x());
    transform.fetch(thread, strip);
    int odd = 0;  // what warps tell each other lies at two places in turn, for a warp may be one strip ahead
    for (bool again = false; strip < transform.rows.strips; strip += step, again = true, odd ^= 1) {
      float v[16][4];
      // The warps of a strip with one scale have met since they read its floats.
      constexpr bool met = Group == 0 && Threads > 32;
      transform.run(thread, strip, strip + step, again && !met, v);
      if (q.symmetry == Symmetry::symmetric) quantize<Symmetry::symmetric>(thread, strip, odd, v);
      else quantize<Symmetry::asymmetric>(thread, strip, odd, v);
    }
  }

 private:
  using Values = float[16][4];
  static constexpr bool wide = Transform::wide;

  template <Symmetry symmetry, class Thread>
  DARTQUANT_DEVICE void quantize(Thread const& thread, std::uint32_t strip, int odd, Values const& v) const {
    StripPlace const at = transform.place(strip);
    if constexpr (Group == 0) quantize_row<symmetry>(thread, at, odd, v);
    else quantize_groups<symmetry>(thread, at, v);
  }

  /// The range of vectors from .. from + Count - 1.
  template <Symmetry symmetry, int Count, class Thread>
  DARTQUANT_DEVICE static detail::GroupRange range_of(Thread const& thread, Values const& v, int from) {
    detail::GroupRange part[4];  // four chains of maxima
    for (int j = 0; j < Count; ++j)
      for (int e = 0; e < 4; ++e) detail::widen<symmetry>(thread, part[e], v[from + j][e]);
    join<symmetry>(thread, part[0], part[1]);
    join<symmetry>(thread, part[2], part[3]);
    join<symmetry>(thread, part[0], part[2]);
    return part[0];
  }
  template <Symmetry symmetry, class Thread>
  DARTQUANT_DEVICE static void join(Thread const& thread, detail::GroupRange& a, detail::GroupRange const& b) {
    a.high = thread.max_nan(a.high, b.high);
    if constexpr (symmetry == Symmetry::asymmetric) a.low = thread.max_nan(a.low, b.low);
  }

  template <Symmetry symmetry, class Thread>
  DARTQUANT_DEVICE void quantize_row(Thread const& thread, StripPlace const& at, int odd, Values const& v) const {
    detail::GroupRange range = range_of<symmetry, 16>(thread, v, 0);
    range.high = strip_max<0>(thread, odd, range.high);
    if constexpr (symmetry == Symmetry::asymmetric) range.low = strip_max<1>(thread, odd, range.low);
    if constexpr (Threads > 32) {
      thread.synchronize();
      range.high = joined_max<0>(thread, odd);
      if constexpr (symmetry == Symmetry::asymmetric) range.low = joined_max<1>(thread, odd);
    }
    float scale = 0;
    std::int32_t zero_point = 0;
    detail::GroupMap const map = detail::map_of(range, factor, q, &scale, &zero_point);
    if (thread.index() == 0) {
      q.scales[at.row * q.scale_stride] = scale;
      if constexpr (symmetry == Symmetry::asymmetric) q.zero_points[at.row * q.zero_point_stride] = zero_point;
    }
    if (map.factor == 0) store<true>(thread, at, v, [&](int) { return map; });
    else store<false>(thread, at, v, [&](int) { return map; });
  }

  /// The largest of a warp, and of the strip's warps where they all have handed in theirs.
  template <int Slot, class Thread>
  DARTQUANT_DEVICE static float strip_max(Thread const& thread, int odd, float x) {
    std::uint32_t const most = thread.reduce_max(std::bit_cast<std::uint32_t>(x));
    if (Threads > 32 && thread.lane() == 0) slots(thread, odd)[16 * Slot + thread.warp()] = most;
    return std::bit_cast<float>(most);
  }
  template <int Slot, class Thread>
  DARTQUANT_DEVICE static float joined_max(Thread const& thread, int odd) {
    return std::bit_cast<float>(thread.reduce_max(slots(thread, odd)[16 * Slot + (thread.lane() & (Threads / 32 - 1))]));
  }
  template <class Thread>
  DARTQUANT_DEVICE static std::uint32_t* slots(Thread const& thread, int odd) {
    return reinterpret_cast<std::uint32_t*>(thread.shared() + Transform::shared_bytes) + 32 * odd;
  }

  // Groups of 128: `run` = 2^log_step or 32 neighbouring lanes hold consecutive vectors or pairs of them, and
  // where these are not yet 128 channels the next one of each lane belongs to the same group.
  static constexpr int vectors = wide ? 2 : 1;  ///< of neighbouring channels
  static constexpr int lanes = std::min(1 << std::min(Transform::log_step, 5), 32 / vectors);
  static constexpr int each = 32 / lanes;  ///< vectors of a thread in one group
  static constexpr int items = 16 / each;  ///< groups that a thread has vectors of: half as many as `lanes`

  template <Symmetry symmetry, class Thread>
  DARTQUANT_DEVICE void quantize_groups(Thread const& thread, StripPlace const& at, Values const& v) const {
    static_assert(Group == 0 || 2 * items == lanes);
    detail::GroupRange ranges[items];
    for (int i = 0; i < items; ++i) ranges[i] = range_of<symmetry, each>(thread, v, i * each);
    share<symmetry, items / 2>(thread, ranges);
    // Two lanes have the range of each group; all find a map.
    int const item = (thread.lane() & (lanes - 1)) >> 1;
    int const col = 4 * (Transform::first_vector(thread.index()) + Transform::offset(item * each));
    float scale = 0;
    std::int32_t zero_point = 0;
    detail::GroupMap const map = detail::map_of(ranges[0], factor, q, &scale, &zero_point);
    if (thread.lane() % 2 == 0 && col < at.count) {
      index_t const group = (at.first + col) / 128;
      q.scales[at.row * q.scale_stride + group] = scale;
      if constexpr (symmetry == Symmetry::asymmetric)
        q.zero_points[at.row * q.zero_point_stride + group] = zero_point;
    }
    int const from = thread.lane() & ~(lanes - 1);
    if (thread.reduce_max(map.factor == 0 ? 0u : 1u) == 0) {
      store<true>(thread, at, v, [&](int j) {
        return detail::GroupMap{0, thread.shuffle(map.inverse, from + 2 * (j / each)), map.lowest, map.highest};
      });
    } else {
      store<false>(thread, at, v, [&](int j) {
        int const lane = from + 2 * (j / each);
        return detail::GroupMap{thread.shuffle(map.factor == 0 ? 1.0f : map.factor, lane), thread.shuffle(map.inverse, lane),
                                thread.shuffle(map.lowest, lane), thread.shuffle(map.highest, lane)};
      });
    }
  }

  /// From `2 Half` ranges of each lane to one: lanes with bit 2 Half of their number hand the lower half of
  /// theirs to the lane without it for the upper half of its.
  template <Symmetry symmetry, int Half, class Thread>
  DARTQUANT_DEVICE static void share(Thread const& thread, detail::GroupRange* ranges) {
    constexpr int mask = Half == 0 ? 1 : 2 * Half;
    bool const upper = (thread.lane() & mask) != 0;
    for (int i = 0; i < (Half == 0 ? 1 : Half); ++i) {
      detail::GroupRange const low = ranges[i], high = ranges[i + Half];
      detail::GroupRange keep = upper ? high : low, give = upper ? low : high;
      give.high = thread.shuffle_xor(give.high, mask);
      if constexpr (symmetry == Symmetry::asymmetric) give.low = thread.shuffle_xor(give.low, mask);
      join<symmetry>(thread, keep, give);
      ranges[i] = keep;
    }
    if constexpr (Half > 0) share<symmetry, Half / 2>(thread, ranges);
  }

  template <bool Simple, class Thread, class MapOf>
  DARTQUANT_DEVICE void store(Thread const& thread, StripPlace const& at, Values const& v,
                              MapOf const& map_of) const {
    if (q.bits == 4) store_bits<Simple, 4>(thread, at, v, map_of);
    else store_bits<Simple, 8>(thread, at, v, map_of);
  }

  template <bool Simple, int Bits, class Thread, class MapOf>
  DARTQUANT_DEVICE void store_bits(Thread const& thread, StripPlace const& at, Values const& v,
                                   MapOf const& map_of) const {
    int const first = 4 * Transform::first_vector(thread.here(thread.index()));
    std::uint8_t* const to = q.levels + at.row * q.level_stride + (at.first + first) * Bits / 8;
    int const count = at.count - first;
    constexpr int channels = 4 * vectors, word_channels = Bits == 8 ? 4 : channels, words = channels / word_channels;
    detail::GroupMap map{};
    detail::LevelWord<Bits, word_channels> word(0, true);
    for (int j = 0; j < 16; j += vectors) {
      if (j == 0 || (Group != 0 && j % each == 0)) {
        map = map_of(j);
        word = detail::LevelWord<Bits, word_channels>(detail::zero_code(map, q), q.symmetry == Symmetry::symmetric);
      }
      std::uint32_t stored[words];
      for (int w = 0; w < words; ++w)
        stored[w] = word([&](int k) {
          float const x = v[j + (word_channels * w + k) / 4][k % 4];
          return Simple ? detail::rounded_simply(x, map) : detail::rounded(x, map);
        });
      int const offset = 4 * Transform::offset(j);
      if (offset >= count) continue;
      std::uint8_t* const target = to + offset * Bits / 8;
      if constexpr (channels * Bits == 16) *reinterpret_cast<std::uint16_t*>(target) = static_cast<std::uint16_t>(stored[0]);
      else if constexpr (channels * Bits == 32) *reinterpret_cast<std::uint32_t*>(target) = stored[0];
      else *reinterpret_cast<std::uint64_t*>(target) = stored[0] | static_cast<std::uint64_t>(stored[words - 1]) << 32;
    }
  }
};

}  // namespace dartquant::cuda
