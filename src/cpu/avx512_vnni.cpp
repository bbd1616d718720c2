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
  alignas(64) std::int32_t starts[most_starts][row_block];
};
static_assert(sizeof(Scratch) <= scratch_bytes && chunk_pieces <= most_starts);

constexpr std::int64_t line_step = 8;  // after which the rows of x go on to another cache line

template <int rows, int panels, class Body>
inline __attribute__((always_inline)) void for_each_sum(Body const& body) {
#pragma GCC unroll 6
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int k = 0; k < panels; ++k) body(r, k);
}

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

/// What the end of a group does with its sums, beside the scales of the weights.
enum class Form {
  plain,     ///< nothing: symmetric weights, nothing to subtract from x, one scale per row
  corrected  ///< whatever add_group does
};

/// add_group for the sums of a tile.
template <int rows, int panels>
inline __attribute__((always_inline)) void add_groups(Product const& p, std::int64_t row, std::int64_t panel,
                                                      std::int64_t group, float const* scales, bool started,
                                                      __m512i (&sum)[rows][panels],
                                                      __m512 (&total)[rows][panels]) {
#pragma GCC unroll 2
  for (int k = 0; k < panels; ++k)
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r)
      total[r][k] = add_group(p, row + r, group, (panel + k) * p.w.groups + group, scales + 16 * k, sum[r][k],
                              total[r][k], started);
}

/// One tile of rows over the chunk.
template <int rows, int panels, Form form>
inline __attribute__((always_inline)) void multiply_tile(Pass const& pass, std::int64_t tile,
                                                         std::int64_t row) {
  Product const& p = *pass.p;
  Scratch& scratch = *pass.scratch;
  bool const started = form == Form::plain || p.w.zero_points == nullptr;
  std::int64_t const stride = p.x_stride;
  std::uint8_t const* weights = scratch.weights;
  std::int8_t const* x = p.x + row * stride + pass.chunk->channel;
  __m512i sum[rows][panels];
  __m512 total[rows][panels];
  for_each_sum<rows, panels>([&](int r, int k) { total[r][k] = _mm512_load_ps(scratch.totals[tile][r][k]); });
  for (std::int64_t i = 0; i < pass.chunk->count; ++i) {
    Piece const& piece = pass.chunk->pieces[i];
    if (!piece.begins)
      for_each_sum<rows, panels>(
          [&](int r, int k) { sum[r][k] = _mm512_load_si512(scratch.sums[tile][r][k]); });
    else if (started)
      for_each_sum<rows, panels>([&](int r, int k) { sum[r][k] = broadcast_word(pass.starts[i] + row + r); });
    else for_each_sum<rows, panels>([&](int r, int k) { sum[r][k] = _mm512_setzero_si512(); });
    for (std::int64_t left = piece.lines; left > 0; left -= line_step) {
      std::int64_t const lines = left < line_step ? left : line_step;
#pragma GCC unroll 6
      for (int r = 0; r < rows; ++r) _mm_prefetch(x + (rows + r) * stride, _MM_HINT_T0);  // of the next tile
      add_products<rows, panels>(x, stride, weights, lines, sum);
      weights += lines * 128 * panels;
      x += lines * 8;
    }
    if (!piece.ends) {
      for_each_sum<rows, panels>(
          [&](int r, int k) { _mm512_store_si512(scratch.sums[tile][r][k], sum[r][k]); });
      continue;
    }
    auto const* const scales = reinterpret_cast<float const*>(weights);
    if constexpr (form == Form::plain)
      for_each_sum<rows, panels>([&](int r, int k) {
        total[r][k] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][k]), _mm512_load_ps(scales + 16 * k), total[r][k]);
      });
    else add_groups(p, row, pass.panel, piece.group, scales, started, sum, total);
    weights += 64 * panels;
  }
  for_each_sum<rows, panels>([&](int r, int k) { _mm512_store_ps(scratch.totals[tile][r][k], total[r][k]); });
}

template <int panels, Form form>
void multiply_rows(Pass const& pass, std::int64_t tile, std::int64_t row, std::int64_t rows) {
  if (rows == 6) multiply_tile<6, panels, form>(pass, tile, row);
  else if (rows == 5) multiply_tile<5, panels, form>(pass, tile, row);
  else multiply_tile<4, panels, form>(pass, tile, row);  // tiles are of equal heights, of more than 8 rows
}

/// starts[i][row] = -8 x_sums[row, first + i].
void prepare_starts(Product const& p, std::int64_t first, std::int64_t count, Scratch& scratch) {
  for (std::int64_t row = 0; row < p.rows; ++row)
    for (std::int64_t i = 0; i < count; ++i)
      scratch.starts[i][row] = -8 * p.x_sums[row * p.w.groups + first + i];
}

/// All rows and channels of `panels` panels.
template <int panels, Form form>
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
      multiply_rows<panels, form>(pass, tile, row, rows);
      if (pass.last)
        for (std::int64_t r = 0; r < rows; ++r)
          for (int k = 0; k < panels; ++k)
            finish(p, row + r, panel + k, _mm512_load_ps(scratch.totals[tile][r][k]));
      row += rows;
    }
  }
}

template <Form form>
void multiply_blocks(Product const& p) {
  bool const starts_fit = p.w.groups <= most_starts;
  if (starts_fit) prepare_starts(p, 0, p.w.groups, *reinterpret_cast<Scratch*>(p.scratch));
  std::int64_t panel = 0;
  for (; panel + 2 <= p.w.count; panel += 2) multiply_panels<2, form>(p, panel, starts_fit);
  if (panel < p.w.count) multiply_panels<1, form>(p, panel, starts_fit);
}

void multiply(Product const* p) {
  if (p->rows <= most_streamed_rows) return stream_rows(*p);
  bool const plain = p->w.zero_points == nullptr && p->x_zero_points == nullptr && !p->scales_per_group;
  if (plain) multiply_blocks<Form::plain>(*p);
  else multiply_blocks<Form::corrected>(*p);
}

}  // namespace

ProductKernels const avx512_vnni_products{multiply, multiply_float};

}  // namespace dartquant::cpu
