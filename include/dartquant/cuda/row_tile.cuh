// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>
#include <utility>

#include <dartquant/core/half.hpp>
#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/stored_rows.hpp>

namespace dartquant::cuda {

/// Division of numbers below 2^31 by a number that is known before the launch: a product and a shift. With
/// s = ceil(log2 d) and m = floor(2^(31+s) / d) + 1 the quotient is floor(n m / 2^(31+s)): m d exceeds
/// 2^(31+s) by at most 2^s, so that n m / 2^(31+s) exceeds n / d by less than 1 / d.
struct Divider {
  std::uint32_t divisor = 1, multiplier = 0x80000001u;
  std::uint32_t shift = 31;

  constexpr Divider() = default;
  constexpr explicit Divider(std::uint32_t d)
      : divisor(d),
        multiplier(static_cast<std::uint32_t>((std::uint64_t{1} << (31 + std::bit_width(d - 1))) / d + 1)),
        shift(static_cast<std::uint32_t>(31 + std::bit_width(d - 1))) {}

  [[nodiscard]] DARTQUANT_HD constexpr std::uint32_t quotient(std::uint32_t n) const {
    return static_cast<std::uint32_t>((static_cast<std::uint64_t>(n) * multiplier) >> shift);
  }
};

/// Four floats, and 16 bytes of anything else: what one instruction moves.
struct alignas(16) Float4 {
  float x[4];
};
struct alignas(16) Words4 {
  std::uint32_t x[4];
};

/// How a block of threads holds some rows. Rows here are `cols` channels wide; where the matrix is wider
/// (`chunks` of them side by side, each with whole Hadamard blocks and groups) its rows are cut. A tile is
/// one run of floats in shared memory, row after row with `pitch` between them, seen as *vectors* of 4 and
/// *units* of 32 floats.
struct RowTile {
  std::uint32_t rows = 0;  ///< of all tiles, after cutting
  int cols = 0, pitch = 0, tile_rows = 0;
  int floats = 0;             ///< of the tile: rows up to a multiple of 512 and of the transform's length
  Divider chunks, row_units;  ///< by the chunks of a row; by pitch / 32

  // The Hadamard transform of blocks of order * 2^log_length channels.
  int log_length = 0;
  int order = 1;
  int slab = 0;  ///< rows of the base that lie in shared memory at a time, a multiple of 4
  std::int8_t const* base = nullptr;
  Divider block_columns, row_blocks;  ///< by vectors of 2^log_length channels; by the blocks of a row

  // Channels under one scale.
  int group = 0, row_groups = 1;
  Divider group_divider;
  int join = 1;  ///< of the 16 vectors that a thread holds at the end, consecutive ones in one row and group
  int row_join = 1;  ///< and those in one row

  // Where parts of shared memory begin, in bytes. 0: there is no such part.
  int maps_at = 0, sums_at = 0, signs_at = 0, copy_at = 0;
  int shared_bytes = 0;
};

/// Where vector v of a tile lies, in vectors. Threads that write consecutive units, and threads that read
/// vectors at any power-of-two distance of at least 8, then touch all 32 banks evenly.
[[nodiscard]] DARTQUANT_HD constexpr int swizzled(int v) { return v ^ ((v >> 3) & 7); }

/// The tile's memory.
struct TileFloats {
  float* data;
  [[nodiscard]] DARTQUANT_HD Float4& vector(int v) const {
    return reinterpret_cast<Float4*>(data)[swizzled(v)];
  }
  [[nodiscard]] DARTQUANT_HD float& operator[](int i) const { return data[4 * swizzled(i >> 2) + (i & 3)]; }
};

/// A row of a tile in the matrix: row and first channel.
struct RowPlace {
  index_t row, first;
};
[[nodiscard]] DARTQUANT_HD inline RowPlace place_of(RowTile const& t, std::uint32_t tile_row) {
  std::uint32_t const row = t.chunks.quotient(tile_row);
  return {static_cast<index_t>(row), static_cast<index_t>(tile_row - row * t.chunks.divisor) * t.cols};
}

/// A stored matrix and whether its rows may be read or written 16 bytes (or 4 elements) at a time.
struct StoredRows {
  void* data = nullptr;
  ElementType type = ElementType::float32;
  index_t stride = 0;
  int vectors = 0;  ///< 1: rows begin on multiples of the access and hold whole accesses
};

/// f(0), ..., f(Count - 1) with indices that are constants, so that arrays they index stay in registers.
template <int Count, class Function>
DARTQUANT_DEVICE void unrolled(Function const& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) { (f(std::integral_constant<int, I>{}), ...); }
  (std::make_integer_sequence<int, Count>{});
}

/// Where a unit lies in stored data: its first element, and how many of its 32 there are.
struct UnitPlace {
  index_t at = 0;
  int count = 0;
};

template <class T, class Thread>
DARTQUANT_DEVICE void convert_unit(Thread const& thread, Words4 const (&raw)[sizeof(T) * 2], float (&y)[32]) {
  for (int k = 0; k < static_cast<int>(sizeof(T) * 2); ++k)
    for (int e = 0; e < 4; ++e) {
      std::uint32_t const word = raw[k].x[e];
      if constexpr (sizeof(T) == 4) {
        y[4 * k + e] = std::bit_cast<float>(word);
      } else {
        y[8 * k + 2 * e] = thread.to_float(T{static_cast<std::uint16_t>(word)});
        y[8 * k + 2 * e + 1] = thread.to_float(T{static_cast<std::uint16_t>(word >> 16)});
      }
    }
}

template <class T, class Thread>
DARTQUANT_DEVICE void load_units_as(Thread const& thread, T const* x, UnitPlace const& one,
                                    UnitPlace const& two, bool vectors, float (&y)[32], float (&z)[32]) {
  if (vectors) {
    Words4 first[sizeof(T) * 2] = {}, second[sizeof(T) * 2] = {};  // all under way before the first is used
    for (int k = 0; k < static_cast<int>(sizeof(T) * 2); ++k)
      if (one.count > 0) first[k] = reinterpret_cast<Words4 const*>(x + one.at)[k];
    for (int k = 0; k < static_cast<int>(sizeof(T) * 2); ++k)
      if (two.count > 0) second[k] = reinterpret_cast<Words4 const*>(x + two.at)[k];
    convert_unit<T>(thread, first, y);
    convert_unit<T>(thread, second, z);
  } else {
    for (int e = 0; e < 32; ++e) y[e] = e < one.count ? thread.to_float(x[one.at + e]) : 0.0f;
    for (int e = 0; e < 32; ++e) z[e] = e < two.count ? thread.to_float(x[two.at + e]) : 0.0f;
  }
}

/// Two units of stored data as floats, zeros where there is nothing; whole ones where `vectors`.
template <class Thread>
DARTQUANT_DEVICE void load_units(Thread const& thread, void const* data, ElementType type,
                                 UnitPlace const& one, UnitPlace const& two, bool vectors, float (&y)[32],
                                 float (&z)[32]) {
  if (type == ElementType::float32)
    load_units_as(thread, static_cast<float const*>(data), one, two, vectors, y, z);
  else if (type == ElementType::float16)
    load_units_as(thread, static_cast<Half const*>(data), one, two, vectors, y, z);
  else load_units_as(thread, static_cast<BFloat16 const*>(data), one, two, vectors, y, z);
}

template <class T, class Thread>
DARTQUANT_DEVICE void store_vector_as(Thread const& thread, float const (&v)[4], float factor, T* y,
                                      int count, bool vectors) {
  if (vectors) {
    if constexpr (sizeof(T) == 4) {
      *reinterpret_cast<Float4*>(y) = {{v[0] * factor, v[1] * factor, v[2] * factor, v[3] * factor}};
    } else {
      std::uint64_t word = 0;
      for (int e = 0; e < 4; ++e)
        word |= static_cast<std::uint64_t>(thread.template from_float<T>(v[e] * factor).bits) << (16 * e);
      *reinterpret_cast<std::uint64_t*>(y) = word;
    }
  } else {
    for (int e = 0; e < 4; ++e)
      if (e < count) y[e] = thread.template from_float<T>(v[e] * factor);
  }
}

/// The first `count` of four values times `factor`, rounded to the type, to element `at`.
template <class Thread>
DARTQUANT_DEVICE void store_vector(Thread const& thread, float const (&v)[4], float factor, void* data,
                                   ElementType type, index_t at, int count, bool vectors) {
  if (type == ElementType::float32)
    store_vector_as(thread, v, factor, static_cast<float*>(data) + at, count, vectors);
  else if (type == ElementType::float16)
    store_vector_as(thread, v, factor, static_cast<Half*>(data) + at, count, vectors);
  else store_vector_as(thread, v, factor, static_cast<BFloat16*>(data) + at, count, vectors);
}

}  // namespace dartquant::cuda
