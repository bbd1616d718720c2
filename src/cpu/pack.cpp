// SPDX-License-Identifier: Apache-2.0
// From the plain row-major form of 4-bit weights to the compute layout and back.

#include <cstdint>
#include <cstring>

#include <dartquant/kernels.h>
#include <dartquant/quant/int4.hpp>

#include "cpu/packed_weights.hpp"
#include "cpu/status.hpp"

namespace dartquant::cpu {
namespace {

PackedHeader header_of(dartquant_weights const& w, PackedShape const& s) {
  return {packed_magic,
          dartquant_layout,
          w.out,
          w.in,
          w.group,
          static_cast<std::uint32_t>(w.symmetry),
          static_cast<std::uint32_t>(w.with_sums),
          static_cast<std::uint64_t>(s.bytes),
          {0, 0}};
}

/// The nibble 0..15 of channel j of a plain row: level + 8 where symmetric.
int nibble_at(std::uint8_t const* row, std::int64_t j, int flip) {
  return (j % 2 == 0 ? uint4_even(row[j / 2]) : uint4_odd(row[j / 2])) ^ flip;
}

// A word of eight nibbles, channels 0 ... 7 of a plain row, and the four bytes of an output of a line,
// channels 0 4 1 5 2 6 3 7: the pairs in the middle change places, first of bytes, then of nibbles.

std::uint32_t swap_middle(std::uint32_t x, int bits, std::uint32_t lower) {
  std::uint32_t const change = (x ^ x >> bits) & lower;
  return x ^ change ^ change << bits;
}
std::uint32_t line_of_row(std::uint32_t x) {
  return swap_middle(swap_middle(x, 8, 0x0000FF00u), 4, 0x00F000F0u);
}
std::uint32_t row_of_line(std::uint32_t x) {
  return swap_middle(swap_middle(x, 4, 0x00F000F0u), 8, 0x0000FF00u);
}
std::int32_t sum_of_nibbles(std::uint32_t x) {
  std::uint32_t const pairs = (x & 0x0F0F0F0Fu) + (x >> 4 & 0x0F0F0F0Fu);
  return static_cast<std::int32_t>(pairs * 0x01010101u >> 24);
}

/// A walk over the groups of a panel.
struct Cell {
  std::int64_t panel, group, first, channels;  ///< the group's first input channel and how many it has
  std::int64_t lines, offset, index;           ///< offset of its lines in the buffer; index of its 16 cells
};

/// Lines all of whose channels exist, in whole bytes of a plain row.
std::int64_t whole_lines(Cell const& cell) { return cell.first % 2 == 0 ? cell.channels / line_channels : 0; }

template <class Visit>
void for_each_group(dartquant_weights const& w, PackedShape const& s, Share panels, Visit const& visit) {
  for (std::int64_t panel = panels.first; panel < panels.last; ++panel)
    for (std::int64_t group = 0; group < s.groups; ++group) {
      std::int64_t const first = group * s.width;
      std::int64_t const channels = group + 1 < s.groups ? s.width : w.in - first;
      visit(Cell{panel, group, first, channels, group + 1 < s.groups ? s.lines : s.last_lines,
                 line_bytes + panel * s.panel_bytes + group * (s.lines + 1) * line_bytes,
                 panel * s.groups + group});
    }
}

void pack_group(dartquant_weights const& w, PackedShape const& s, dartquant_quantized const& q,
                Cell const& cell, std::uint8_t* packed) {
  bool const symmetric = w.symmetry == dartquant_symmetric;
  int const flip = symmetric ? 8 : 0;
  std::uint8_t* const lines = packed + cell.offset;
  auto* const scales = reinterpret_cast<float*>(lines + cell.lines * line_bytes);
  for (std::int64_t c = 0; c < panel_cols; ++c) {
    std::int64_t const out = cell.panel * panel_cols + c;
    bool const real = out < w.out;
    std::uint8_t const* const row =
        real ? static_cast<std::uint8_t const*>(q.levels) + out * q.level_stride : nullptr;
    int zero = symmetric ? 8 : 0;
    if (real && !symmetric) zero = q.zero_points[out * q.zero_point_stride + cell.group];
    std::int32_t sum = 0;
    auto const nibble = [&](std::int64_t j) {  // of a channel of the group; what is not there adds nothing
      if (!real || j >= cell.channels) return zero;
      int const n = nibble_at(row, cell.first + j, flip);
      sum += n - zero;
      return n;
    };
    std::int64_t const whole = real ? whole_lines(cell) : 0;
    for (std::int64_t line = 0; line < whole; ++line) {
      std::uint32_t word;
      std::memcpy(&word, row + cell.first / 2 + 4 * line, sizeof word);
      word = line_of_row(word) ^ static_cast<std::uint32_t>(flip) * 0x11111111u;
      sum += sum_of_nibbles(word) - 8 * zero;
      std::memcpy(lines + line * line_bytes + 4 * c, &word, sizeof word);
    }
    for (std::int64_t line = whole; line < cell.lines; ++line)
      for (std::int64_t t = 0; t < 4; ++t) {
        int const low = nibble(line * line_channels + t), high = nibble(line * line_channels + 4 + t);
        lines[line * line_bytes + 4 * c + t] = pack_int4(low, high);
      }
    scales[c] = real ? q.scales[out * q.scale_stride + cell.group] : 0.0f;
    std::int64_t const at = cell.index * panel_cols + c;
    if (!symmetric) packed[s.zero_points + at] = static_cast<std::uint8_t>(zero);
    if (w.with_sums != 0) reinterpret_cast<std::int32_t*>(packed + s.sums)[at] = sum;
  }
}

void unpack_group(dartquant_weights const& w, PackedShape const& s, std::uint8_t const* packed,
                  Cell const& cell, dartquant_quantized const& q) {
  bool const symmetric = w.symmetry == dartquant_symmetric;
  int const flip = symmetric ? 8 : 0;
  std::uint8_t const* const lines = packed + cell.offset;
  auto const* const scales = reinterpret_cast<float const*>(lines + cell.lines * line_bytes);
  for (std::int64_t c = 0; c < panel_cols && cell.panel * panel_cols + c < w.out; ++c) {
    std::int64_t const out = cell.panel * panel_cols + c;
    auto* const row = static_cast<std::uint8_t*>(q.levels) + out * q.level_stride;
    std::int64_t const whole = whole_lines(cell);
    for (std::int64_t line = 0; line < whole; ++line) {
      std::uint32_t word;
      std::memcpy(&word, lines + line * line_bytes + 4 * c, sizeof word);
      word = row_of_line(word ^ static_cast<std::uint32_t>(flip) * 0x11111111u);
      std::memcpy(row + cell.first / 2 + 4 * line, &word, sizeof word);
    }
    for (std::int64_t j = whole * line_channels; j < cell.channels; ++j) {
      std::uint8_t const byte = lines[j / line_channels * line_bytes + 4 * c + j % 4];
      int const level = (j % line_channels < 4 ? uint4_even(byte) : uint4_odd(byte)) ^ flip;
      std::uint8_t& to = row[(cell.first + j) / 2];
      to = (cell.first + j) % 2 == 0 ? pack_int4(level, 0) : pack_int4(uint4_even(to), level);
    }
    q.scales[out * q.scale_stride + cell.group] = scales[c];
    if (!symmetric)
      q.zero_points[out * q.zero_point_stride + cell.group] =
          packed[s.zero_points + cell.index * panel_cols + c];
  }
}

/// The plain matrix has the shape of the packed one.
void check_same(Checks& checks, dartquant_weights const& w, dartquant_quantized const& q) {
  checks.require(q.rows == w.out, dartquant_arg_rows, dartquant_bad_size);
  checks.require(q.cols == w.in, dartquant_arg_cols, dartquant_bad_size);
  checks.require(q.bits == 4, dartquant_arg_bits, dartquant_unsupported);
  checks.require(q.symmetry == w.symmetry, dartquant_arg_symmetry, dartquant_bad_value);
  if (!checks.ok()) return;
  std::int64_t const width = w.group == 0 || w.group > w.in ? w.in : w.group;
  checks.require(group_width(q) == width, dartquant_arg_group, dartquant_bad_size);
}

/// What packing and unpacking ask alike.
Checks check_packing(dartquant_weights const* weights, dartquant_quantized const* q, void const* packed,
                     std::size_t packed_bytes, std::int64_t part, std::int64_t parts) {
  Checks checks;
  std::size_t needed = 0;
  checks.merge(dartquant_packed_size(weights, &needed));
  if (!checks.ok()) return checks;
  check(checks, q);
  if (checks.ok()) check_same(checks, *weights, *q);
  checks.buffer(packed, packed_bytes, needed, dartquant_arg_packed).part(part, parts);
  return checks;
}

}  // namespace

bool header_matches(dartquant_weights const& weights, PackedShape const& shape, void const* packed) {
  PackedHeader const expected = header_of(weights, shape);
  return std::memcmp(&expected, packed, sizeof expected) == 0;
}

}  // namespace dartquant::cpu

using namespace dartquant::cpu;

dartquant_status dartquant_packed_size(dartquant_weights const* weights, std::size_t* bytes) {
  Checks checks;
  check(checks, weights);
  if (!checks.pointer(bytes, alignof(std::size_t), dartquant_arg_bytes).ok()) return checks.result();
  PackedShape const shape = packed_shape(*weights);
  if (!checks.require(shape.fits, dartquant_arg_weights, dartquant_overflow).ok()) return checks.result();
  *bytes = static_cast<std::size_t>(shape.bytes);
  return 0;
}

dartquant_status dartquant_pack(dartquant_weights const* weights, dartquant_quantized const* q, void* packed,
                                std::size_t packed_bytes, std::int64_t part, std::int64_t parts) {
  Checks checks = check_packing(weights, q, packed, packed_bytes, part, parts);
  if (!checks.ok()) return checks.result();
  if (!checks.require(zero_points_in_range(*q), dartquant_arg_zero_points, dartquant_bad_value).ok())
    return checks.result();
  PackedShape const shape = packed_shape(*weights);
  auto* const bytes = static_cast<std::uint8_t*>(packed);
  if (part == 0) {
    PackedHeader const header = header_of(*weights, shape);
    std::memcpy(bytes, &header, sizeof header);
    std::int64_t const cells = shape.panels * shape.groups * panel_cols;
    if (weights->symmetry == dartquant_asymmetric)  // the bytes that round the section up
      std::memset(bytes + shape.zero_points + cells, 0,
                  static_cast<std::size_t>(shape.sums - shape.zero_points - cells));
  }
  for_each_group(*weights, shape, share(shape.panels, part, parts),
                 [&](Cell const& cell) { pack_group(*weights, shape, *q, cell, bytes); });
  return 0;
}

dartquant_status dartquant_unpack(dartquant_weights const* weights, void const* packed,
                                  std::size_t packed_bytes, dartquant_quantized const* q, std::int64_t part,
                                  std::int64_t parts) {
  Checks checks = check_packing(weights, q, packed, packed_bytes, part, parts);
  if (!checks.ok()) return checks.result();
  PackedShape const shape = packed_shape(*weights);
  if (!checks.require(header_matches(*weights, shape, packed), dartquant_arg_packed, dartquant_mismatch).ok())
    return checks.result();
  for_each_group(*weights, shape, share(shape.panels, part, parts), [&](Cell const& cell) {
    unpack_group(*weights, shape, static_cast<std::uint8_t const*>(packed), cell, *q);
  });
  return 0;
}
