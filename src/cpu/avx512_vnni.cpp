// SPDX-License-Identifier: Apache-2.0
// Products with 512-bit registers and vpdpbusd, which adds four products of unsigned and signed bytes to each
// of 16 sums: one register of weights holds 4 input channels of the 16 outputs of a panel.

#include "cpu/avx512_float.hpp"
#include "cpu/avx512_products.hpp"
#include "cpu/avx512_tile.hpp"

namespace dartquant::cpu {
namespace {

// ---- few rows: the weights are streamed once ----------------------------------------------------------

constexpr std::int64_t most_streamed_rows = 8;
constexpr std::int64_t prefetch_bytes =
    8192;  // what hides the memory's latency without pushing out what is in use

inline void prefetch(void const* at) {
  _mm_prefetch(static_cast<char const*>(at) + prefetch_bytes, _MM_HINT_T0);
}

/// The nibbles of a line as bytes 0..15.
inline __m512i low_nibbles(__m512i line) { return _mm512_and_si512(line, _mm512_set1_epi8(15)); }
inline __m512i high_nibbles(__m512i line) { return low_nibbles(_mm512_srli_epi16(line, 4)); }

/// One panel for `rows` rows: two sums per row, of low and of high nibbles.
template <int rows>
void stream_panel(Product const& p, std::int64_t panel) {
  __m512 totals[rows];
  for (__m512& total : totals) total = _mm512_setzero_ps();
  std::int8_t const* x = p.x;
  bool const symmetric = p.w.zero_points == nullptr;
  for (std::int64_t group = 0; group < p.w.groups; ++group) {
    Group const g = group_of(p.w, panel, group);
    __m512i even[rows], odd[rows];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      even[r] = _mm512_set1_epi32(symmetric ? -8 * p.x_sums[r * p.w.groups + group] : 0);
      odd[r] = _mm512_setzero_si512();
    }
    for (std::int64_t line = 0; line < g.count; ++line) {
      prefetch(g.lines + 64 * line);
      __m512i const both = _mm512_load_si512(g.lines + 64 * line);
      __m512i const low = low_nibbles(both), high = high_nibbles(both);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        std::int8_t const* const at = x + r * p.x_stride + 8 * line;
        even[r] = _mm512_dpbusd_epi32(even[r], low, broadcast_word(at));
        odd[r] = _mm512_dpbusd_epi32(odd[r], high, broadcast_word(at + 4));
      }
    }
    prefetch(g.scales);
    x += 8 * g.count;
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
      totals[r] =
          add_group(p, r, group, g.index, g.scales, _mm512_add_epi32(even[r], odd[r]), totals[r], symmetric);
  }
  for (int r = 0; r < rows; ++r) finish(p, r, panel, totals[r]);
}

template <int rows>
void stream(Product const& p) {
  for (std::int64_t panel = 0; panel < p.w.count; ++panel) stream_panel<rows>(p, panel);
}

void stream_rows(Product const& p) {
  switch (p.rows) {
    case 1:
      return stream<1>(p);
    case 2:
      return stream<2>(p);
    case 3:
      return stream<3>(p);
    case 4:
      return stream<4>(p);
    case 5:
      return stream<5>(p);
    case 6:
      return stream<6>(p);
    case 7:
      return stream<7>(p);
    default:
      return stream<8>(p);
  }
}

// ---- many rows: the weights are unpacked once per chunk, tiles of rows pass over them ------------------

constexpr std::int64_t most_tiles = (row_block - 1) / tile_rows + 1;
constexpr std::int64_t most_starts = 256;

/// The parts of the scratch.
struct Scratch {
  /// For every piece [line][low, high nibbles][panel] and, where it ends its group, the scales [panel].
  alignas(64) std::uint8_t weights[(2 * chunk_lines + chunk_pieces) * tile_panels * 64];
  alignas(64) float totals[most_tiles][tile_rows][tile_panels][16];
  /// Of the last group, which may go on in the next chunk.
  alignas(64) std::int32_t sums[most_tiles][tile_rows][tile_panels][16];
  /// -8 times the sums of x: of all groups of the product if they fit, else of the pieces of the chunk.
  alignas(64) std::int32_t starts[most_starts + 1][row_block];  ///< a tile may read past its last row
};
static_assert(sizeof(Scratch) <= scratch_bytes && chunk_pieces <= most_starts);

/// What one pass of all rows over one chunk works on.
struct Pass {
  Product const* p;
  Chunk const* chunk;
  Scratch* scratch;
  std::int64_t panel;                       ///< the first
  bool last;                                ///< the chunk is the last one
  std::int32_t const (*starts)[row_block];  ///< of the first piece
};

template <int panels>
void unpack(Product const& p, std::int64_t panel, Chunk const& chunk, std::uint8_t* to) {
  for (std::int64_t i = 0; i < chunk.count; ++i) {
    Piece const& piece = chunk.pieces[i];
    Group g[panels];
    for (int k = 0; k < panels; ++k) g[k] = group_of(p.w, panel + k, piece.group);
    for (std::int64_t line = piece.first; line < piece.first + piece.lines; ++line, to += 128 * panels)
      for (int k = 0; k < panels; ++k) {
        __m512i const both = _mm512_load_si512(g[k].lines + line * 64);
        _mm512_store_si512(to + 64 * k, low_nibbles(both));
        _mm512_store_si512(to + 64 * (panels + k), high_nibbles(both));
      }
    if (!piece.ends) continue;
    for (int k = 0; k < panels; ++k, to += 64) _mm512_store_ps(to, _mm512_load_ps(g[k].scales));
  }
}

/// One tile of rows over the chunk. `plain`: symmetric weights, nothing to subtract from x, one scale per
/// row; then a group costs a conversion and an FMA per sum.
template <int rows, int panels, bool plain>
void multiply_tile(Pass const& pass, std::int64_t tile, std::int64_t row) {
  Product const& p = *pass.p;
  Scratch& scratch = *pass.scratch;
  bool const started = plain || p.w.zero_points == nullptr;
  TileArguments a{};
  a.weights = scratch.weights;
  a.x = p.x + row * p.x_stride + pass.chunk->channel;
  a.stride = p.x_stride;
  a.sums = scratch.sums[tile][0][0];
  a.totals = scratch.totals[tile][0][0];
  for (std::int64_t i = 0; i < pass.chunk->count; ++i) {
    Piece const& piece = pass.chunk->pieces[i];
    a.end = a.weights + piece.lines * 128 * panels;
    a.starts = piece.begins && started ? pass.starts[i] + row : nullptr;
    if (piece.begins && !started) std::memset(a.sums, 0, sizeof scratch.sums[0]);
    auto const* const scales = reinterpret_cast<float const*>(a.end);
    a.scales = plain && piece.ends ? scales : nullptr;
    multiply_lines<rows, panels>(a);
    if constexpr (!plain)
      if (piece.ends)
        for (int r = 0; r < rows; ++r)
          for (int k = 0; k < panels; ++k) {
            int const at = 16 * (tile_panels * r + k);
            std::int64_t const index = (pass.panel + k) * p.w.groups + piece.group;
            __m512 const total =
                add_group(p, row + r, piece.group, index, scales + 16 * k, _mm512_load_si512(a.sums + at),
                          _mm512_load_ps(a.totals + at), started);
            _mm512_store_ps(a.totals + at, total);
          }
    a.x += 8 * piece.lines;
    a.weights = a.end + (piece.ends ? 64 * panels : 0);
  }
}

template <int panels, bool plain>
void multiply_rows(Pass const& pass, std::int64_t tile, std::int64_t row, std::int64_t rows) {
  switch (rows) {
    case 12:
      return multiply_tile<12, panels, plain>(pass, tile, row);
    case 11:
      return multiply_tile<11, panels, plain>(pass, tile, row);
    case 10:
      return multiply_tile<10, panels, plain>(pass, tile, row);
    case 9:
      return multiply_tile<9, panels, plain>(pass, tile, row);
    case 8:
      return multiply_tile<8, panels, plain>(pass, tile, row);
    case 7:
      return multiply_tile<7, panels, plain>(pass, tile, row);
    default:  // tiles are of equal heights, and there are more than 8 rows
      return multiply_tile<6, panels, plain>(pass, tile, row);
  }
}

/// starts[i][row] = -8 x_sums[row, first + i].
void prepare_starts(Product const& p, std::int64_t first, std::int64_t count, Scratch& scratch) {
  for (std::int64_t row = 0; row < p.rows; ++row)
    for (std::int64_t i = 0; i < count; ++i)
      scratch.starts[i][row] = -8 * p.x_sums[row * p.w.groups + first + i];
}

/// All rows and channels of `panels` panels.
template <int panels, bool plain>
void multiply_panels(Product const& p, std::int64_t panel, bool starts_fit) {
  auto& scratch = *reinterpret_cast<Scratch*>(p.scratch);
  std::int64_t const tiles = (p.rows - 1) / tile_rows + 1, height = p.rows / tiles, taller = p.rows % tiles;
  std::memset(scratch.totals, 0, static_cast<std::size_t>(tiles) * sizeof scratch.totals[0]);
  for (Position at; at.group < p.w.groups;) {
    Chunk const chunk = next_chunk(p.w, at, chunk_lines);
    unpack<panels>(p, panel, chunk, scratch.weights);
    std::int64_t const first = chunk.pieces[0].group;
    if (!starts_fit) prepare_starts(p, first, chunk.count, scratch);
    Pass const pass{
        &p, &chunk, &scratch, panel, at.group == p.w.groups, scratch.starts + (starts_fit ? first : 0)};
    std::int64_t row = 0;
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      std::int64_t const rows = height + (tile < taller ? 1 : 0);
      if (pass.last) {
        prefetch_rows(p, panel, panels, row, rows);
        prefetch_panels(p, panel + panels, tile_panels, tile, tiles);
      }
      multiply_rows<panels, plain>(pass, tile, row, rows);
      if (pass.last)
        for (std::int64_t r = 0; r < rows; ++r)
          for (int k = 0; k < panels; ++k)
            finish(p, row + r, panel + k, _mm512_load_ps(scratch.totals[tile][r][k]));
      row += rows;
    }
  }
}

template <bool plain>
void multiply_blocks(Product const& p) {
  bool const starts_fit = p.w.groups <= most_starts;
  if (starts_fit) prepare_starts(p, 0, p.w.groups, *reinterpret_cast<Scratch*>(p.scratch));
  std::int64_t panel = 0;
  for (; panel + 2 <= p.w.count; panel += 2) multiply_panels<2, plain>(p, panel, starts_fit);
  if (panel < p.w.count) multiply_panels<1, plain>(p, panel, starts_fit);
}

void multiply(Product const* p) {
  if (p->rows <= most_streamed_rows) return stream_rows(*p);
  bool const plain = p->w.zero_points == nullptr && p->x_zero_points == nullptr && !p->scales_per_group;
  if (plain) multiply_blocks<true>(*p);
  else multiply_blocks<false>(*p);
}

}  // namespace

ProductKernels const avx512_vnni_products{multiply, multiply_float};

}  // namespace dartquant::cpu
