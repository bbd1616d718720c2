// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

#include <dartquant/cuda/group_levels.cuh>
#include <dartquant/cuda/row_strip.cuh>

namespace dartquant::cuda {

namespace detail {

/// `Count` symmetric levels as one word, the first in the lowest bits: the low bits of rounded values are
/// those of the levels, and shift in from above.
template <int Bits, int Count, class Thread, class Rounded>
DARTQUANT_DEVICE std::uint32_t symmetric_word(Thread const& thread, Rounded const& level) {
  std::uint32_t word = thread.opaque(level(0) << (32 - Bits));
  for (int k = 1; k < Count; ++k) word = (word >> Bits) | (level(k) << (32 - Bits));
  return word >> (32 - Bits * Count);
}

/// How `Count` codes 0 .. 2^Bits - 1 = centered level + zero code become one word, the first in the lowest
/// bits: shifts and sums modulo 2^32, in which the bits of magic are a constant; symmetric ones lose their
/// bias by turning over the sign bit.
template <int Bits, int Count>
struct LevelWord {
  std::uint32_t added, flipped;

  DARTQUANT_HD LevelWord(std::uint32_t zero, bool symmetric)
      : added(zero * repeated(1) - repeated(magic_bits)),
        flipped(symmetric ? repeated(1) << (Bits - 1) : 0u) {}

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

/// q <- quantize(transform(X)) by strips. Group: 0, a strip is a row and has one scale; else so many channels
/// have one, of which a warp holds whole ones. Ranges stay within a warp or, of whole rows, go through a few
/// bytes of shared memory.
///
/// A value of 2^m channels costs m additions, a conversion, and for its level a maximum, a product, an
/// addition and a shift; the rest, for addresses, exchanges, the map of its group and the loop, is about a
/// quarter of all (the machine code of 2^12 channels, 16-bit values and one scale per row for sm_90a has
/// about 22 instructions per value). A multiprocessor issues 128 a cycle, so that a device with more than 128
/// / 22 times 2.5 bytes of memory bandwidth per cycle and multiprocessor waits for them and not for memory:
/// an H200 with 16 bytes does.
template <class Transform_, int Group, int Blocks>
struct QuantizeStrips {
  using Transform = Transform_;
  static constexpr int threads = Transform::threads, blocks = Blocks;
  Transform transform;
  QuantizeStep q;
  int ranges_at = 0;  ///< where warps tell each other ranges, in shared memory: 256 bytes

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    auto strip = static_cast<std::uint32_t>(thread.block_x());
    auto const step = static_cast<std::uint32_t>(thread.blocks_x());
    transform.fetch(thread, strip);
    transform.prepare(thread);
    int odd = 0;  // warps tell each other ranges at two places in turn, for one may be a strip ahead
    for (bool again = false; strip < transform.rows.rows; strip += step, again = true, odd ^= 1) {
      Values v;
      // The warps of a strip with one scale have met since they read its floats.
      transform.run(thread, strip, strip + step, again && (Group != 0 || thread.count() == 32), v);
      StripPlace const at = transform.rows.place(thread, strip);
      if constexpr (Group == 0) quantize_row(thread, at, odd, v);
      else quantize_groups(thread, at, v);
    }
  }

 private:
  static constexpr int held = Transform::held;  ///< vectors of a thread
  using Values = float[held][4];
  using Range = detail::GroupRange;

  /// The range of vectors from .. from + Count - 1.
  template <Symmetry symmetry, int Count, class Thread>
  DARTQUANT_DEVICE static Range range_of(Thread const& thread, Values const& v, int from) {
    Range part[4];  // four chains of maxima
    for (int j = 0; j < Count; ++j)
      for (int e = 0; e < 4; ++e) detail::widen<symmetry>(thread, part[e], v[from + j][e]);
    join<symmetry>(thread, part[0], part[1]);
    join<symmetry>(thread, part[2], part[3]);
    join<symmetry>(thread, part[0], part[2]);
    return part[0];
  }
  template <Symmetry symmetry, class Thread>
  DARTQUANT_DEVICE static void join(Thread const& thread, Range& a, Range const& b) {
    a.high = thread.max_nan(a.high, b.high);
    if constexpr (symmetry == Symmetry::asymmetric) a.low = thread.max_nan(a.low, b.low);
  }
  /// The largest of a warp's numbers that are not negative, or a NaN.
  template <class Thread>
  DARTQUANT_DEVICE static float warp_max(Thread const& thread, float x) {
    return std::bit_cast<float>(thread.reduce_max(std::bit_cast<std::uint32_t>(x)));
  }
  template <Symmetry symmetry, class Thread>
  DARTQUANT_DEVICE static Range warp_range(Thread const& thread, Range const& range) {
    return {symmetry == Symmetry::asymmetric ? warp_max(thread, range.low) : 0.0f,
            warp_max(thread, range.high)};
  }

  template <Symmetry symmetry, class Thread>
  DARTQUANT_DEVICE Range strip_range(Thread const& thread, int odd, Values const& v) const {
    Range const range = warp_range<symmetry>(thread, range_of<symmetry, held>(thread, v, 0));
    int const warps = thread.count() / 32;
    if (warps == 1) return range;
    Range* const ranges = reinterpret_cast<Range*>(thread.shared() + ranges_at) + 16 * odd;
    if (thread.lane() == 0) ranges[thread.warp()] = range;
    thread.synchronize();
    return warp_range<symmetry>(thread, thread.lane() < warps ? ranges[thread.lane()] : Range{});
  }

  template <class Thread>
  DARTQUANT_DEVICE void quantize_row(Thread const& thread, StripPlace const& at, int odd,
                                     Values const& v) const {
    Range const range = q.symmetry == Symmetry::symmetric ? strip_range<Symmetry::symmetric>(thread, odd, v)
                                                          : strip_range<Symmetry::asymmetric>(thread, odd, v);
    float scale = 0;
    std::int32_t zero_point = 0;
    detail::GroupMap const map = detail::map_of(range, transform.factor_of(thread), q, &scale, &zero_point);
    if (thread.index() == 0) store_scale(at, 0, scale, zero_point);
    if (!transform.has(thread.index(), 0, at.count)) return;
    if (map.factor == 0) store<true>(thread, at, v, [&](int) { return map; });
    else store<false>(thread, at, v, [&](int) { return map; });
  }
  DARTQUANT_DEVICE void store_scale(StripPlace const& at, index_t group, float scale,
                                    std::int32_t zero_point) const {
    q.scales[at.row * q.scale_stride + group] = scale;
    if (q.symmetry == Symmetry::asymmetric) q.zero_points[at.row * q.zero_point_stride + group] = zero_point;
  }

  // Where `whole_warps`, a warp's vectors i are one group of 128. Else `lanes` neighbours hold consecutive
  // vectors or pairs of them, and where these are not yet a group the next of each lane belong to it too.
  static constexpr bool whole_warps = Transform::whole_warps;
  static constexpr int vectors = Transform::wide ? 2 : 1;  ///< of neighbouring channels
  static constexpr int lanes =
      whole_warps ? 32 : std::min(Transform::run_lanes, Group / 4 / vectors + (Group == 0));
  static constexpr int each = Group == 0 ? held : Group / 4 / lanes;  ///< vectors of a thread in one group
  static constexpr int items = held / each;                           ///< groups that a thread has vectors of
  static constexpr int spread =
      whole_warps ? 1 : std::max(1, lanes / items);  ///< lanes that find the same map

  /// The lane whose range share_ranges() leaves to be that of group `item` of this lane.
  DARTQUANT_DEVICE static int lane_of(int lane, int item) {
    return whole_warps ? item : (lane & ~(lanes - 1)) + spread * item;
  }

  template <Symmetry symmetry, class Thread>
  DARTQUANT_DEVICE static Range share_ranges(Thread const& thread, Values const& v) {
    if constexpr (whole_warps) {
      static_assert(items <= 32);
      Range mine;
      for (int i = 0; i < items; ++i) {
        Range const range = warp_range<symmetry>(thread, range_of<symmetry, each>(thread, v, i * each));
        if (thread.lane() == i) mine = range;
      }
      return mine;
    } else {
      static_assert(Group == 0 || spread * items == lanes);
      Range ranges[items];
      for (int i = 0; i < items; ++i) ranges[i] = range_of<symmetry, each>(thread, v, i * each);
      share<symmetry, items, lanes / 2>(thread, ranges);
      return ranges[0];
    }
  }

  /// From `Count` ranges of each of 2 Mask lanes to one: lanes with bit Mask of their number hand the lower
  /// half of theirs to the lane without it for the upper half of its, as long as there is more than one.
  template <Symmetry symmetry, int Count, int Mask, class Thread>
  DARTQUANT_DEVICE static void share(Thread const& thread, Range* ranges) {
    constexpr int half = Count / 2;
    bool const upper = (thread.lane() & Mask) != 0;
    for (int i = 0; i < std::max(half, 1); ++i) {
      Range const low = ranges[i], high = ranges[i + half];
      Range keep = upper ? high : low, give = upper ? low : high;
      give.high = thread.shuffle_xor(give.high, Mask);
      if constexpr (symmetry == Symmetry::asymmetric) give.low = thread.shuffle_xor(give.low, Mask);
      join<symmetry>(thread, keep, give);
      ranges[i] = keep;
    }
    if constexpr (Mask > 1) share<symmetry, std::max(half, 1), Mask / 2>(thread, ranges);
  }

  template <class Thread>
  DARTQUANT_DEVICE void quantize_groups(Thread const& thread, StripPlace const& at, Values const& v) const {
    Range const range = q.symmetry == Symmetry::symmetric ? share_ranges<Symmetry::symmetric>(thread, v)
                                                          : share_ranges<Symmetry::asymmetric>(thread, v);
    // One lane or two have the range of each group; all find a map.
    int const lane = thread.lane(), item = whole_warps ? lane : (lane & (lanes - 1)) / spread;
    float scale = 0;
    std::int32_t zero_point = 0;
    detail::GroupMap const map = detail::map_of(range, transform.factor_of(thread), q, &scale, &zero_point);
    if ((whole_warps ? lane < items : lane % spread == 0) &&
        transform.has(thread.index(), item * each, at.count)) {
      int const col = 4 * (transform.first_vector(thread.index()) + transform.offset(item * each));
      store_scale(at, (at.first + col) / Group, scale, zero_point);
    }
    if (thread.reduce_max(map.factor == 0 ? 0u : 1u) == 0) {
      store<true>(thread, at, v, [&](int j) {
        return detail::GroupMap{0, thread.shuffle(map.inverse, lane_of(lane, j / each)), map.lowest,
                                map.highest};
      });
    } else {
      store<false>(thread, at, v, [&](int j) {
        int const from = lane_of(lane, j / each);
        return detail::GroupMap{thread.shuffle(map.factor == 0 ? 1.0f : map.factor, from),
                                thread.shuffle(map.inverse, from), thread.shuffle(map.lowest, from),
                                thread.shuffle(map.highest, from)};
      });
    }
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
    constexpr int channels = 4 * vectors, in_word = Bits == 8 ? 4 : channels, words = channels / in_word;
    using Word = detail::LevelWord<Bits, in_word>;
    int const index = thread.here(thread.index());
    std::uint8_t* const to =
        q.levels + at.row * q.level_stride + (at.first + 4 * transform.first_vector(index)) * Bits / 8;
    detail::GroupMap map = map_of(0);
    Word word(detail::zero_code(map, q), q.symmetry == Symmetry::symmetric);
    for (int j = 0; j < held; j += vectors) {
      if (Group != 0 && j > 0 && j % each == 0) {
        map = map_of(j);
        if (!Simple) word = Word(detail::zero_code(map, q), q.symmetry == Symmetry::symmetric);
      }
      std::uint32_t stored[words];
      for (int w = 0; w < words; ++w) {
        auto const level = [&](int k) {
          float const x = v[j + (in_word * w + k) / 4][k % 4];
          return Simple ? detail::rounded_simply(x, map) : detail::rounded(x, map);
        };
        stored[w] = Simple ? detail::symmetric_word<Bits, in_word>(thread, level) : word(level);
      }
      if (!transform.has(index, j, at.count)) continue;
      std::uint8_t* const target = to + transform.offset(j) * Bits / 2;
      if constexpr (channels * Bits == 16)
        *reinterpret_cast<std::uint16_t*>(target) = static_cast<std::uint16_t>(stored[0]);
      else if constexpr (channels * Bits == 32) *reinterpret_cast<std::uint32_t*>(target) = stored[0];
      else
        *reinterpret_cast<std::uint64_t*>(target) = stored[0] | static_cast<std::uint64_t>(stored[words - 1])
                                                                    << 32;
    }
  }
};

}  // namespace dartquant::cuda
