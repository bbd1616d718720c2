// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include <dartquant/core/half.hpp>
#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/activations.cuh>
#include <dartquant/cuda/packed_weights.hpp>

namespace dartquant::cuda {

/// How the elements of an output are stored.
enum class OutputType { float32, float16, bfloat16 };

/// Y [tokens, out] of any of the types.
struct Output {
  void* data;
  OutputType type;
  std::int64_t stride;
  int tokens, out;

  /// The tokens first .. first + count - 1.
  [[nodiscard]] Output rows(int first, int count) const {
    std::int64_t const bytes = first * stride * (type == OutputType::float32 ? 4 : 2);
    return {static_cast<std::byte*>(data) + bytes, type, stride, count, out};
  }

  /// Values outside Y are dropped.
  template <class Thread>
  DARTQUANT_DEVICE void store(Thread const& thread, int token, int i, float value) const {
    if (token >= tokens || i >= out) return;
    std::int64_t const at = token * stride + i;
    if (type == OutputType::float32) static_cast<float*>(data)[at] = value;
    else if (type == OutputType::float16)
      static_cast<Half*>(data)[at] = thread.template from_float<Half>(value);
    else static_cast<BFloat16*>(data)[at] = thread.template from_float<BFloat16>(value);
  }
};

/// Packed weights (layout id 2) in device memory, for kernels.
struct Weights {
  std::byte const* tiles;          ///< [panels, tiles] of 512 bytes
  float const* scales;             ///< [panels, groups, 16]
  std::int8_t const* zero_points;  ///< as scales, minus 8; null where symmetric
  std::int32_t const* sums;        ///< as scales; null where there are none
  int panels, tiles_of_panel, groups, width, in;

  Weights() = default;
  Weights(WeightShape const& shape, std::byte const* packed) {
    WeightLayout const l = weight_layout(shape);
    tiles = packed + WeightLayout::header_bytes;
    scales = reinterpret_cast<float const*>(packed + l.scales);
    zero_points = shape.symmetry == Symmetry::symmetric
                      ? nullptr
                      : reinterpret_cast<std::int8_t const*>(packed + l.zero_points);
    sums = shape.sums ? reinterpret_cast<std::int32_t const*>(packed + l.sums) : nullptr;
    panels = static_cast<int>(l.panels);
    tiles_of_panel = static_cast<int>(l.tiles);
    groups = static_cast<int>(l.groups);
    width = static_cast<int>(l.width);
    in = static_cast<int>(shape.in);
  }

  /// The 16 bytes of a lane: rows r, r + 8, r, r + 8 of a panel (r = lane / 4), channels 8 q .. and 32 + 8 q
  /// .. (q = lane mod 4) of a tile: word 2 step + half holds channels 32 step .. of row r + 8 half.
  [[nodiscard]] DARTQUANT_DEVICE Words4 const* fragment(int panel, int tile, int lane) const {
    return reinterpret_cast<Words4 const*>(tiles) + (std::int64_t{panel} * tiles_of_panel + tile) * 32 + lane;
  }
  /// Index of the scale, zero point and sum of row `row` of a panel. Panels behind the last read the last.
  [[nodiscard]] DARTQUANT_DEVICE std::int64_t cell(int panel, int group, int row) const {
    int const inside = panel < panels ? panel : panels - 1;
    return (std::int64_t{inside} * groups + group) * 16 + row;
  }
};

/// Signed levels of one k step, for the operand of 16 outputs x 32 channels: sixteen times the levels, which
/// a mask or a shift and a mask take out of the nibbles. Sums of products are sixteen times too large,
/// exactly.
struct SixteenTimes {
  std::uint32_t a[4];
  DARTQUANT_DEVICE SixteenTimes(std::uint32_t row, std::uint32_t row_plus_8)
      : a{row << 4 & 0xF0F0F0F0u, row_plus_8 << 4 & 0xF0F0F0F0u, row & 0xF0F0F0F0u,
          row_plus_8 & 0xF0F0F0F0u} {}
};
inline constexpr int sixteen_times_shift = 4;

/// What all integer products share: operands, and the formula from exact integers to Y. It is the CPU's
/// (multiply_row of portable.cpp), operation by operation, so the bytes are the same.
struct IntProduct {
  Weights w;
  Activations x;
  std::byte const* staged;     ///< activations in the order that the kernel takes; null for decode
  std::int32_t const* x_sums;  ///< [tokens, groups] of staged levels; null where weights are symmetric
  bool zero_points_left;       ///< of the activations, see Activations::zero_point_left
  float const* bias;           ///< [out] or null
  Output y;

  /// Whether an integer needs more than the scale of its weights.
  [[nodiscard]] DARTQUANT_HD bool corrected() const {
    return w.zero_points != nullptr || zero_points_left || x.grouped;
  }

  /// a + float(n) s, where n = sum over a group of (x - zero) (w - zero) is formed from the product of staged
  /// levels. `x_sum` is the sum of the token's staged levels in the group, 0 where weights are symmetric.
  [[nodiscard]] DARTQUANT_DEVICE float add_corrected(float a, std::int32_t product, std::int64_t cell,
                                                     int token, int group, std::int32_t x_sum) const {
    token = token < y.tokens ? token : y.tokens - 1;
    std::int32_t n = product;
    if (w.zero_points != nullptr) n -= w.zero_points[cell] * x_sum;
    if (zero_points_left) n -= x.zero_point_left(token, group) * w.sums[cell];
    float scale = w.scales[cell];
    if (x.grouped) scale *= x.scales[token * x.scale_stride + group];
    return std::fma(static_cast<float>(n), scale, a);
  }
  [[nodiscard]] DARTQUANT_DEVICE std::int32_t x_sum(int token, int group) const {
    if (w.zero_points == nullptr) return 0;
    return x_sums[std::int64_t{token < y.tokens ? token : y.tokens - 1} * w.groups + group];
  }

  /// Scales the sum over all groups, adds the bias and stores.
  template <class Thread>
  DARTQUANT_DEVICE void finish(Thread const& thread, int token, int out, float a) const {
    if (token >= y.tokens || out >= y.out) return;
    float const b = bias == nullptr ? 0.0f : bias[out];
    y.store(thread, token, out, x.grouped ? a + b : std::fma(a, x.scales[token * x.scale_stride], b));
  }
};

/// The sums of 16 outputs x 8 tokens, as tensor instructions spread them over a warp (multiply_bytes):
/// element i of a lane is output lane / 4 + 8 (i / 2), token 2 (lane mod 4) + i mod 2.
struct FragmentPlace {
  int row, token;
  DARTQUANT_DEVICE static FragmentPlace of(int lane, int i) {
    return {lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2};
  }
};

/// Adds the scaled integers of a group to a fragment, `dot` shifted by `shift`. scale_low and scale_high are
/// those of the lane's two outputs; with corrections everything is read again.
DARTQUANT_DEVICE inline void add_group(IntProduct const& p, float (&a)[4], std::int32_t const (&dot)[4],
                                       int shift, float const (&scales)[2], int panel, int group,
                                       int first_token, int lane) {
  if (!p.corrected()) {
    for (int i = 0; i < 4; ++i) a[i] = std::fma(static_cast<float>(dot[i] >> shift), scales[i / 2], a[i]);
    return;
  }
  for (int i = 0; i < 4; ++i) {
    FragmentPlace const at = FragmentPlace::of(lane, i);
    int const token = first_token + at.token;
    a[i] = p.add_corrected(a[i], dot[i] >> shift, p.w.cell(panel, group, at.row), token, group,
                           p.x_sum(token, group));
  }
}

}  // namespace dartquant::cuda
