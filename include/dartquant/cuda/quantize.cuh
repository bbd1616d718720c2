// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include <dartquant/cuda/row_transform.cuh>
#include <dartquant/quant/int4.hpp>
#include <dartquant/quant/scale.hpp>

namespace dartquant::cuda {

/// Where levels, scales and zero points go; see QuantizedRows.
struct QuantizeStep {
  std::uint8_t* levels = nullptr;
  index_t level_stride = 0;
  float* scales = nullptr;
  index_t scale_stride = 0;
  std::int32_t* zero_points = nullptr;
  index_t zero_point_stride = 0;
  int bits = 4;
  Symmetry symmetry = Symmetry::symmetric;
  float clip_ratio = 1;
  /// 1: cols and the group are multiples of 32, and rows of levels are aligned to those of 4 channels.
  int regular = 0;
};

namespace detail {

/// The range of a group, -low .. high, both at least +0 and NaN where a value is. Not negative, so that the
/// bits of these floats are in the order of their values, NaN last.
struct GroupRange {
  float low = 0, high = 0;
};

/// What turns the values of a group into levels: 16 bytes that take the place of its range. factor 0: the
/// factor is in `inverse`, and no value needs to be clamped, see map_of.
struct alignas(16) GroupMap {
  float factor, inverse, lowest, highest;
};

template <Symmetry symmetry, class Thread>
DARTQUANT_DEVICE void widen(Thread const& thread, GroupRange& range, float x) {
  if constexpr (symmetry == Symmetry::symmetric) {
    range.high = thread.max_nan(range.high, std::fabs(x));
  } else {
    range.high = thread.max_nan(range.high, x);
    range.low = thread.max_nan(range.low, -x);
  }
}

/// The union of the ranges of `lanes` neighbouring lanes, a power of two.
template <Symmetry symmetry, class Thread>
DARTQUANT_DEVICE void widen_by_lanes(Thread const& thread, GroupRange& range, int lanes) {
  for (int mask = lanes / 2; mask > 0; mask /= 2) {
    range.high = thread.max_nan(range.high, thread.shuffle_xor(range.high, mask));
    if constexpr (symmetry == Symmetry::asymmetric)
      range.low = thread.max_nan(range.low, thread.shuffle_xor(range.low, mask));
  }
}

/// The last floats that are not negative and finite have smaller bits.
inline constexpr std::uint32_t infinity_bits = 0x7F800000u;

/// Stores scale and zero point of a group and returns its map, as src/cpu/rows.cpp: a group that holds a NaN
/// or an infinity gets scale NaN, levels and zero point 0.
DARTQUANT_HD inline GroupMap map_of(GroupRange const& range, float factor, QuantizeStep const& step,
                                    float* scale, std::int32_t* zero_point) {
  bool const symmetric = step.symmetry == Symmetry::symmetric;
  bool const finite = std::bit_cast<std::uint32_t>(range.low) < infinity_bits &&
                      std::bit_cast<std::uint32_t>(range.high) < infinity_bits;
  if (!finite) {
    *scale = std::numeric_limits<float>::quiet_NaN();
    if (!symmetric) *zero_point = 0;
    return {1, 1, 0, 0};
  }
  float const min = symmetric ? -range.high : -range.low;
  Quantizer<float> const fit = range_quantizer(
      step.clip_ratio * (min * factor), step.clip_ratio * (range.high * factor), step.bits, step.symmetry);
  *scale = fit.scale;
  if (!symmetric) *zero_point = fit.zero_point;
  // A power of two as factor makes (x factor) inverse = x (factor inverse) exact but where x factor is
  // subnormal, far below half a level of such a scale. A symmetric range that is not clipped reaches
  // +-(2^(bits-1) - 1) (1 + 2^-22), which rounds to that level.
  bool const power = (std::bit_cast<std::uint32_t>(factor) & 0x007FFFFFu) == 0;
  if (symmetric && power && step.clip_ratio == 1.0f && fit.scale >= 0x1p-100f && fit.scale <= 0x1p100f)
    return {0, factor * fit.inverse, fit.lowest, fit.highest};
  return {factor, fit.inverse, fit.lowest, fit.highest};
}

/// 1.5 * 2^23: x + magic has the bits of magic plus x rounded half to even, for |x| below 2^22.
inline constexpr float magic = 12582912.0f;
inline constexpr std::uint32_t magic_bits = 0x4B400000u;

/// The bits of magic + centered level, see Quantizer::centered. A NaN becomes the lowest level.
DARTQUANT_HD inline std::uint32_t rounded(float x, GroupMap const& map) {
  float const quotient = x * map.factor * map.inverse;
  return std::bit_cast<std::uint32_t>(std::fmin(std::fmax(quotient, map.lowest), map.highest) + magic);
}

/// The same where the factor is in `inverse`.
DARTQUANT_HD inline std::uint32_t rounded_simply(float x, GroupMap const& map) {
  return std::bit_cast<std::uint32_t>(x * map.inverse + magic);
}

/// The code that is the level 0: the zero point, or where symmetric the bias of the codes.
DARTQUANT_HD inline std::uint32_t zero_code(GroupMap const& map, QuantizeStep const& step) {
  if (step.symmetry == Symmetry::symmetric) return 1u << (step.bits - 1);
  return static_cast<std::uint32_t>(static_cast<int>(-map.lowest));
}

/// How four codes 0 .. 2^bits - 1 = centered level + zero code become 16 or 32 stored bits: joined by shifts
/// and sums modulo 2^32, in which the bits of magic are a constant (none of the low 16 bits); symmetric ones
/// lose their bias by turning over the sign bit.
template <int Bits>
struct VectorCode {
  std::uint32_t added, flipped;

  DARTQUANT_HD VectorCode(GroupMap const& map, QuantizeStep const& step)
      : added(zero_code(map, step) * ones - (Bits == 8 ? magic_bits + (magic_bits << 8) : 0u)),
        flipped(step.symmetry == Symmetry::symmetric ? ones << (Bits - 1) : 0u) {}
  DARTQUANT_HD std::uint32_t operator()(float const (&x)[4], GroupMap const& map) const {
    return map.factor == 0 ? simple(x, map) : full(x, map);
  }
  DARTQUANT_HD std::uint32_t simple(float const (&x)[4], GroupMap const& map) const {
    return (join(rounded_simply(x[0], map), rounded_simply(x[1], map), rounded_simply(x[2], map),
                 rounded_simply(x[3], map)) +
            added) ^
           flipped;
  }
  DARTQUANT_HD std::uint32_t full(float const (&x)[4], GroupMap const& map) const {
    return (join(rounded(x[0], map), rounded(x[1], map), rounded(x[2], map), rounded(x[3], map)) + added) ^
           flipped;
  }
  /// To memory that is aligned to it.
  DARTQUANT_HD static void store(std::uint8_t* at, std::uint32_t word) {
    if constexpr (Bits == 4) *reinterpret_cast<std::uint16_t*>(at) = static_cast<std::uint16_t>(word);
    else *reinterpret_cast<std::uint32_t*>(at) = word;
  }

 private:
  static constexpr std::uint32_t ones = Bits == 4 ? 0x1111u : 0x01010101u;
  DARTQUANT_HD static std::uint32_t join(std::uint32_t r0, std::uint32_t r1, std::uint32_t r2,
                                         std::uint32_t r3) {
    return (((((r3 << Bits) + r2) << Bits) + r1) << Bits) + r0;
  }
};

/// The level of one channel, its low bits.
DARTQUANT_HD inline int level_of(float x, GroupMap const& map, QuantizeStep const& step) {
  std::uint32_t const code = (map.factor == 0 ? rounded_simply(x, map) : rounded(x, map)) - magic_bits;
  std::uint32_t const bias = step.symmetry == Symmetry::symmetric ? 0 : zero_code(map, step);
  return static_cast<int>(code + bias);
}

}  // namespace detail

/// q <- quantize(transform(X)): permute, transform, ranges, levels, packing in one pass over memory, with the
/// bytes of dartquant_quantize. Per value: the bytes of x, 1/2 or 1 for the level, and 4 (8) per group.
/// Ranges go through shared memory by atomic maxima of bits, whose result does not depend on their order.
///
/// Occupancy: as HadamardRows. At 2^12 channels a value costs 12 additions, about 5 instructions for its
/// level and 3 for loads, stores and exchanges, and 16 bytes of shared memory traffic: on an H100 the memory
/// is the bound (24 instruction slots and 24 bytes per value at 3 TB/s and 2.5 bytes per value), on an H200
/// all three are close to one another.
template <int Threads>
struct QuantizeRows {
  static constexpr int threads = Threads, blocks = 512 / Threads;
  RowTransformStep transform;
  QuantizeStep q;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    RowTile const& tile = transform.tile;
    auto const first_row =
        static_cast<std::uint32_t>(thread.block_x()) * static_cast<std::uint32_t>(tile.tile_rows);
    auto* const maps = reinterpret_cast<detail::GroupMap*>(thread.shared() + tile.maps_at);
    auto* const ranges = reinterpret_cast<std::uint32_t*>(maps);
    for (int g = thread.index(); g < 4 * tile.tile_rows * tile.row_groups; g += thread.count()) ranges[g] = 0;
    float v[16][4];
    Held const held = transform_rows(thread, transform, first_row, v);  // begins with a barrier
    if (q.symmetry == Symmetry::symmetric) find_ranges<Symmetry::symmetric>(thread, held, v, ranges);
    else find_ranges<Symmetry::asymmetric>(thread, held, v, ranges);
    thread.synchronize();
    find_maps(thread, first_row, maps);
    thread.synchronize();
    if (q.regular == 0) store_levels_plainly(thread, first_row, maps);
    else if (q.bits == 4) store_levels<4>(thread, first_row, held, v, maps);
    else store_levels<8>(thread, first_row, held, v, maps);
  }

 private:
  /// The group of the tile that holds channel `col` of a row.
  DARTQUANT_DEVICE int group_of(std::uint32_t tile_row, int col) const {
    RowTile const& tile = transform.tile;
    return static_cast<int>(tile_row) * tile.row_groups +
           static_cast<int>(tile.group_divider.quotient(static_cast<std::uint32_t>(col)));
  }

  template <Symmetry symmetry, class Thread>
  DARTQUANT_DEVICE void find_ranges(Thread const& thread, Held const& held, float const (&v)[16][4],
                                    std::uint32_t* ranges) const {
    if (q.regular != 0) collect_ranges<symmetry>(thread, held, v, ranges);
    else scan_ranges<symmetry>(thread, held, v, ranges);
  }

  /// Ranges of held vectors: those of a thread that lie in one group are joined, then those of 8 lanes, which
  /// hold 32 consecutive channels.
  template <Symmetry symmetry, class Thread>
  DARTQUANT_DEVICE void collect_ranges(Thread const& thread, Held const& held, float const (&v)[16][4],
                                       std::uint32_t* ranges) const {
    RowTile const& tile = transform.tile;
    detail::GroupRange range;
    unrolled<16>([&](auto index) {
      constexpr int j = index;
      for (int e = 0; e < 4; ++e) detail::widen<symmetry>(thread, range, v[j][e]);
      if (((j + 1) & (tile.join - 1)) != 0) return;
      detail::widen_by_lanes<symmetry>(thread, range, 8);
      auto const vector = static_cast<std::uint32_t>(held.vector(j));
      std::uint32_t const tile_row = tile.row_units.quotient(vector >> 3);
      if (thread.lane() % 8 == 0 && thread.index() < tile.floats / 64 &&
          static_cast<int>(tile_row) < tile.tile_rows) {
        int const col = 4 * static_cast<int>(vector) - static_cast<int>(tile_row) * tile.pitch;
        std::uint32_t* const at = ranges + 4 * group_of(tile_row, col);
        thread.atomic_max(at + 1, std::bit_cast<std::uint32_t>(range.high));
        if constexpr (symmetry == Symmetry::asymmetric)
          thread.atomic_max(at, std::bit_cast<std::uint32_t>(range.low));
      }
      range = {};
    });
  }

  /// The same for any group: values go back to shared memory, then a warp reads each group.
  template <Symmetry symmetry, class Thread>
  DARTQUANT_DEVICE void scan_ranges(Thread const& thread, Held const& held, float const (&v)[16][4],
                                    std::uint32_t* ranges) const {
    RowTile const& tile = transform.tile;
    TileFloats const floats{reinterpret_cast<float*>(thread.shared())};
    if (thread.index() < tile.floats / 64) detail::store_held(floats, held, v);
    thread.synchronize();
    for (int g = thread.warp(); g < tile.tile_rows * tile.row_groups; g += thread.count() / 32) {
      int const row = g / tile.row_groups, first = (g - row * tile.row_groups) * tile.group;
      int const last = first + tile.group < tile.cols ? first + tile.group : tile.cols;
      detail::GroupRange range;
      for (int col = first + thread.lane(); col < last; col += 32)
        detail::widen<symmetry>(thread, range, floats[row * tile.pitch + col]);
      detail::widen_by_lanes<symmetry>(thread, range, 32);
      if (thread.lane() == 0) {
        ranges[4 * g] = std::bit_cast<std::uint32_t>(range.low);
        ranges[4 * g + 1] = std::bit_cast<std::uint32_t>(range.high);
      }
    }
  }

  /// A thread per group: its scale and zero point to memory, its map in place of its range.
  template <class Thread>
  DARTQUANT_DEVICE void find_maps(Thread const& thread, std::uint32_t first_row,
                                  detail::GroupMap* maps) const {
    RowTile const& tile = transform.tile;
    for (int g = thread.index(); g < tile.tile_rows * tile.row_groups; g += thread.count()) {
      auto const tile_row = static_cast<std::uint32_t>(g / tile.row_groups);
      if (first_row + tile_row >= tile.rows) break;
      std::uint32_t const row = tile.chunks.quotient(first_row + tile_row);
      std::uint32_t const chunk = first_row + tile_row - row * tile.chunks.divisor;
      index_t const group =
          g - static_cast<int>(tile_row) * tile.row_groups + static_cast<index_t>(chunk) * tile.row_groups;
      auto const* const range = reinterpret_cast<std::uint32_t const*>(maps + g);
      detail::GroupRange const found{std::bit_cast<float>(range[0]), std::bit_cast<float>(range[1])};
      maps[g] = detail::map_of(found, factor_of(thread, transform, tile_row), q,
                               q.scales + row * q.scale_stride + group,
                               q.zero_points + row * q.zero_point_stride + group);
    }
  }

  template <int Bits, class Thread>
  DARTQUANT_DEVICE void store_levels(Thread const& thread, std::uint32_t first_row, Held const& held,
                                     float const (&v)[16][4], detail::GroupMap const* maps) const {
    RowTile const& tile = transform.tile;
    if (thread.index() >= tile.floats / 64) return;
    if (tile.row_join == 16) return store_row_levels<Bits>(first_row, held, v, maps);
    detail::GroupMap map{};
    detail::VectorCode<Bits> code(map, q);
    std::uint8_t* at = q.levels;
    bool inside = false;
    int const hop = (Bits << held.log_step) / 2;  // bytes
    unrolled<16>([&](auto index) {
      constexpr int j = index;
      if ((j & (tile.join - 1)) == 0) {
        auto const vector = static_cast<std::uint32_t>(held.vector(j));
        std::uint32_t const tile_row = tile.row_units.quotient(vector >> 3);
        inside = static_cast<int>(tile_row) < tile.tile_rows && first_row + tile_row < tile.rows;
        if (inside) {
          int const col = 4 * static_cast<int>(vector) - static_cast<int>(tile_row) * tile.pitch;
          RowPlace const place = place_of(tile, first_row + tile_row);
          at = q.levels + place.row * q.level_stride + (place.first + col) * Bits / 8;
          map = maps[group_of(tile_row, col)];
          code = detail::VectorCode<Bits>(map, q);
        }
      }
      if (inside) code.store(at, code(v[j], map));
      at += hop;
    });
  }

  /// The same where all vectors of a thread lie in one row, with as little as possible per vector.
  template <int Bits>
  DARTQUANT_DEVICE void store_row_levels(std::uint32_t first_row, Held const& held, float const (&v)[16][4],
                                         detail::GroupMap const* maps) const {
    RowTile const& tile = transform.tile;
    std::uint32_t const tile_row = tile.row_units.quotient(static_cast<std::uint32_t>(held.first) >> 3);
    if (static_cast<int>(tile_row) >= tile.tile_rows || first_row + tile_row >= tile.rows) return;
    int const col = 4 * held.first - static_cast<int>(tile_row) * tile.pitch, step = 4 << held.log_step;
    RowPlace const place = place_of(tile, first_row + tile_row);
    std::uint8_t* const at = q.levels + place.row * q.level_stride + (place.first + col) * Bits / 8;
    detail::GroupMap map = maps[group_of(tile_row, col)];
    detail::VectorCode<Bits> code(map, q);
    if (tile.join == 16 && map.factor == 0)
      return unrolled<16>([&](auto j) { code.store(at + j * step * Bits / 8, code.simple(v[j], map)); });
    if (tile.join == 16)
      return unrolled<16>([&](auto j) { code.store(at + j * step * Bits / 8, code.full(v[j], map)); });
    unrolled<16>([&](auto j) {
      if (j > 0 && (j & (tile.join - 1)) == 0) {
        map = maps[group_of(tile_row, col + j * step)];
        if (q.symmetry == Symmetry::asymmetric) code = detail::VectorCode<Bits>(map, q);
      }
      code.store(at + j * step * Bits / 8, code(v[j], map));
    });
  }

  /// The same byte by byte, from shared memory.
  template <class Thread>
  DARTQUANT_DEVICE void store_levels_plainly(Thread const& thread, std::uint32_t first_row,
                                             detail::GroupMap const* maps) const {
    RowTile const& tile = transform.tile;
    TileFloats const floats{reinterpret_cast<float*>(thread.shared())};
    auto const level_at = [&](int row, int col) {
      return detail::level_of(floats[row * tile.pitch + col],
                              maps[group_of(static_cast<std::uint32_t>(row), col)], q);
    };
    int const each = 8 / q.bits, row_bytes = (tile.cols + each - 1) / each;
    for (int n = thread.index(); n < tile.tile_rows * row_bytes; n += thread.count()) {
      int const row = n / row_bytes, byte = n - row * row_bytes;
      if (first_row + static_cast<std::uint32_t>(row) >= tile.rows) break;
      int const even = level_at(row, byte * each);
      int const odd = each == 2 && byte * 2 + 1 < tile.cols ? level_at(row, byte * 2 + 1) : 0;
      RowPlace const place = place_of(tile, first_row + static_cast<std::uint32_t>(row));
      q.levels[place.row * q.level_stride + place.first / each + byte] =
          each == 2 ? pack_int4(even, odd) : static_cast<std::uint8_t>(even);
    }
  }
};

}  // namespace dartquant::cuda
