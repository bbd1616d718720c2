// SPDX-License-Identifier: Apache-2.0
#include "statistics.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include <dartquant/core/error.hpp>

namespace dartquant::program {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// A number that the next step divides by, kept away from zero.
double away_from_zero(double value) { return std::abs(value) < 1e-300 ? 1e-300 : value; }

/// The continued fraction of the incomplete beta function; converges fast for x < (a + 1) / (a + b + 2).
double beta_fraction(double x, double a, double b) {
  double c = 1, d = 1 / away_from_zero(1 - (a + b) * x / (a + 1)), value = d;
  for (int m = 1; m < 500; ++m) {
    double const even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    double const odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    double factor = 1;
    for (double const term : {even, odd}) {
      d = 1 / away_from_zero(1 + term * d);
      c = away_from_zero(1 + term / c);
      factor = c * d;
      value *= factor;
    }
    if (std::abs(factor - 1) < 1e-16) break;
  }
  return value;
}

/// log Gamma(a + 1/2) - log Gamma(a). Stirling's series where the two logarithms would cancel (a = 5e8: 1e-6 of error); its
/// next term is below 1e-18 from 1000 on.
double log_gamma_half_step(double a) {
  if (a < 1000) return std::lgamma(a + 0.5) - std::lgamma(a);
  return 0.5 * std::log(a) - 1 / (8 * a) + 1 / (192 * a * a * a);
}

/// I_x(a, 1/2) or, swapped, I_x(1/2, a): one of `a` and `b` is 1/2. `rest` is 1 - x, given apart because it may be small.
double incomplete_beta(double x, double rest, double a, double b) {
  if (x <= 0) return 0;
  if (rest <= 0) return 1;
  double const log_x = rest < 0.5 ? std::log1p(-rest) : std::log(x), log_rest = x < 0.5 ? std::log1p(-x) : std::log(rest);
  double const front = std::exp(log_gamma_half_step(b == 0.5 ? a : b) - std::lgamma(0.5) + a * log_x + b * log_rest);
  if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(x, a, b) / a;
  return 1 - front * beta_fraction(rest, b, a) / b;
}

/// Mean of `values`, whose spread is that of `residuals` (one per value).
Estimate interval(double mean, std::span<double const> residuals) {
  Estimate result{.count = residuals.size(), .mean = mean, .low = nan, .high = nan};
  if (residuals.size() < 2) return result;
  double const count = static_cast<double>(residuals.size());
  double squares = 0;
  for (double const residual : residuals) squares += residual * residual;
  result.deviation = std::sqrt(squares / (count - 1));
  double const half = student_t_quantile(0.975, count - 1) * result.deviation / std::sqrt(count);
  result.low = mean - half;
  result.high = mean + half;
  return result;
}

double sum(std::span<double const> values) {
  double total = 0;
  for (double const value : values) total += value;
  return total;
}

}  // namespace

Estimate estimate(std::span<double const> values) {
  if (values.empty()) return {0, nan, nan, nan, nan};
  double const mean = sum(values) / static_cast<double>(values.size());
  std::vector<double> residuals(values.begin(), values.end());
  for (double& residual : residuals) residual -= mean;
  return interval(mean, residuals);
}

Estimate paired_difference(std::span<double const> a, std::span<double const> b) {
  detail::require(a.size() == b.size(), "[paired_difference] ", a.size(), " values against ", b.size(),
                  ": pairs are needed");
  std::vector<double> differences(a.begin(), a.end());
  for (std::size_t i = 0; i < differences.size(); ++i) differences[i] -= b[i];
  return estimate(differences);
}

Estimate paired_ratio(std::span<double const> a, std::span<double const> b) {
  detail::require(a.size() == b.size(), "[paired_ratio] ", a.size(), " values against ", b.size(),
                  ": pairs are needed");
  double const below = sum(b);
  if (a.empty() || below == 0) return {a.size(), nan, nan, nan, nan};
  double const ratio = sum(a) / below, mean = below / static_cast<double>(b.size());
  std::vector<double> residuals(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) residuals[i] = (a[i] - ratio * b[i]) / mean;
  return interval(ratio, residuals);
}

double student_t_cdf(double x, double freedom) {
  detail::require(freedom > 0, "[student_t_cdf] ", freedom, " degrees of freedom: more than 0 are needed");
  double const square = x * x, below = freedom + square;
  double const tail = 0.5 * incomplete_beta(freedom / below, square / below, freedom / 2, 0.5);
  return x > 0 ? 1 - tail : tail;
}

double student_t_quantile(double p, double freedom) {
  detail::require(p > 0 && p < 1, "[student_t_quantile] probability ", p, ": it must lie between 0 and 1");
  if (p == 0.5) return 0;
  if (p < 0.5) return -student_t_quantile(1 - p, freedom);
  double low = 0, high = 1;
  while (student_t_cdf(high, freedom) < p) high *= 2;
  for (double middle = 0.5 * (low + high); middle > low && middle < high; middle = 0.5 * (low + high))
    (student_t_cdf(middle, freedom) < p ? low : high) = middle;
  return high;
}

}  // namespace dartquant::program
