// SPDX-License-Identifier: Apache-2.0
#include "statistics.hpp"

#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include <dartquant/core/error.hpp>

#include "support/catch.hpp"

using namespace dartquant::program;

TEST_CASE("Student's t has its published quantiles", "[statistics]") {
  // 0.975 of NIST's table (1.3.6.7.2), to three decimals; one and two degrees have closed forms.
  std::vector<std::pair<double, double>> const table{{3, 3.182},  {4, 2.776},  {9, 2.262},  {19, 2.093},
                                                     {30, 2.042}, {60, 2.000}, {100, 1.984}};
  for (auto const& [freedom, expected] : table)
    CHECK(std::abs(student_t_quantile(0.975, freedom) - expected) < 6e-4);
  double const pi = std::acos(-1.0), p = 0.975;
  CHECK(student_t_quantile(p, 1) == Approx(std::tan(pi * (p - 0.5))).epsilon(1e-12));
  CHECK(student_t_quantile(p, 2) == Approx((2 * p - 1) / std::sqrt(2 * p * (1 - p))).epsilon(1e-12));
  CHECK(student_t_quantile(0.975, 1e9) == Approx(1.959963984540054).epsilon(1e-8));  // the normal
  CHECK(student_t_quantile(0.025, 7) == Approx(-student_t_quantile(0.975, 7)));
  CHECK(student_t_quantile(0.5, 3) == 0);
  for (double const x : {-3.0, -0.2, 0.0, 0.7, 25.0})
    CHECK(student_t_cdf(x, 1) == Approx(0.5 + std::atan(x) / pi).epsilon(1e-12));
  CHECK_THROWS_AS(student_t_quantile(1, 3), dartquant::InvalidArgument);
  CHECK_THROWS_AS(student_t_quantile(0.9, 0), dartquant::InvalidArgument);
}

TEST_CASE("an estimate is the mean and its interval", "[statistics]") {
  std::array const values{5.1, 4.9, 5.6, 5.8, 5.0};  // by hand: sum 26.4, squared deviations 0.628
  Estimate const found = estimate(values);
  CHECK(found.count == 5);
  CHECK(found.mean == Approx(5.28));
  CHECK(found.deviation == Approx(std::sqrt(0.628 / 4)));
  double const half = 2.7764451052 * std::sqrt(0.628 / 4 / 5);
  CHECK(found.low == Approx(5.28 - half));
  CHECK(found.high == Approx(5.28 + half));
  CHECK(found.excludes_zero());

  Estimate const one = estimate(std::array{3.0});
  CHECK(one.mean == 3);
  CHECK_FALSE(one.has_interval());
  CHECK_FALSE(one.excludes_zero());
  CHECK(std::isnan(estimate({}).mean));
  Estimate const equal = estimate(std::array{2.0, 2.0, 2.0});
  CHECK(equal.deviation == 0);
  CHECK(equal.low == 2);
  CHECK(equal.high == 2);
  CHECK_FALSE(estimate(std::array{-1.0, 0.0, 1.5}).excludes_zero());
}

TEST_CASE("pairs take out what both share", "[statistics]") {
  std::array const a{10.1, 20.2, 30.1, 40.2}, b{10.0, 20.0, 30.0, 40.0};  // differences 0.1 0.2 0.1 0.2
  Estimate const found = paired_difference(a, b);
  CHECK(found.mean == Approx(0.15));
  CHECK(found.deviation == Approx(0.1 / std::sqrt(3.0)));
  CHECK(found.excludes_zero());
  CHECK(estimate(a).low < 40);  // apart, the two could not be told from each other
  CHECK(estimate(a).high > estimate(b).low);
  CHECK_THROWS_AS(paired_difference(a, std::array{1.0}), dartquant::InvalidArgument);
}

TEST_CASE("a ratio of pairs", "[statistics]") {
  std::array const below{2.0, 4.0, 6.0};
  Estimate const exact = paired_ratio(std::array{1.0, 2.0, 3.0}, below);
  CHECK(exact.mean == Approx(0.5));
  CHECK(exact.deviation == Approx(0).margin(1e-15));
  // sum 6.3 / 12 = 0.525; residuals (1.2 - 1.05, 2.1 - 2.1, 3 - 3.15) / 4 = 0.0375, 0, -0.0375
  Estimate const found = paired_ratio(std::array{1.2, 2.1, 3.0}, below);
  CHECK(found.mean == Approx(0.525));
  CHECK(found.deviation == Approx(0.0375));
  CHECK(found.high == Approx(0.525 + 4.3026527297 * 0.0375 / std::sqrt(3.0)));
  CHECK(std::isnan(paired_ratio(std::array{1.0, 1.0}, std::array{1.0, -1.0}).mean));
  CHECK_FALSE(paired_ratio(std::array{1.0}, std::array{2.0}).has_interval());
}
