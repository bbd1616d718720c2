// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <dartquant/kernels.h>

#include "cpu/kernel_table.hpp"
#include "cpu/status.hpp"

namespace dartquant::cpu {

/// The first 64 bytes of packed weights, little-endian: they say what follows, so that bytes of another shape
/// or of another version are refused instead of multiplied.
struct PackedHeader {
  std::uint32_t magic;   ///< "DQW4"
  std::uint32_t layout;  ///< dartquant_layout
  std::int64_t out, in, group;
  std::uint32_t symmetry, with_sums;
  std::uint64_t bytes;  ///< of the whole, this header included
  std::uint64_t reserved[2];
};
static_assert(sizeof(PackedHeader) == 64 && offsetof(PackedHeader, bytes) == 40);
inline constexpr std::uint32_t packed_magic = 0x34575144;

inline constexpr std::int64_t panel_cols = 16, line_channels = 8, line_bytes = 64;

/// Where everything lies: header | panels | zero points, if asymmetric | sums, if asked for.
struct PackedShape {
  std::int64_t panels, groups, width;  ///< width: channels of a group
  std::int64_t lines, last_lines;      ///< 64-byte lines of a group, of the last group
  std::int64_t panel_bytes;
  std::int64_t zero_points, sums, bytes;  ///< offsets and the end; a missing section is empty
  bool fits;                              ///< false: a size overflowed and nothing else is meant
};

/// Precondition: `weights` passed its checks.
[[nodiscard]] inline PackedShape packed_shape(dartquant_weights const& weights) {
  PackedShape s{};
  s.width = weights.group == 0 || weights.group > weights.in ? weights.in : weights.group;
  s.groups = (weights.in - 1) / s.width + 1;
  s.panels = (weights.out - 1) / panel_cols + 1;
  auto const lines = [](std::int64_t channels) { return (channels - 1) / line_channels + 1; };
  s.lines = lines(s.width);
  s.last_lines = lines(weights.in - (s.groups - 1) * s.width);
  s.panel_bytes = ((s.groups - 1) * (s.lines + 1) + s.last_lines + 1) * line_bytes;  // in <= 2^20
  std::int64_t const cells = s.groups * panel_cols;
  bool const zeros = weights.symmetry == dartquant_asymmetric;
  Size const first = Size(s.panels) * s.panel_bytes + line_bytes;
  Size const second = first + (zeros ? Size(s.panels) * cells : Size(0)).round_up(line_bytes);
  Size const end = second + (weights.with_sums != 0 ? Size(s.panels) * cells * 4 : Size(0));
  s.fits = end.ok() && static_cast<std::uint64_t>(end.value()) <= PTRDIFF_MAX;
  s.zero_points = first.value();
  s.sums = second.value();
  s.bytes = end.value();
  return s;
}

/// Panels [first, last) of packed weights.
[[nodiscard]] inline Panels panels_of(dartquant_weights const& weights, PackedShape const& s,
                                      void const* packed, std::int64_t first, std::int64_t last) {
  auto const* const bytes = static_cast<std::uint8_t const*>(packed);
  std::int64_t const cell = first * s.groups * panel_cols;
  Panels p{};
  p.data = bytes + line_bytes + first * s.panel_bytes;
  p.bytes = s.panel_bytes;
  p.count = last - first;
  p.groups = s.groups;
  p.lines = s.lines;
  p.last_lines = s.last_lines;
  if (weights.symmetry == dartquant_asymmetric) p.zero_points = bytes + s.zero_points + cell;
  if (weights.with_sums != 0) p.sums = reinterpret_cast<std::int32_t const*>(bytes + s.sums) + cell;
  return p;
}

/// Whether the header says what the description says. Precondition: at least 64 aligned bytes.
[[nodiscard]] bool header_matches(dartquant_weights const& weights, PackedShape const& shape,
                                  void const* packed);

}  // namespace dartquant::cpu
