// SPDX-License-Identifier: Apache-2.0
// The int32 tensors of GPTQ and AWQ checkpoints to and from the plain row-major form. Both are stored
// transposed, [in, out]; they differ in what shares a word of weights, inputs (GPTQ) or outputs (AWQ), and in
// the order and the offset of zero points.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include <dartquant/kernels.h>

#include "cpu/formats.hpp"
#include "cpu/status.hpp"

namespace dartquant::cpu {
namespace {

/// What both formats store beside the weights.
struct Beside {
  std::int32_t* qzeros;            ///< [groups, rows / 8]
  dartquant_matrix const* scales;  ///< [groups, rows]
  int const* shifts;               ///< of the nibble of each of 8 outputs
  std::uint32_t offset;            ///< stored nibble = (zero point - offset) mod 16
};

constexpr int gptq_shifts[8] = {0, 4, 8, 12, 16, 20, 24, 28};
constexpr int awq_outputs[8] = {0, 2, 4, 6, 1, 3, 5, 7};      // of the nibbles of a word
constexpr int awq_shifts[8] = {0, 16, 4, 20, 8, 24, 12, 28};  // the inverse

Beside beside(dartquant_gptq const& gptq) {
  return {gptq.qzeros, &gptq.scales, gptq_shifts, gptq.version == dartquant_gptq_v1 ? 1u : 0u};
}
Beside beside(dartquant_awq const& awq) { return {awq.qzeros, &awq.scales, awq_shifts, 0}; }

std::uint32_t stored_zero(Beside const& b, dartquant_quantized const& q, std::int64_t row,
                          std::int64_t group) {
  auto const word = static_cast<std::uint32_t>(b.qzeros[group * (q.rows / 8) + row / 8]);
  return ((word >> b.shifts[row % 8]) + b.offset) & 15;
}

/// Every stored zero point is that of a symmetric code.
bool zeros_are_symmetric(Beside const& b, dartquant_quantized const& q) {
  auto const eight = static_cast<std::int32_t>(((8 - b.offset) & 15) * 0x11111111u);
  return std::all_of(b.qzeros, b.qzeros + groups_of(q) * (q.rows / 8),
                     [&](std::int32_t word) { return word == eight; });
}

/// Whether the scales are finite as stored.
bool write_beside(Beside const& b, dartquant_quantized const& q, Share rows) {
  bool finite = true;
  for (std::int64_t first = rows.first; first < rows.last; first += 8)
    for (std::int64_t g = 0; g < groups_of(q); ++g) {
      std::uint32_t word = 0;
      for (std::int64_t t = 0; t < 8; ++t) {
        finite = store_value(*b.scales, g, first + t, q.scales[(first + t) * q.scale_stride + g]) && finite;
        word |= ((zero_code(q, first + t, g) - b.offset) & 15) << b.shifts[t];
      }
      b.qzeros[g * (q.rows / 8) + first / 8] = static_cast<std::int32_t>(word);
    }
  return finite;
}

bool read_beside(Beside const& b, dartquant_quantized const& q, Share rows) {
  bool finite = true;
  for (std::int64_t i = rows.first; i < rows.last; ++i)
    for (std::int64_t g = 0; g < groups_of(q); ++g) {
      float const scale = load_value(*b.scales, g, i);
      q.scales[i * q.scale_stride + g] = scale;
      finite = finite && std::isfinite(scale);
      if (q.symmetry == dartquant_asymmetric)
        q.zero_points[i * q.zero_point_stride + g] = static_cast<std::int32_t>(stored_zero(b, q, i, g));
    }
  return finite;
}

template <class Tensors>
void check_tensors(Checks& checks, Tensors const* tensors, dartquant_quantized const* q, std::int64_t part,
                   std::int64_t parts) {
  check(checks, q);
  checks.pointer(tensors, alignof(Tensors), dartquant_arg_packed);
  if (!checks.ok()) return;
  checks.require(q->bits == 4, dartquant_arg_bits, dartquant_unsupported);
  checks.require(q->rows % 8 == 0, dartquant_arg_rows, dartquant_bad_size);
  if (!checks.ok()) return;
  // qweight has the bytes of the levels and qzeros fewer than the scales, whose spans were checked
  checks.pointer(tensors->qweight, alignof(std::int32_t), dartquant_arg_packed);
  checks.pointer(tensors->qzeros, alignof(std::int32_t), dartquant_arg_zero_points);
  if (!checks.ok()) return;
  check(checks, &tensors->scales, dartquant_arg_scales);
  checks.require(tensors->scales.rows == groups_of(*q) && tensors->scales.cols == q->rows,
                 dartquant_arg_scales, dartquant_bad_size);
  checks.part(part, parts);
}

void check_gptq(Checks& checks, dartquant_gptq const* gptq, dartquant_quantized const* q, std::int64_t part,
                std::int64_t parts) {
  check_tensors(checks, gptq, q, part, parts);
  if (!checks.ok()) return;
  checks.require(q->cols % 8 == 0, dartquant_arg_cols, dartquant_bad_size);
  std::int32_t const version = number_of(gptq->version);
  checks.require(version == dartquant_gptq_v1 || version == dartquant_gptq_v2, dartquant_arg_packed,
                 dartquant_unsupported);
  checks.require(aligned(gptq->g_idx, alignof(std::int32_t)), dartquant_arg_order, dartquant_misaligned);
}

void check_awq(Checks& checks, dartquant_awq const* awq, dartquant_quantized const* q, std::int64_t part,
               std::int64_t parts) {
  check_tensors(checks, awq, q, part, parts);
  if (checks.ok()) checks.require(q->cols % group_width(*q) == 0, dartquant_arg_group, dartquant_bad_size);
}

/// What the data must hold before anything is written.
void check_written(Checks& checks, dartquant_quantized const* q) {
  if (checks.ok()) checks.require(zero_points_in_range(*q), dartquant_arg_zero_points, dartquant_bad_value);
}
void check_read(Checks& checks, Beside const& b, dartquant_quantized const& q) {
  if (q.symmetry == dartquant_symmetric)
    checks.require(zeros_are_symmetric(b, q), dartquant_arg_zero_points, dartquant_bad_value);
}

bool order_is_plain(dartquant_gptq const& gptq, dartquant_quantized const& q) {
  if (gptq.g_idx == nullptr) return true;
  for (std::int64_t j = 0; j < q.cols; ++j)
    if (gptq.g_idx[j] != j / group_width(q)) return false;
  return true;
}

dartquant_status finished(bool finite) {
  return finite ? 0 : status(dartquant_arg_scales, dartquant_not_finite);
}

// Both formats are transposes. They are turned around in tiles, so that whole cache lines of one side are
// read for whole lines of the other.

constexpr std::int64_t tile_words = 16;

/// Calls visit(first row, rows, first word, words) for tiles of at most `height` rows.
template <class Visit>
void for_each_tile(dartquant_quantized const& q, Share rows, std::int64_t height, Visit const& visit) {
  for (std::int64_t i = rows.first; i < rows.last; i += height)
    for (std::int64_t k = 0; k < words_of_row(q); k += tile_words)
      visit(i, std::min(height, rows.last - i), k, std::min(tile_words, words_of_row(q) - k));
}

constexpr std::int64_t gptq_rows = 16;

/// Words of `rows` rows to or from qweight [cols / 8, rows of q].
void write_tile(dartquant_quantized const& q, std::int32_t* qweight, std::int64_t row, std::int64_t rows,
                std::int64_t first, std::int64_t words) {
  std::uint32_t line[tile_words], turned[tile_words][gptq_rows];
  for (std::int64_t r = 0; r < rows; ++r) {
    load_words(q, row + r, first, words, line);
    for (std::int64_t k = 0; k < words; ++k) turned[k][r] = line[k];
  }
  for (std::int64_t k = 0; k < words; ++k)
    std::memcpy(qweight + (first + k) * q.rows + row, turned[k], static_cast<std::size_t>(rows) * 4);
}
void read_tile(std::int32_t const* qweight, dartquant_quantized const& q, std::int64_t row, std::int64_t rows,
               std::int64_t first, std::int64_t words) {
  std::uint32_t line[tile_words], turned[tile_words][gptq_rows];
  for (std::int64_t k = 0; k < words; ++k)
    std::memcpy(turned[k], qweight + (first + k) * q.rows + row, static_cast<std::size_t>(rows) * 4);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t k = 0; k < words; ++k) line[k] = turned[k][r];
    store_words(q, row + r, first, words, line);
  }
}

constexpr std::int64_t awq_rows = 64;
using Nibbles = std::uint32_t[8][tile_words];

/// Swaps the upper part of the words of row i with the lower part of those of row j.
void swap_parts(Nibbles& a, int i, int j, int shift, std::uint32_t lower) {
  for (std::int64_t k = 0; k < tile_words; ++k) {
    std::uint32_t const change = (a[i][k] >> shift ^ a[j][k]) & lower;
    a[j][k] ^= change;
    a[i][k] ^= change << shift;
  }
}
/// Nibble s of word t becomes nibble t of word s, for each of tile_words squares of 8 by 8.
void turn(Nibbles& a) {
  for (int const i : {0, 1, 2, 3}) swap_parts(a, i, i + 4, 16, 0x0000FFFFu);
  for (int const i : {0, 1, 4, 5}) swap_parts(a, i, i + 2, 8, 0x00FF00FFu);
  for (int const i : {0, 2, 4, 6}) swap_parts(a, i, i + 1, 4, 0x0F0F0F0Fu);
}

/// Words of `rows` rows to or from qweight [cols, rows of q / 8].
void write_tile(dartquant_quantized const& q, dartquant_awq const& awq, std::int64_t row, std::int64_t rows,
                std::int64_t first, std::int64_t words) {
  std::uint32_t turned[8 * tile_words][awq_rows / 8];
  for (std::int64_t b = 0; b < rows / 8; ++b) {
    Nibbles a = {};
    for (int s = 0; s < 8; ++s) load_words(q, row + 8 * b + awq_outputs[s], first, words, a[s]);
    turn(a);
    for (std::int64_t k = 0; k < words; ++k)
      for (int t = 0; t < 8; ++t) turned[8 * k + t][b] = a[t][k];
  }
  std::int64_t const channels = std::min(8 * words, q.cols - 8 * first);
  for (std::int64_t j = 0; j < channels; ++j)
    std::memcpy(awq.qweight + (8 * first + j) * (q.rows / 8) + row / 8, turned[j],
                static_cast<std::size_t>(rows) / 2);
}
void read_tile(dartquant_awq const& awq, dartquant_quantized const& q, std::int64_t row, std::int64_t rows,
               std::int64_t first, std::int64_t words) {
  std::uint32_t turned[8 * tile_words][awq_rows / 8] = {};
  std::int64_t const channels = std::min(8 * words, q.cols - 8 * first);
  for (std::int64_t j = 0; j < channels; ++j)
    std::memcpy(turned[j], awq.qweight + (8 * first + j) * (q.rows / 8) + row / 8,
                static_cast<std::size_t>(rows) / 2);
  for (std::int64_t b = 0; b < rows / 8; ++b) {
    Nibbles a = {};
    for (std::int64_t k = 0; k < words; ++k)
      for (int t = 0; t < 8; ++t) a[t][k] = turned[8 * k + t][b];
    turn(a);
    for (int s = 0; s < 8; ++s) store_words(q, row + 8 * b + awq_outputs[s], first, words, a[s]);
  }
}

}  // namespace
}  // namespace dartquant::cpu

using namespace dartquant::cpu;

dartquant_status dartquant_to_gptq(dartquant_quantized const* q, dartquant_gptq const* gptq,
                                   std::int64_t part, std::int64_t parts) {
  Checks checks;
  check_gptq(checks, gptq, q, part, parts);
  check_written(checks, q);
  if (!checks.ok()) return checks.result();
  Share const rows = share_rows(q->rows, part, parts);
  for_each_tile(*q, rows, gptq_rows, [&](auto... tile) { write_tile(*q, gptq->qweight, tile...); });
  if (gptq->g_idx != nullptr && part == 0)
    for (std::int64_t j = 0; j < q->cols; ++j)
      gptq->g_idx[j] = static_cast<std::int32_t>(j / group_width(*q));
  return finished(write_beside(beside(*gptq), *q, rows));
}

dartquant_status dartquant_from_gptq(dartquant_gptq const* gptq, dartquant_quantized const* q,
                                     std::int64_t part, std::int64_t parts) {
  Checks checks;
  check_gptq(checks, gptq, q, part, parts);
  if (!checks.ok()) return checks.result();
  checks.require(order_is_plain(*gptq, *q), dartquant_arg_order, dartquant_unsupported);
  check_read(checks, beside(*gptq), *q);
  if (!checks.ok()) return checks.result();
  Share const rows = share_rows(q->rows, part, parts);
  for_each_tile(*q, rows, gptq_rows, [&](auto... tile) { read_tile(gptq->qweight, *q, tile...); });
  return finished(read_beside(beside(*gptq), *q, rows));
}

dartquant_status dartquant_to_awq(dartquant_quantized const* q, dartquant_awq const* awq, std::int64_t part,
                                  std::int64_t parts) {
  Checks checks;
  check_awq(checks, awq, q, part, parts);
  check_written(checks, q);
  if (!checks.ok()) return checks.result();
  Share const rows = share_rows(q->rows, part, parts);
  for_each_tile(*q, rows, awq_rows, [&](auto... tile) { write_tile(*q, *awq, tile...); });
  return finished(write_beside(beside(*awq), *q, rows));
}

dartquant_status dartquant_from_awq(dartquant_awq const* awq, dartquant_quantized const* q, std::int64_t part,
                                    std::int64_t parts) {
  Checks checks;
  check_awq(checks, awq, q, part, parts);
  if (!checks.ok()) return checks.result();
  check_read(checks, beside(*awq), *q);
  if (!checks.ok()) return checks.result();
  Share const rows = share_rows(q->rows, part, parts);
  for_each_tile(*q, rows, awq_rows, [&](auto... tile) { read_tile(*awq, *q, tile...); });
  return finished(read_beside(beside(*awq), *q, rows));
}
