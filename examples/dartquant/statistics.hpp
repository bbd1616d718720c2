// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>

namespace dartquant::program {

/// A mean with its 95 % confidence interval: mean +- t(0.975, count - 1) deviation / sqrt(count) (Student).
/// One value has no interval: low and high are then NaN, and so is everything of no value at all.
struct Estimate {
  std::size_t count = 0;
  double mean = 0;
  double deviation = 0;  ///< sample standard deviation (count - 1); 0 for a single value
  double low = 0, high = 0;

  [[nodiscard]] bool has_interval() const { return low <= high; }
  /// True where the interval lies on one side of zero.
  [[nodiscard]] bool excludes_zero() const { return has_interval() && (low > 0 || high < 0); }
};

[[nodiscard]] Estimate estimate(std::span<double const> values);

/// Of a - b, pair by pair. Precondition: the same number of both.
[[nodiscard]] Estimate paired_difference(std::span<double const> a, std::span<double const> b);

/// sum a / sum b of pairs, with the interval of the linearised ratio: the residuals (a_i - r b_i) / mean(b)
/// take the place of the values (Cochran, Sampling Techniques, 1977, section 6.3). NaN where sum b is 0.
[[nodiscard]] Estimate paired_ratio(std::span<double const> a, std::span<double const> b);

/// P(t <= x) of Student's t with `freedom` degrees: through the regularised incomplete beta function, its
/// continued fraction by Lentz's method (DLMF 8.17.22).
[[nodiscard]] double student_t_cdf(double x, double freedom);

/// The x with student_t_cdf(x, freedom) = p, 0 < p < 1, by bisection, to the last bits of a double.
[[nodiscard]] double student_t_quantile(double p, double freedom);

}  // namespace dartquant::program
