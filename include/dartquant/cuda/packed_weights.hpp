// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <dartquant/core/error.hpp>
#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/quant/int4.hpp>
#include <dartquant/quant/scale.hpp>

namespace dartquant::cuda {

/// 4-bit weights W [out, in] in the GPU's compute layout, layout id 2 of docs/int4_format.md.
struct WeightShape {
  index_t out = 0, in = 0;
  index_t group = 0;  ///< input channels under one scale, 0: one scale per output. The tensor cores need a
                      ///< multiple of 32, all others run on the plain kernel
  Symmetry symmetry = Symmetry::symmetric;  ///< asymmetric: levels 0..15 and a zero point per group
  bool sums = false;  ///< also store sums of levels, which asymmetric 8-bit activations need
};

/// Plain 4-bit weights in host memory, row-major: what docs/int4_format.md calls plain, dartquant_quantized
/// of kernels.h. Zero points are null where symmetric.
template <class Byte, class Float, class Int>
struct BasicPlainWeights {
  Byte* levels;
  index_t level_stride;  ///< bytes from row to row
  Float* scales;
  index_t scale_stride;  ///< elements
  Int* zero_points;
  index_t zero_point_stride;
};
using PlainWeights = BasicPlainWeights<std::uint8_t const, float const, std::int32_t const>;
using PlainWeightsOut = BasicPlainWeights<std::uint8_t, float, std::int32_t>;

/// Where everything lies: header | tiles | scales | zero points, if asymmetric | sums, if asked for. A tile
/// is 16 outputs x 64 inputs; all tiles of 16 outputs, a panel, lie one behind the other.
struct WeightLayout {
  static constexpr index_t header_bytes = 128, tile_bytes = 512, tile_outputs = 16, tile_inputs = 64;

  index_t panels = 0, tiles = 0;                             ///< panels of W, tiles of a panel
  index_t width = 0, groups = 0;                             ///< channels of a group, groups of a row
  index_t scales = 0, zero_points = 0, sums = 0, bytes = 0;  ///< offsets, and the end

  /// Of the byte that holds the levels of output `out` and inputs `in` (low nibble) and in + 1; `in` is even.
  /// Lane 4 (out mod 8) + (in / 8 mod 4) of a warp finds the 16 bytes it multiplies in one piece.
  [[nodiscard]] DARTQUANT_HD constexpr index_t level_offset(index_t out, index_t in) const {
    index_t const tile = out / tile_outputs * tiles + in / tile_inputs;
    index_t const lane = out % 8 * 4 + in / 8 % 4, word = in / 32 % 2 * 2 + out / 8 % 2;
    return header_bytes + tile * tile_bytes + lane * 16 + word * 4 + in / 2 % 4;
  }
  /// Index of the scale, zero point and sum of an output and a group: [panels, groups, 16].
  [[nodiscard]] DARTQUANT_HD constexpr index_t cell(index_t out, index_t group_index) const {
    return (out / tile_outputs * groups + group_index) * tile_outputs + out % tile_outputs;
  }
};

/// Precondition: out, in >= 1, group >= 0, sizes far below 2^63.
[[nodiscard]] constexpr WeightLayout weight_layout(WeightShape const& shape) {
  constexpr index_t unit = WeightLayout::header_bytes;
  auto const round_up = [](index_t bytes) { return (bytes + unit - 1) / unit * unit; };
  WeightLayout l;
  l.panels = (shape.out - 1) / WeightLayout::tile_outputs + 1;
  l.tiles = (shape.in - 1) / WeightLayout::tile_inputs + 1;
  l.width = shape.group == 0 || shape.group > shape.in ? shape.in : shape.group;
  l.groups = (shape.in - 1) / l.width + 1;
  index_t const cells = l.panels * l.groups * WeightLayout::tile_outputs;
  l.scales = WeightLayout::header_bytes + l.panels * l.tiles * WeightLayout::tile_bytes;
  l.zero_points = l.scales + round_up(4 * cells);
  l.sums = l.zero_points + (shape.symmetry == Symmetry::asymmetric ? round_up(cells) : 0);
  l.bytes = l.sums + (shape.sums ? round_up(4 * cells) : 0);
  return l;
}

namespace detail {

using dartquant::detail::require;

/// The first 128 bytes. The fields are those of layout 1.
struct WeightHeader {
  std::uint32_t magic, layout;
  std::int64_t out, in, group;
  std::uint32_t symmetry, with_sums;
  std::uint64_t bytes;
  std::uint64_t reserved[10];
};
static_assert(sizeof(WeightHeader) == WeightLayout::header_bytes);

[[nodiscard]] inline WeightHeader header_of(WeightShape const& shape, WeightLayout const& layout) {
  return {0x34575144,
          2,
          shape.out,
          shape.in,
          shape.group,
          shape.symmetry == Symmetry::asymmetric ? 1u : 0u,
          shape.sums ? 1u : 0u,
          static_cast<std::uint64_t>(layout.bytes),
          {}};
}

inline void check_shape(char const* function, WeightShape const& s) {
  constexpr index_t most = index_t{1} << 20;
  require(s.out >= 1 && s.in >= 1, "[", function, "] weights of ", s.out, " x ", s.in,
          ": at least one output and one input are needed");
  require(s.in <= most && s.out <= (index_t{1} << 31), "[", function, "] weights of ", s.out, " x ", s.in,
          ": at most 2^31 outputs and 2^20 inputs are supported; split them");
  require(s.group >= 0, "[", function, "] groups of ", s.group, " channels: 0 means one scale per output");
}

template <class Plain>
void check_plain(char const* function, WeightShape const& s, Plain const& plain) {
  WeightLayout const l = weight_layout(s);
  require(plain.levels != nullptr && plain.scales != nullptr, "[", function,
          "] levels or scales are a null pointer");
  require(s.symmetry == Symmetry::symmetric || plain.zero_points != nullptr, "[", function,
          "] asymmetric weights need zero points, and the pointer is null");
  require(plain.level_stride >= int4_bytes(s.in), "[", function, "] a stride of ", plain.level_stride,
          " bytes for rows of ", int4_bytes(s.in));
  require(plain.scale_stride >= l.groups, "[", function, "] a stride of ", plain.scale_stride, " scales for ",
          l.groups, " groups");
  require(s.symmetry == Symmetry::symmetric || plain.zero_point_stride >= l.groups, "[", function,
          "] a stride of ", plain.zero_point_stride, " zero points for ", l.groups, " groups");
}

}  // namespace detail

/// Bytes of packed weights. Errors: InvalidArgument.
[[nodiscard]] inline std::size_t packed_weight_bytes(WeightShape const& shape) {
  detail::check_shape("packed_weight_bytes", shape);
  return static_cast<std::size_t>(weight_layout(shape).bytes);
}

/// Packs plain weights in host memory into `packed`, also in host memory, of packed_weight_bytes(shape); copy
/// it to the device as it is, to an address that is a multiple of 128. A tile holds level - 8 where
/// asymmetric, so that all nibbles are two's complement, and 0 behind the last channel and output. Errors:
/// InvalidArgument, before anything is written.
inline void pack_weights(WeightShape const& shape, PlainWeights const& plain, std::byte* packed,
                         std::size_t packed_bytes) {
  detail::check_shape("pack_weights", shape);
  detail::check_plain("pack_weights", shape, plain);
  WeightLayout const l = weight_layout(shape);
  detail::require(packed != nullptr && packed_bytes >= static_cast<std::size_t>(l.bytes), "[pack_weights] ",
                  packed_bytes, " bytes for packed weights of ", l.bytes);
  bool const symmetric = shape.symmetry == Symmetry::symmetric;
  for (index_t i = 0; i < shape.out && !symmetric; ++i)
    for (index_t g = 0; g < l.groups; ++g) {
      std::int32_t const zero = plain.zero_points[i * plain.zero_point_stride + g];
      detail::require(zero >= 0 && zero <= 15, "[pack_weights] a zero point of ", zero, " at output ", i,
                      ", group ", g, ": 0..15 is possible");
    }
  std::memset(packed, 0, static_cast<std::size_t>(l.bytes));
  detail::WeightHeader const header = detail::header_of(shape, l);
  std::memcpy(packed, &header, sizeof header);
  int const flip = symmetric ? 0 : 8;
  for (index_t i = 0; i < shape.out; ++i) {
    std::uint8_t const* const row = plain.levels + i * plain.level_stride;
    for (index_t g = 0; g < l.groups; ++g) {
      int const zero = symmetric ? 0 : plain.zero_points[i * plain.zero_point_stride + g] - 8;
      std::int32_t sum = 0;
      index_t const last = std::min(shape.in, (g + 1) * l.width);
      for (index_t j = g * l.width; j < last; ++j) {
        int const nibble = (j % 2 == 0 ? uint4_even(row[j / 2]) : uint4_odd(row[j / 2])) ^ flip;
        sum += (nibble ^ 8) - 8 - zero;
        packed[l.level_offset(i, j / 2 * 2)] |= static_cast<std::byte>(nibble << (j % 2 * 4));
      }
      index_t const cell = l.cell(i, g);
      std::memcpy(packed + l.scales + 4 * cell, plain.scales + i * plain.scale_stride + g, 4);
      if (!symmetric) packed[l.zero_points + cell] = static_cast<std::byte>(zero & 0xFF);
      if (shape.sums) std::memcpy(packed + l.sums + 4 * cell, &sum, 4);
    }
  }
}

/// The inverse: levels, scales and zero points come back bit for bit. Errors: InvalidArgument, also where the
/// header does not say what `shape` says.
inline void unpack_weights(WeightShape const& shape, std::byte const* packed, std::size_t packed_bytes,
                           PlainWeightsOut const& plain) {
  detail::check_shape("unpack_weights", shape);
  detail::check_plain("unpack_weights", shape, plain);
  WeightLayout const l = weight_layout(shape);
  detail::require(packed != nullptr && packed_bytes >= static_cast<std::size_t>(l.bytes), "[unpack_weights] ",
                  packed_bytes, " bytes where the packed weights have ", l.bytes);
  detail::WeightHeader const header = detail::header_of(shape, l);
  detail::require(std::memcmp(packed, &header, sizeof header) == 0,
                  "[unpack_weights] the packed weights are not ", shape.out, " x ", shape.in,
                  " in groups of ", shape.group, " in layout 2, as described");
  bool const symmetric = shape.symmetry == Symmetry::symmetric;
  int const flip = symmetric ? 0 : 8;
  for (index_t i = 0; i < shape.out; ++i) {
    for (index_t j = 0; j < shape.in; j += 2) {
      auto const byte = static_cast<std::uint8_t>(packed[l.level_offset(i, j)]);
      plain.levels[i * plain.level_stride + j / 2] =
          pack_int4(uint4_even(byte) ^ flip, j + 1 < shape.in ? uint4_odd(byte) ^ flip : 0);
    }
    for (index_t g = 0; g < l.groups; ++g) {
      index_t const cell = l.cell(i, g);
      std::memcpy(plain.scales + i * plain.scale_stride + g, packed + l.scales + 4 * cell, 4);
      if (!symmetric)
        plain.zero_points[i * plain.zero_point_stride + g] =
            static_cast<std::int8_t>(packed[l.zero_points + cell]) + 8;
    }
  }
}

}  // namespace dartquant::cuda
