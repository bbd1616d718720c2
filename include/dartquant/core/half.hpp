// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

#include <dartquant/core/platform.hpp>

namespace dartquant {

/// IEEE binary16: 1 sign, 5 exponent, 10 mantissa bits. Storage only; arithmetic happens in float.
struct Half {
  std::uint16_t bits = 0;
};

/// bfloat16: the upper half of a float. Storage only; arithmetic happens in float.
struct BFloat16 {
  std::uint16_t bits = 0;
};

[[nodiscard]] DARTQUANT_HD inline float to_float(float x) { return x; }
[[nodiscard]] DARTQUANT_HD inline float to_float(double x) { return static_cast<float>(x); }

[[nodiscard]] DARTQUANT_HD inline float to_float(BFloat16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}

[[nodiscard]] DARTQUANT_HD inline float to_float(Half x) {
  std::uint32_t const sign = static_cast<std::uint32_t>(x.bits & 0x8000u) << 16;
  std::uint32_t const exponent = (x.bits >> 10) & 0x1Fu;
  std::uint32_t const mantissa = x.bits & 0x3FFu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  float const magnitude =
      static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // subnormal: mantissa * 2^-24
  return sign != 0 ? -magnitude : magnitude;
}

namespace detail {

/// condition ? a : b, by masks: both are computed, so that loops over values vectorise.
[[nodiscard]] DARTQUANT_HD inline std::uint32_t select(bool condition, std::uint32_t a, std::uint32_t b) {
  std::uint32_t const mask = 0u - static_cast<std::uint32_t>(condition);
  return (a & mask) | (b & ~mask);
}

}  // namespace detail

/// Round to nearest even; overflow becomes infinity, NaN stays NaN.
[[nodiscard]] DARTQUANT_HD inline BFloat16 to_bfloat16(float x) {
  std::uint32_t const bits = std::bit_cast<std::uint32_t>(x);
  std::uint32_t const rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16, quiet = (bits >> 16) | 0x0040u;
  return {static_cast<std::uint16_t>(detail::select((bits & 0x7FFFFFFFu) > 0x7F800000u, quiet, rounded))};
}

/// Round to nearest even; overflow becomes infinity, NaN stays NaN, subnormals are kept.
[[nodiscard]] DARTQUANT_HD inline Half to_half(float x) {
  std::uint32_t const bits = std::bit_cast<std::uint32_t>(x);
  std::uint32_t const sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  // Below 2^-14: adding 1/2 lines the mantissa up so that its last bit weighs 2^-24; the addition itself
  // rounds to nearest even.
  float const shifted = std::bit_cast<float>(magnitude) + 0.5f;
  std::uint32_t const subnormal = std::bit_cast<std::uint32_t>(shifted) - 0x3F000000u;
  std::uint32_t const normal = (magnitude + 0xFFFu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  std::uint32_t half = detail::select(magnitude < 0x38800000u, subnormal, normal);
  half = detail::select(magnitude >= 0x477FF000u, 0x7C00u, half);  // rounds to 65536 or more
  half = detail::select(magnitude > 0x7F800000u, 0x7E00u, half);
  return {static_cast<std::uint16_t>(sign | half)};
}

/// Conversion from float to a storage type, chosen by the type.
template <class T>
[[nodiscard]] DARTQUANT_HD T from_float(float x);
template <>
[[nodiscard]] DARTQUANT_HD inline float from_float<float>(float x) {
  return x;
}
template <>
[[nodiscard]] DARTQUANT_HD inline double from_float<double>(float x) {
  return x;
}
template <>
[[nodiscard]] DARTQUANT_HD inline Half from_float<Half>(float x) {
  return to_half(x);
}
template <>
[[nodiscard]] DARTQUANT_HD inline BFloat16 from_float<BFloat16>(float x) {
  return to_bfloat16(x);
}

}  // namespace dartquant
