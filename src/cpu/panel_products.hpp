// SPDX-License-Identifier: Apache-2.0
#pragma once

// The walk of an integer product over packed panels. Few rows unpack each panel in registers, in one pass or
// some, of which the first alone waits for memory; more rows unpack a piece of it first, which then serves
// all of them from the first-level cache.
//
// `Set` is the instruction set:
//   tile_rows, stream_rows    rows multiplied at once from unpacked and from packed lines
//   Packed, Unpacked          kinds of lines: line_bytes, and gap, the bytes between the lines of two groups
//   unpack(lines, count, to)  Packed -> Unpacked
//   Dots<R>                   registers that hold integers [R, 16]
//   dot<Lines, R>(lines, count, x, stride, dots)  dots = X [R, 8 count] times lines [8 count, 16]
//   load_add<R>(kept, dots), store<R>(dots, kept)  dots += kept and kept = dots, in memory [R, 16]
//   scale<R>(p, cell, row, group, dots, sums)      sums [R, 16] += scaled dots, see kernels.h
//   finish(sums, scale, bias, y)                   y [16] = fma(sums, scale, bias)
//
// All is in an unnamed namespace: every file that includes this is compiled for another processor and must
// keep its own copy.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {
namespace {

constexpr std::int64_t columns = 16;         // of a panel
constexpr std::int64_t streamed_passes = 4;  // more over packed lines take longer than unpacking them once
constexpr std::int64_t piece_lines = 128;    // 16 KiB unpacked: they stay in the first-level cache

/// What a group of a panel has besides its lines.
struct GroupCell {
  float const* scales;  ///< [16]
  std::int64_t at;      ///< index of its 16 zero points and sums
};

struct ProductScratch {
  alignas(64) std::uint8_t unpacked[piece_lines * 128];
  alignas(64) float sums[row_block * columns];
  alignas(64) std::int32_t dots[row_block * columns];  ///< of a group that is not complete yet
};
static_assert(sizeof(ProductScratch) <= scratch_bytes);

/// Groups [group, end) of a panel, at most `count` lines of each: whole groups, or a part of one.
struct Piece {
  std::int64_t group, end, count;
  std::int64_t channel;       ///< the first input channel
  std::uint8_t const* lines;  ///< packed or unpacked
  bool begins, ends;          ///< whether it holds the first and the last line of its groups
};

inline std::int64_t lines_of(Panels const& w, std::int64_t group) {
  return group + 1 < w.groups ? w.lines : w.last_lines;
}

inline std::uint8_t const* packed_lines(Panels const& w, std::int64_t panel, std::int64_t group) {
  return w.data + panel * w.bytes + group * (w.lines + 1) * 64;
}

/// Rows [row, row + R) times a piece.
template <class Set, class Lines, int R>
[[gnu::noinline]] void multiply_tile(Product const& product, std::int64_t panel, Piece const& whole,
                                     std::int64_t row, ProductScratch& scratch) {
  Product const p = product;  // copies: a store to memory cannot change them
  Piece const piece = whole;
  Panels const& w = p.w;
  std::uint8_t const* lines = piece.lines;
  std::uint8_t const* packed = packed_lines(w, panel, piece.group);
  std::int8_t const* x = p.x + row * p.x_stride + piece.channel;
  std::int32_t* const kept = scratch.dots + row * columns;
  for (std::int64_t group = piece.group; group < piece.end; ++group) {
    std::int64_t const all = lines_of(w, group), count = all < piece.count ? all : piece.count;
    typename Set::template Dots<R> dots;
    Set::template dot<Lines, R>(lines, count, x, p.x_stride, dots);
    if (!piece.begins) Set::template load_add<R>(kept, dots);
    if (piece.ends)
      Set::template scale<R>(
          p, {reinterpret_cast<float const*>(packed + all * 64), (panel * w.groups + group) * columns}, row,
          group, dots, scratch.sums + row * columns);
    else Set::template store<R>(dots, kept);
    lines += count * Lines::line_bytes + Lines::gap;
    packed += (all + 1) * 64;
    x += count * 8;
  }
}

/// As multiply_tile, for `rows` <= R rows.
template <class Set, class Lines, int R>
void multiply_rows(Product const& p, std::int64_t panel, Piece const& piece, std::int64_t row,
                   std::int64_t rows, ProductScratch& scratch) {
  if constexpr (R > 1)
    if (rows < R) return multiply_rows<Set, Lines, R - 1>(p, panel, piece, row, rows, scratch);
  multiply_tile<Set, Lines, R>(p, panel, piece, row, scratch);
}

/// Unpacks the lines of a piece and multiplies all rows with them.
template <class Set>
void multiply_unpacked(Product const& p, std::int64_t panel, Piece const& packed, ProductScratch& scratch) {
  Piece piece = packed;
  piece.lines = scratch.unpacked;
  if (packed.end - packed.group == 1) {
    Set::unpack(packed.lines, packed.count, scratch.unpacked);
  } else {
    std::uint8_t* to = scratch.unpacked;
    for (std::int64_t group = packed.group; group < packed.end; ++group) {
      std::int64_t const count = lines_of(p.w, group);
      Set::unpack(packed_lines(p.w, panel, group), count, to);
      to += count * Set::Unpacked::line_bytes;
    }
  }
  for (std::int64_t row = 0; row < p.rows; row += Set::tile_rows)
    multiply_rows<Set, typename Set::Unpacked, Set::tile_rows>(p, panel, piece, row, p.rows - row, scratch);
}

/// All groups of a panel, piece by piece.
template <class Set>
void multiply_pieces(Product const& p, std::int64_t panel, ProductScratch& scratch) {
  std::int64_t const most = p.w.lines < piece_lines ? piece_lines / p.w.lines : 1;  // groups of a piece
  for (std::int64_t group = 0; group < p.w.groups;) {
    std::int64_t const end = group + most < p.w.groups ? group + most : p.w.groups;
    std::int64_t const all = lines_of(p.w, group), channel = group * p.w.lines * 8;
    std::uint8_t const* const lines = packed_lines(p.w, panel, group);
    for (std::int64_t first = 0; first < all; first += piece_lines) {
      std::int64_t const count = all - first < piece_lines ? all - first : piece_lines;
      multiply_unpacked<Set>(
          p, panel,
          {group, end, count, channel + first * 8, lines + first * 64, first == 0, first + count == all},
          scratch);
    }
    group = end;
  }
}

/// sums -> y.
template <class Set>
void finish_panel(Product const& p, std::int64_t panel, float const* sums) {
  std::int64_t const first = panel * columns;
  std::int64_t const cols = p.cols - first < columns ? p.cols - first : columns;
  auto const bytes = static_cast<std::size_t>(cols) * sizeof(float);
  alignas(64) float bias[columns] = {};
  if (p.bias != nullptr) std::memcpy(bias, p.bias + first, bytes);
  for (std::int64_t row = 0; row < p.rows; ++row) {
    float const scale = p.scales_per_group ? 1.0f : p.x_scales[row * p.x_scale_stride];
    alignas(64) float y[columns];
    Set::finish(sums + row * columns, scale, bias, y);
    std::memcpy(p.y + row * p.y_stride + first, y, bytes);
  }
}

/// All groups of a panel from packed lines, in passes of nearly equal numbers of rows.
template <class Set>
void multiply_streamed(Product const& p, std::int64_t panel, ProductScratch& scratch) {
  Piece const all{0, p.w.groups, lines_of(p.w, 0), 0, packed_lines(p.w, panel, 0), true, true};
  std::int64_t const passes = (p.rows - 1) / Set::stream_rows + 1;
  for (std::int64_t pass = 0, row = 0; pass < passes; ++pass) {
    std::int64_t const rows = (p.rows - row) / (passes - pass);
    multiply_rows<Set, typename Set::Packed, Set::stream_rows>(p, panel, all, row, rows, scratch);
    row += rows;
  }
}

template <class Set>
void multiply_panels(Product const* p) {
  auto& scratch = *reinterpret_cast<ProductScratch*>(p->scratch);
  for (std::int64_t panel = 0; panel < p->w.count; ++panel) {
    std::memset(scratch.sums, 0, static_cast<std::size_t>(p->rows * columns) * sizeof(float));
    if (p->rows <= streamed_passes * Set::stream_rows) multiply_streamed<Set>(*p, panel, scratch);
    else multiply_pieces<Set>(*p, panel, scratch);
    finish_panel<Set>(*p, panel, scratch.sums);
  }
}

}  // namespace
}  // namespace dartquant::cpu
