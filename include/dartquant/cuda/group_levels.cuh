// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/stored_rows.hpp>
#include <dartquant/quant/scale.hpp>

// From the values of a group to its range, its scale, and the bits of its levels.

namespace dartquant::cuda {

/// Where levels, scales and zero points go; see QuantizedRows.
struct QuantizeStep {
  std::uint8_t* levels = nullptr;
  index_t level_stride = 0;
  float* scales = nullptr;
  index_t scale_stride = 0;
  std::int32_t* zero_points = nullptr;
  index_t zero_point_stride = 0;
  int bits = 4;
  Symmetry symmetry = Symmetry::symmetric;
  float clip_ratio = 1;
  /// 1: cols and the group are multiples of 32, and rows of levels are aligned to those of 4 channels.
  int regular = 0;
};

namespace detail {

/// The range of a group, -low .. high, both at least +0 and NaN where a value is. Not negative, so that the
/// bits of these floats are in the order of their values, NaN last.
struct GroupRange {
  float low = 0, high = 0;
};

/// What turns the values of a group into levels: 16 bytes that take the place of its range. factor 0: the
/// factor is in `inverse`, and no value needs to be clamped, see map_of.
struct alignas(16) GroupMap {
  float factor, inverse, lowest, highest;
};

template <Symmetry symmetry, class Thread>
DARTQUANT_DEVICE void widen(Thread const& thread, GroupRange& range, float x) {
  if constexpr (symmetry == Symmetry::symmetric) {
    range.high = thread.max_nan(range.high, std::fabs(x));
  } else {
    range.high = thread.max_nan(range.high, x);
    range.low = thread.max_nan(range.low, -x);
  }
}

/// The union of the ranges of `lanes` neighbouring lanes, a power of two.
template <Symmetry symmetry, class Thread>
DARTQUANT_DEVICE void widen_by_lanes(Thread const& thread, GroupRange& range, int lanes) {
  for (int mask = lanes / 2; mask > 0; mask /= 2) {
    range.high = thread.max_nan(range.high, thread.shuffle_xor(range.high, mask));
    if constexpr (symmetry == Symmetry::asymmetric)
      range.low = thread.max_nan(range.low, thread.shuffle_xor(range.low, mask));
  }
}

/// The last floats that are not negative and finite have smaller bits.
inline constexpr std::uint32_t infinity_bits = 0x7F800000u;

/// Stores scale and zero point of a group and returns its map, as src/cpu/rows.cpp: a group that holds a NaN
/// or an infinity gets scale NaN, levels and zero point 0.
DARTQUANT_HD inline GroupMap map_of(GroupRange const& range, float factor, QuantizeStep const& step,
                                    float* scale, std::int32_t* zero_point) {
  bool const symmetric = step.symmetry == Symmetry::symmetric;
  bool const finite = std::bit_cast<std::uint32_t>(range.low) < infinity_bits &&
                      std::bit_cast<std::uint32_t>(range.high) < infinity_bits;
  if (!finite) {
    *scale = std::numeric_limits<float>::quiet_NaN();
    if (!symmetric) *zero_point = 0;
    return {1, 1, 0, 0};
  }
  float const min = symmetric ? -range.high : -range.low;
  Quantizer<float> const fit = range_quantizer(
      step.clip_ratio * (min * factor), step.clip_ratio * (range.high * factor), step.bits, step.symmetry);
  *scale = fit.scale;
  if (!symmetric) *zero_point = fit.zero_point;
  // A power of two as factor makes (x factor) inverse = x (factor inverse) exact but where x factor is
  // subnormal, far below half a level of such a scale. A symmetric range that is not clipped reaches
  // +-(2^(bits-1) - 1) (1 + 2^-22), which rounds to that level.
  bool const power = (std::bit_cast<std::uint32_t>(factor) & 0x007FFFFFu) == 0;
  if (symmetric && power && step.clip_ratio == 1.0f && fit.scale >= 0x1p-100f && fit.scale <= 0x1p100f)
    return {0, factor * fit.inverse, fit.lowest, fit.highest};
  return {factor, fit.inverse, fit.lowest, fit.highest};
}

/// 1.5 * 2^23: x + magic has the bits of magic plus x rounded half to even, for |x| below 2^22.
inline constexpr float magic = 12582912.0f;
inline constexpr std::uint32_t magic_bits = 0x4B400000u;

/// The bits of magic + centered level, see Quantizer::centered. A NaN becomes the lowest level.
DARTQUANT_HD inline std::uint32_t rounded(float x, GroupMap const& map) {
  float const quotient = x * map.factor * map.inverse;
  return std::bit_cast<std::uint32_t>(std::fmin(std::fmax(quotient, map.lowest), map.highest) + magic);
}

/// The same where the factor is in `inverse`.
DARTQUANT_HD inline std::uint32_t rounded_simply(float x, GroupMap const& map) {
  return std::bit_cast<std::uint32_t>(x * map.inverse + magic);
}

/// The code that is the level 0: the zero point, or where symmetric the bias of the codes.
DARTQUANT_HD inline std::uint32_t zero_code(GroupMap const& map, QuantizeStep const& step) {
  if (step.symmetry == Symmetry::symmetric) return 1u << (step.bits - 1);
  return static_cast<std::uint32_t>(static_cast<int>(-map.lowest));
}

/// How four codes 0 .. 2^bits - 1 = centered level + zero code become 16 or 32 stored bits: joined by shifts
/// and sums modulo 2^32, in which the bits of magic are a constant (none of the low 16 bits); symmetric ones
/// lose their bias by turning over the sign bit.
template <int Bits>
struct VectorCode {
  std::uint32_t added, flipped;

  DARTQUANT_HD VectorCode(GroupMap const& map, QuantizeStep const& step)
      : added(zero_code(map, step) * ones - (Bits == 8 ? magic_bits + (magic_bits << 8) : 0u)),
        flipped(step.symmetry == Symmetry::symmetric ? ones << (Bits - 1) : 0u) {}
  DARTQUANT_HD std::uint32_t operator()(float const (&x)[4], GroupMap const& map) const {
    return map.factor == 0 ? simple(x, map) : full(x, map);
  }
  DARTQUANT_HD std::uint32_t simple(float const (&x)[4], GroupMap const& map) const {
    return (join(rounded_simply(x[0], map), rounded_simply(x[1], map), rounded_simply(x[2], map),
                 rounded_simply(x[3], map)) +
            added) ^
           flipped;
  }
  DARTQUANT_HD std::uint32_t full(float const (&x)[4], GroupMap const& map) const {
    return (join(rounded(x[0], map), rounded(x[1], map), rounded(x[2], map), rounded(x[3], map)) + added) ^
           flipped;
  }
  /// To memory that is aligned to it.
  DARTQUANT_HD static void store(std::uint8_t* at, std::uint32_t word) {
    if constexpr (Bits == 4) *reinterpret_cast<std::uint16_t*>(at) = static_cast<std::uint16_t>(word);
    else *reinterpret_cast<std::uint32_t*>(at) = word;
  }

 private:
  static constexpr std::uint32_t ones = Bits == 4 ? 0x1111u : 0x01010101u;
  DARTQUANT_HD static std::uint32_t join(std::uint32_t r0, std::uint32_t r1, std::uint32_t r2,
                                         std::uint32_t r3) {
    return (((((r3 << Bits) + r2) << Bits) + r1) << Bits) + r0;
  }
};

/// The level of one channel, its low bits.
DARTQUANT_HD inline int level_of(float x, GroupMap const& map, QuantizeStep const& step) {
  std::uint32_t const code = (map.factor == 0 ? rounded_simply(x, map) : rounded(x, map)) - magic_bits;
  std::uint32_t const bias = step.symmetry == Symmetry::symmetric ? 0 : zero_code(map, step);
  return static_cast<int>(code + bias);
}

}  // namespace detail

}  // namespace dartquant::cuda
