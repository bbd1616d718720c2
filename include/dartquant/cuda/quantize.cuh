// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

#include <dartquant/cuda/group_levels.cuh>
#include <dartquant/cuda/row_transform.cuh>
#include <dartquant/quant/int4.hpp>

namespace dartquant::cuda {

/// q <- quantize(transform(X)): permute, transform, ranges, levels, packing in one pass over memory, with the
/// bytes of dartquant_quantize. Per value: the bytes of x, 1/2 or 1 for the level, and 4 (8) per group.
/// Ranges go through shared memory by atomic maxima of bits, whose result does not depend on their order.
///
/// For what QuantizeStrips (quantize_strip.cuh) does not take: permutations, gains, other lengths and groups.
/// Occupancy: as HadamardRows, 128 registers.
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
