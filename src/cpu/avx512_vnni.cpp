// SPDX-License-Identifier: Apache-2.0
// Products with 512-bit registers and vpdpbusd, which adds four products of unsigned and signed bytes to each
// of 16 sums: one register of weights holds 4 input channels of the 16 outputs of a panel.

#include "cpu/avx512_products.hpp"
#include "cpu/avx512_tile.hpp"
#include "cpu/avx512_unpack.hpp"
#include "cpu/prefetch.hpp"

namespace dartquant::cpu {
namespace {

// ---- few rows: the weights are streamed from memory once -----------------------------------------------

constexpr std::int64_t streamed_rows = 8;    // of a pass over packed lines
constexpr std::int64_t streamed_passes = 3;  // more take longer than unpacking the lines once

/// The nibbles of a line as bytes 0..15.
inline __m512i low_nibbles(__m512i line) { return _mm512_and_si512(line, _mm512_set1_epi8(15)); }
inline __m512i high_nibbles(__m512i line) { return low_nibbles(_mm512_srli_epi16(line, 4)); }

/// `rows` rows times `panels` panels side by side, which share what is loaded of x. Few products at a time
/// need two sums each, of low and of high nibbles, to hide the latency of an addition.
template <int rows, int panels>
void stream_panels(Product const& p, std::int64_t panel) {
  constexpr int chains = rows * panels < 6 ? 2 : 1;
  __m512 totals[rows][panels];
  for (auto& row : totals)
    for (__m512& total : row) total = _mm512_setzero_ps();
  std::int8_t const* x = p.x;
  bool const symmetric = p.w.zero_points == nullptr;
  for (std::int64_t group = 0; group < p.w.groups; ++group) {
    Group g[panels];
    for (int k = 0; k < panels; ++k) g[k] = group_of(p.w, panel + k, group);
    __m512i sums[rows][panels][chains];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
      for (int k = 0; k < panels; ++k) {
        sums[r][k][chains - 1] = _mm512_setzero_si512();
        sums[r][k][0] = _mm512_set1_epi32(symmetric ? -8 * p.x_sums[r * p.w.groups + group] : 0);
      }
    for (std::int64_t line = 0; line < g[0].count; ++line) {
      __m512i low[panels], high[panels];
#pragma GCC unroll 2
      for (int k = 0; k < panels; ++k) {
        fetch_ahead<rows>(g[k].lines + 64 * line, line);
        __m512i const both = _mm512_load_si512(g[k].lines + 64 * line);
        low[k] = low_nibbles(both);
        high[k] = high_nibbles(both);
      }
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        std::int8_t const* const at = x + r * p.x_stride + 8 * line;
        __m512i const left = broadcast_word(at), right = broadcast_word(at + 4);
#pragma GCC unroll 2
        for (int k = 0; k < panels; ++k) {
          sums[r][k][0] = _mm512_dpbusd_epi32(sums[r][k][0], low[k], left);
          sums[r][k][chains - 1] = _mm512_dpbusd_epi32(sums[r][k][chains - 1], high[k], right);
        }
      }
    }
    x += 8 * g[0].count;
#pragma GCC unroll 2
    for (int k = 0; k < panels; ++k) {
      fetch_ahead<rows>(g[k].scales, 1);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        __m512i const sum =
            chains == 1 ? sums[r][k][0] : _mm512_add_epi32(sums[r][k][0], sums[r][k][chains - 1]);
        totals[r][k] = add_group(p, r, group, g[k].index, g[k].scales, sum, totals[r][k], symmetric);
      }
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int k = 0; k < panels; ++k) finish(p, r, panel + k, totals[r][k]);
}

template <int panels>
void stream_rows_of(Product const& p, std::int64_t panel) {
  switch (p.rows) {
    case 1:
      return stream_panels<1, panels>(p, panel);
    case 2:
      return stream_panels<2, panels>(p, panel);
    case 3:
      return stream_panels<3, panels>(p, panel);
    case 4:
      return stream_panels<4, panels>(p, panel);
    case 5:
      return stream_panels<5, panels>(p, panel);
    case 6:
      return stream_panels<6, panels>(p, panel);
    case 7:
      return stream_panels<7, panels>(p, panel);
    default:
      return stream_panels<8, panels>(p, panel);
  }
}

/// `count` rows of a product from `first` on.
Product rows_of(Product p, std::int64_t first, std::int64_t count) {
  p.x += first * p.x_stride;
  p.rows = count;
  p.x_sums += first * p.w.groups;
  if (p.x_zero_points != nullptr) p.x_zero_points += first * p.w.groups;
  p.x_scales += first * p.x_scale_stride;
  p.y += first * p.y_stride;
  return p;
}

/// Passes over each panel in turn, of nearly equal numbers of rows: only the first one waits for memory.
void stream_rows(Product const& p) {
  std::int64_t const count = (p.rows - 1) / streamed_rows + 1;
  Product passes[streamed_passes];
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t const first = p.rows * i / count;
    passes[i] = rows_of(p, first, p.rows * (i + 1) / count - first);
  }
  std::int64_t panel = 0;
  if (p.rows > 2)  // fewer leave memory the bound, which likes one stream better than two
    for (; panel + 2 <= p.w.count; panel += 2)
      for (std::int64_t i = 0; i < count; ++i) stream_rows_of<2>(passes[i], panel);
  for (; panel < p.w.count; ++panel)
    for (std::int64_t i = 0; i < count; ++i) stream_rows_of<1>(passes[i], panel);
}

// ---- many rows: the weights are unpacked once per chunk, tiles of rows pass over them ------------------

constexpr std::int64_t most_tiles = (row_block - 1) / tile_rows + 1;
constexpr std::int64_t most_starts = 256;

/// The parts of the scratch.
struct Scratch {
  /// The chunk that is multiplied and the one that is unpacked, see Unpacker.
  alignas(64) std::uint8_t weights[2][(2 * chunk_lines + chunk_pieces) * tile_panels * 64];
  alignas(64) float totals[most_tiles][tile_rows][tile_panels][16];
  /// Of the last group, which may go on in the next chunk.
  alignas(64) std::int32_t sums[most_tiles][tile_rows][tile_panels][16];
  /// -8 times the sums of x: of all groups of the product if they fit, else of the pieces of the chunk.
  alignas(64) std::int32_t starts[most_tiles][most_starts][tile_rows];
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
  std::uint8_t const* weights;  ///< of the chunk, unpacked
  std::int64_t panel;           ///< the first
  bool first, last;             ///< the chunk is the first one, the last one of its panels
  std::int64_t start;           ///< the number of the first piece among the starts
  Unpacker* next;               ///< of the chunk to come
};

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

/// finish for the totals of a tile; x whose scales are per group has 1 left.
template <int rows, int panels>
inline __attribute__((always_inline)) void write_tile(Product const& p, std::int64_t row, std::int64_t panel,
                                                      __m512 (&total)[rows][panels]) {
  float const one = 1.0f;
  float const* const scales = p.scales_per_group ? &one : p.x_scales + row * p.x_scale_stride;
  std::int64_t const step = p.scales_per_group ? 0 : p.x_scale_stride;
  float* const y = p.y + row * p.y_stride + 16 * panel;
  __m512 bias[panels];
  __mmask16 mask[panels];
#pragma GCC unroll 2
  for (int k = 0; k < panels; ++k) {
    mask[k] = columns(p.cols, panel + k);
    bias[k] =
        p.bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask[k], p.bias + 16 * (panel + k));
  }
  for_each_sum<rows, panels>([&](int r, int k) {
    total[r][k] = _mm512_fmadd_ps(total[r][k], _mm512_set1_ps(scales[r * step]), bias[k]);
  });
  bool const whole = mask[panels - 1] == 0xFFFF;
  if (whole)
    for_each_sum<rows, panels>(
        [&](int r, int k) { _mm512_storeu_ps(y + r * p.y_stride + 16 * k, total[r][k]); });
  else
    for_each_sum<rows, panels>(
        [&](int r, int k) { _mm512_mask_storeu_ps(y + r * p.y_stride + 16 * k, mask[k], total[r][k]); });
}

/// One tile of rows over the chunk.
template <int rows, int panels, Form form>
inline __attribute__((always_inline)) void multiply_tile(Pass const& pass, std::int64_t tile,
                                                         std::int64_t row) {
  Product const& p = *pass.p;
  Scratch& scratch = *pass.scratch;
  bool const started = form == Form::plain || p.w.zero_points == nullptr;
  std::int64_t const stride = p.x_stride;
  std::uint8_t const* weights = pass.weights;
  std::int8_t const* x = p.x + row * stride + pass.chunk->channel;
  std::int32_t const(*const starts)[tile_rows] = scratch.starts[tile] + pass.start;
  Unpacker next = *pass.next;
  __m512i sum[rows][panels];
  __m512 total[rows][panels];
  if (pass.first) for_each_sum<rows, panels>([&](int r, int k) { total[r][k] = _mm512_setzero_ps(); });
  else
    for_each_sum<rows, panels>(
        [&](int r, int k) { total[r][k] = _mm512_load_ps(scratch.totals[tile][r][k]); });
  for (std::int64_t i = 0; i < pass.chunk->count; ++i) {
    Piece const& piece = pass.chunk->pieces[i];
    if (!piece.begins)
      for_each_sum<rows, panels>(
          [&](int r, int k) { sum[r][k] = _mm512_load_si512(scratch.sums[tile][r][k]); });
    else if (started)
      for_each_sum<rows, panels>([&](int r, int k) { sum[r][k] = broadcast_word(starts[i] + r); });
    else for_each_sum<rows, panels>([&](int r, int k) { sum[r][k] = _mm512_setzero_si512(); });
    for (std::int64_t left = piece.lines; left > 0; left -= line_step) {
      std::int64_t const lines = left < line_step ? left : line_step;
#pragma GCC unroll 6
      for (int r = 0; r < rows; ++r) _mm_prefetch(x + (rows + r) * stride, _MM_HINT_T0);  // of the next tile
      next.step();
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
  if (pass.last) write_tile<rows, panels>(p, row, pass.panel, total);
  else
    for_each_sum<rows, panels>(
        [&](int r, int k) { _mm512_store_ps(scratch.totals[tile][r][k], total[r][k]); });
  *pass.next = next;
}

template <int panels, Form form>
void multiply_rows(Pass const& pass, std::int64_t tile, std::int64_t row, std::int64_t rows) {
  if (rows == 6) multiply_tile<6, panels, form>(pass, tile, row);
  else if (rows == 5) multiply_tile<5, panels, form>(pass, tile, row);
  else multiply_tile<4, panels, form>(pass, tile, row);  // tiles are of equal heights, of more than 8 rows
}

/// The rows of a product in tiles of nearly equal heights.
struct Tiles {
  std::int64_t count, height, taller;
  explicit Tiles(std::int64_t rows)
      : count((rows - 1) / tile_rows + 1), height(rows / count), taller(rows % count) {}
  [[nodiscard]] std::int64_t rows(std::int64_t tile) const { return height + (tile < taller ? 1 : 0); }
};

/// starts[tile][i][r] = -8 x_sums[row r of the tile, first + i].
void prepare_starts(Product const& p, std::int64_t first, std::int64_t count, Scratch& scratch) {
  Tiles const tiles(p.rows);
  std::int64_t row = 0;
  for (std::int64_t tile = 0; tile < tiles.count; row += tiles.rows(tile), ++tile)
    for (std::int64_t r = 0; r < tiles.rows(tile); ++r)
      for (std::int64_t i = 0; i < count; ++i)
        scratch.starts[tile][i][r] = -8 * p.x_sums[(row + r) * p.w.groups + first + i];
}

/// One chunk of one or two panels.
struct Part {
  std::int64_t panel;
  Chunk chunk;
  bool first, last;
};

/// All parts of a product, one after the other.
struct Parts {
  Panels const& w;
  std::int64_t panel = 0;
  Position at;

  [[nodiscard]] std::int64_t panels(std::int64_t of) const { return of + 2 <= w.count ? 2 : 1; }
  /// False behind the last one.
  bool next(Part& part) {
    if (at.group == w.groups) {
      panel += 2;
      at = Position{};
    }
    if (panel >= w.count) return false;
    part.panel = panel;
    part.first = at.group == 0 && at.line == 0;
    part.chunk = next_chunk(w, at, chunk_lines);
    part.last = at.group == w.groups;
    return true;
  }
};

/// All rows of one part; the lines of the next one are unpacked on the way.
template <int panels, Form form>
void multiply_part(Pass const& pass) {
  Product const& p = *pass.p;
  Tiles const tiles(p.rows);
  std::int64_t row = 0;
  for (std::int64_t tile = 0; tile < tiles.count; ++tile) {
    std::int64_t const rows = tiles.rows(tile);
    if (pass.last) prefetch_rows(p, pass.panel, panels, row, rows);
    multiply_rows<panels, form>(pass, tile, row, rows);
    row += rows;
  }
}

template <Form form>
void multiply_blocks(Product const& p) {
  auto& scratch = *reinterpret_cast<Scratch*>(p.scratch);
  bool const starts_fit = p.w.groups <= most_starts;
  if (starts_fit) prepare_starts(p, 0, p.w.groups, scratch);
  Parts parts{p.w, 0, {}};
  Part both[2];
  int current = 0;
  Unpacker unpacker;
  bool more = parts.next(both[0]);
  unpacker.start(p.w, 0, parts.panels(0), both[0].chunk, scratch.weights[0]);
  unpacker.finish();
  while (more) {
    Part const& part = both[current];
    Part& to_come = both[1 - current];
    std::int64_t const first = part.chunk.pieces[0].group;
    if (!starts_fit) prepare_starts(p, first, part.chunk.count, scratch);
    more = parts.next(to_come);
    if (more)
      unpacker.start(p.w, to_come.panel, parts.panels(to_come.panel), to_come.chunk,
                     scratch.weights[1 - current]);
    Unpacker nothing, &meanwhile = more && parts.panels(to_come.panel) == 2 ? unpacker : nothing;
    Pass const pass{&p,         &part.chunk, &scratch,  scratch.weights[current],
                    part.panel, part.first,  part.last, starts_fit ? first : 0,
                    &meanwhile};
    if (parts.panels(part.panel) == 2) multiply_part<2, form>(pass);
    else multiply_part<1, form>(pass);
    if (more) unpacker.finish();
    current = 1 - current;
  }
}

void multiply(Product const* p) {
  if (p->rows <= streamed_passes * streamed_rows) return stream_rows(*p);
  bool const plain = p->w.zero_points == nullptr && p->x_zero_points == nullptr && !p->scales_per_group;
  if (plain) multiply_blocks<Form::plain>(*p);
  else multiply_blocks<Form::corrected>(*p);
}

}  // namespace

ProductKernels const avx512_vnni_products{multiply};

}  // namespace dartquant::cpu
