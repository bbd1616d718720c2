// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include <dartquant/core/platform.hpp>

namespace dartquant {

/// Where the levels of a quantizer lie. Symmetric: around zero, no zero point. Asymmetric: from 0 up, with an
/// integer zero point, so that zero stays exact.
enum class Symmetry { symmetric, asymmetric };

/// The first and the last level of a quantizer.
struct Levels {
  int lowest = 0, highest = 0;
};

/// Symmetric: [-2^(bits-1), 2^(bits-1) - 1]. Asymmetric: [0, 2^bits - 1].
[[nodiscard]] DARTQUANT_HD constexpr Levels levels(int bits, Symmetry symmetry) {
  return symmetry == Symmetry::symmetric ? Levels{-(1 << (bits - 1)), (1 << (bits - 1)) - 1}
                                         : Levels{0, (1 << bits) - 1};
}

/// The nearest integer, halves to the even one. Truncation and exact subtractions only, so the result depends
/// neither on the rounding mode nor on relaxed arithmetic flags. Precondition: |x| < 2^31.
template <class T>
[[nodiscard]] DARTQUANT_HD constexpr int round_half_even(T x) {
  int const whole = static_cast<int>(x);
  T const rest = x - static_cast<T>(whole);  // exact, |rest| < 1
  int const odd = whole & 1;
  int const up = static_cast<int>(rest > T(0.5)) | (static_cast<int>(rest == T(0.5)) & odd);
  int const down = static_cast<int>(rest < T(-0.5)) | (static_cast<int>(rest == T(-0.5)) & odd);
  return whole + up - down;
}

/// x limited to [lowest, highest]; a NaN becomes `lowest`.
template <class T>
[[nodiscard]] DARTQUANT_HD constexpr T clamp_to(T x, T lowest, T highest) {
  T const raised = x > lowest ? x : lowest;
  return raised < highest ? raised : highest;
}

/// The map between values and levels under one scale:
///   level q = clamp(round(x / scale) + zero_point, lowest level, highest level)
///   value   = scale (q - zero_point)
/// The quotient is formed as x * inverse with inverse = fl(1 / scale), here and in every kernel: one division
/// per scale instead of one per value. It differs from x / scale only within a rounding error of a tie. Equal
/// inputs give equal levels on every machine.
template <class T>
struct Quantizer {
  T scale = 1;                ///< the distance of two levels: positive, normal, finite
  T inverse = 1;              ///< 1 / scale, rounded: positive, normal, finite
  T lowest = 0, highest = 0;  ///< the first and the last level, minus the zero point
  int zero_point = 0;         ///< the level of the value 0

  /// level - zero_point.
  [[nodiscard]] DARTQUANT_HD constexpr int centered(T x) const {
    return round_half_even(clamp_to(x * inverse, lowest, highest));
  }
  [[nodiscard]] DARTQUANT_HD constexpr int level(T x) const { return centered(x) + zero_point; }
  [[nodiscard]] DARTQUANT_HD constexpr T value(int level) const {
    return scale * static_cast<T>(level - zero_point);
  }
  /// value(level(x)).
  [[nodiscard]] DARTQUANT_HD constexpr T round_trip(T x) const { return scale * static_cast<T>(centered(x)); }
};

/// The quantizer with this scale and zero point. Preconditions: scale is positive and 1 / scale finite;
/// 2 <= bits <= 8; the zero point is 0 if symmetric, else a level.
template <class T>
[[nodiscard]] DARTQUANT_HD constexpr Quantizer<T> make_quantizer(T scale, int zero_point, int bits,
                                                                 Symmetry symmetry) {
  Levels const range = levels(bits, symmetry);
  return {scale, T(1) / scale, static_cast<T>(range.lowest - zero_point),
          static_cast<T>(range.highest - zero_point), zero_point};
}

namespace detail {

/// The largest magnitude that a range may name: 2^126 for float. Up to it scale, 1 / scale and every value of
/// a level are normal finite numbers; inputs beyond it saturate.
template <class T>
[[nodiscard]] DARTQUANT_HD constexpr T range_limit() {
  constexpr T limit = T(1) / std::numeric_limits<T>::min();
  return limit;
}

/// width / steps, kept normal; 1 for a range of no width (all values zero), so that zero maps to zero.
template <class T>
[[nodiscard]] DARTQUANT_HD constexpr T scale_of_width(T width, int steps) {
  constexpr T smallest = std::numeric_limits<T>::min();
  T const scale = width / static_cast<T>(steps), normal = scale > smallest ? scale : smallest;
  return width > T(0) ? normal : T(1);  // without branches, so that loops over ranges vectorise
}

}  // namespace detail

/// scale = max|x| / (2^(bits-1) - 1); the lowest level -2^(bits-1) is reached only by clipped values.
/// Precondition: 2 <= bits <= 8. Any max_abs gives a positive finite scale: 1 for 0.
template <class T>
[[nodiscard]] DARTQUANT_HD constexpr Quantizer<T> symmetric_quantizer(T max_abs, int bits) {
  T const width = clamp_to(max_abs, T(0), detail::range_limit<T>());
  int const steps = (1 << (bits - 1)) - 1;
  return make_quantizer(detail::scale_of_width(width, steps), 0, bits, Symmetry::symmetric);
}

/// scale = (max - min) / (2^bits - 1), zero_point = round(-min / scale). The range is first extended to hold
/// 0 (min <= 0 <= max, as QuaRot and DartQuant do), so that 0 is a level: a constant row [c, ..., c] spans 0
/// to c and keeps c up to rounding. Precondition: 2 <= bits <= 8.
template <class T>
[[nodiscard]] DARTQUANT_HD constexpr Quantizer<T> asymmetric_quantizer(T min, T max, int bits) {
  T const limit = detail::range_limit<T>();
  T const low = clamp_to(min, -limit, T(0)), high = clamp_to(max, T(0), limit);
  int const steps = (1 << bits) - 1;
  T const scale = detail::scale_of_width(high - low, steps), inverse = T(1) / scale;
  int const zero_point = round_half_even(clamp_to(-low * inverse, T(0), static_cast<T>(steps)));
  return make_quantizer(scale, zero_point, bits, Symmetry::asymmetric);
}

/// The quantizer of values between min and max.
template <class T>
[[nodiscard]] DARTQUANT_HD constexpr Quantizer<T> range_quantizer(T min, T max, int bits, Symmetry symmetry) {
  if (symmetry == Symmetry::asymmetric) return asymmetric_quantizer(min, max, bits);
  return symmetric_quantizer(-min > max ? -min : max, bits);
}

}  // namespace dartquant
