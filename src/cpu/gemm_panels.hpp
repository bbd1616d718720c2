// SPDX-License-Identifier: Apache-2.0
#pragma once

// The walk of a product of float or double matrices. A block of A is packed into panels of a few rows, which
// stay in the second-level cache; B is packed a panel of columns at a time, which stays in the first-level
// cache and meets every panel of A. A panel of C lies in registers while the depth runs by.
//
// `Set` is the instruction set and the type of elements:
//   Value, Vector, lanes, rows      rows of a panel of C; its columns are two vectors
//   a_step                          elements from one depth of a packed panel of A to the next, >= rows
//   Mask, mask(count)               the first `count` lanes: none below 1, all from `lanes` on
//   zero, set, load, store, fma, mul
//   load(at, mask), store(at, mask, x)  lanes outside the mask are 0 and not written
//   square, transpose(rows, to, step)   to [square, square] <- the transposed of square rows
//
// All is in an unnamed namespace: every file that includes this is compiled for another processor and must
// keep its own copy.

#include <cstddef>
#include <cstdint>

#include <dartquant/core/tile_product.hpp>

namespace dartquant::cpu {
namespace {

constexpr std::int64_t block_rows = 256;   // of A
constexpr std::int64_t block_depth = 256;  // the same everywhere: sums are rounded at its ends
constexpr std::int64_t direct_panels = 2;  // of A, up to which B is not worth packing

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

/// `total` shared out over the fewest parts of at most `most`: the first `longer` have one more than `least`.
struct Shares {
  std::int64_t parts, least, longer;

  Shares(std::int64_t total, std::int64_t most)
      : parts((total + most - 1) / most),
        least(parts > 0 ? total / parts : 0),
        longer(total - parts * least) {}
  [[nodiscard]] std::int64_t first(std::int64_t part) const { return part * least + smaller(part, longer); }
  [[nodiscard]] std::int64_t size(std::int64_t part) const { return least + (part < longer ? 1 : 0); }
};

/// to[k * width + i] = from[k * step + i] for i < count, else 0. Whole rows at a time: they may be pages
/// apart.
template <class Set, int width>
void pack_along(typename Set::Value const* from, std::int64_t step, std::int64_t count, std::int64_t depth,
                typename Set::Value* to) {
  typename Set::Mask const first = Set::mask(count),
                           second = Set::mask(count > Set::lanes ? count - Set::lanes : 0);
  for (std::int64_t k = 0; k < depth; ++k, from += step, to += width) {
    Set::store(to, Set::load(from, first));
    if constexpr (width > Set::lanes) Set::store(to + Set::lanes, Set::load(from + Set::lanes, second));
  }
}

/// to[k * width + i] = from[i * step + k] for i < count; up to a multiple of `square` the last one is
/// repeated.
template <class Set, int width>
void pack_across(typename Set::Value const* from, std::int64_t step, std::int64_t count, std::int64_t depth,
                 typename Set::Value* to) {
  constexpr int n = Set::square;
  for (std::int64_t first = 0; first < count; first += n) {
    typename Set::Value const* rows[n];
    for (int i = 0; i < n; ++i) rows[i] = from + smaller(first + i, count - 1) * step;
    typename Set::Value* at = to + first;
    std::int64_t k = 0;
    for (; k + n <= depth; k += n, at += n * width) {
      Set::transpose(rows, at, width);
      for (int i = 0; i < n; ++i) rows[i] += n;
    }
    for (; k < depth; ++k, at += width)
      for (int i = 0; i < n; ++i) at[i] = *rows[i]++;
  }
}

/// A panel of `count` rows of A or columns of B: the elements of one depth are `across` apart.
template <class Set, int width>
void pack(typename Set::Value const* from, std::int64_t across, std::int64_t along, std::int64_t count,
          std::int64_t depth, typename Set::Value* to) {
  if (across == 1) pack_along<Set, width>(from, along, count, depth, to);
  else pack_across<Set, width>(from, across, count, depth, to);
}

/// What a panel of A and one of B do to C [R, count].
template <class T>
struct PanelProduct {
  std::int64_t depth, count;
  T const* a;
  T const* b;
  std::int64_t b_step;
  T alpha, beta;
  T* c;
  std::int64_t c_row;
};

/// R rows and N vectors of columns, the last of which may be in part.
template <class Set, int R, int N>
[[gnu::noinline]] void multiply_panel(PanelProduct<typename Set::Value> const& p) {
  using Vector = typename Set::Vector;
  auto const* a = p.a;
  auto const* b = p.b;
  std::int64_t const b_step = p.b_step;
  for (int r = 0; r < R; ++r) {
    __builtin_prefetch(p.c + r * p.c_row, 1);
    __builtin_prefetch(p.c + r * p.c_row + N * Set::lanes - 1, 1);
  }
  Vector sums[R][N];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) sums[r][n] = Set::zero();
  for (std::int64_t k = p.depth; k > 0; --k, a += Set::a_step, b += b_step) {
    Vector columns[N];
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) columns[n] = Set::load(b + n * Set::lanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      Vector const value = Set::set(a[r]);
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) sums[r][n] = Set::fma(value, columns[n], sums[r][n]);
    }
  }
  Vector const alpha = Set::set(p.alpha), beta = Set::set(p.beta);
  std::int64_t const last = p.count - (N - 1) * Set::lanes;
  typename Set::Mask const mask = Set::mask(last);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) {
      auto* const c = p.c + r * p.c_row + n * Set::lanes;
      bool const whole = n + 1 < N || last == Set::lanes;
      Vector value = Set::mul(alpha, sums[r][n]);
      if (p.beta != 0)
        value = Set::fma(alpha, sums[r][n], Set::mul(beta, whole ? Set::load(c) : Set::load(c, mask)));
      if (whole) Set::store(c, value);
      else Set::store(c, mask, value);
    }
}

template <class T>
using Multiply = void (*)(PanelProduct<T> const&);

template <class Set, int N, int R = Set::rows>
Multiply<typename Set::Value> panel_of(std::int64_t rows) {
  if constexpr (R > 1)
    if (rows < R) return panel_of<Set, N, R - 1>(rows);
  return multiply_panel<Set, R, N>;
}

template <class Set>
std::size_t tile_scratch(std::int64_t rows, std::int64_t depth) {
  std::int64_t const panels = (smaller(rows, block_rows) + Set::rows - 1) / Set::rows;
  return static_cast<std::size_t>((panels * Set::a_step + 2 * Set::lanes) * smaller(depth, block_depth)) *
         sizeof(typename Set::Value);
}

/// Rows [row, row + height) of C, depths [first, first + depth).
template <class Set>
void multiply_block(TileProduct<typename Set::Value> const& p, std::int64_t row, std::int64_t height,
                    std::int64_t first, std::int64_t depth) {
  using T = typename Set::Value;
  constexpr std::int64_t width = 2 * Set::lanes;
  Shares const panels(height, Set::rows);
  std::int64_t const panel_size = Set::a_step * depth;
  auto* const packed_a = reinterpret_cast<T*>(p.scratch);
  T* const packed_b = packed_a + panels.parts * panel_size;
  for (std::int64_t panel = 0; panel < panels.parts; ++panel)
    pack<Set, Set::a_step>(p.a + (row + panels.first(panel)) * p.a_row + first * p.a_depth, p.a_row,
                           p.a_depth, panels.size(panel), depth, packed_a + panel * panel_size);
  Multiply<T> const whole[2] = {panel_of<Set, 2>(panels.least), panel_of<Set, 2>(panels.least + 1)};
  Multiply<T> const half[2] = {panel_of<Set, 1>(panels.least), panel_of<Set, 1>(panels.least + 1)};
  T const beta = first == 0 ? p.beta : T(1);
  for (std::int64_t col = 0; col < p.cols; col += width) {
    std::int64_t const count = smaller(width, p.cols - col);
    T const* b = p.b + first * p.b_depth + col * p.b_col;
    std::int64_t b_step = p.b_depth;
    if (p.b_col != 1 || panels.parts > direct_panels || count < width) {
      pack<Set, width>(b, p.b_col, p.b_depth, count, depth, packed_b);
      b = packed_b;
      b_step = width;
    }
    Multiply<T> const* const multiply = count > Set::lanes ? whole : half;
    for (std::int64_t panel = 0; panel < panels.parts; ++panel)
      multiply[panel < panels.longer ? 1 : 0]({depth, count, packed_a + panel * panel_size, b, b_step,
                                               p.alpha, beta,
                                               p.c + (row + panels.first(panel)) * p.c_row + col, p.c_row});
  }
}

template <class Set>
void multiply_tile(TileProduct<typename Set::Value> const* product) {
  TileProduct<typename Set::Value> const p = *product;
  Shares const slices(p.depth, block_depth), blocks(p.rows, block_rows);
  for (std::int64_t block = 0; block < blocks.parts; ++block) {
    std::int64_t slice = 0;
    do
      multiply_block<Set>(p, blocks.first(block), blocks.size(block), slices.first(slice),
                          slices.size(slice));
    while (++slice < slices.parts);  // once where there is no depth: C takes its factor
  }
}

}  // namespace
}  // namespace dartquant::cpu
