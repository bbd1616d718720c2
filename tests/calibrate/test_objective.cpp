// SPDX-License-Identifier: Apache-2.0
#include <dartquant/calibrate/objective.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/synthetic.hpp"

using namespace dartquant;
using dartquant::testing::gaussian;

namespace {

/// A user's objective: sum over channels of x^4.
struct FourthMoment {
  template <class V>
  void operator()(V const& x, V& value, V& slope) const {
    slope = 4 * x * x * x;
    value = x * slope / 4;
  }
};

template <class F>
double loss(F const& objective, RowMatrix<double> const& O) {
  RowMatrix<double> slope(O.rows(), O.cols());
  return Cpu(1).objective<double>(objective, O, slope);
}

/// The largest difference between the slope and central differences, relative to the largest slope. `skip`
/// says which elements have no derivative.
template <class F, class Skip>
double gradient_error(F const& objective, RowMatrix<double> O, Skip const& skip) {
  RowMatrix<double> slope(O.rows(), O.cols());
  (void)Cpu(1).objective<double>(objective, O, slope);
  double worst = 0;
  for (index_t i = 0; i < O.rows(); ++i)
    for (index_t j = 0; j < O.cols(); ++j) {
      if (skip(O, i, j)) continue;
      double const step = 1e-6, x = O(i, j);
      O(i, j) = x + step;
      double const above = loss(objective, O);
      O(i, j) = x - step;
      double const below = loss(objective, O);
      O(i, j) = x;
      worst = std::max(worst, std::abs((above - below) / (2 * step) - slope(i, j)));
    }
  return worst / slope.cwiseAbs().maxCoeff();
}
template <class F>
double gradient_error(F const& objective, RowMatrix<double> const& O) {
  return gradient_error(objective, O, [](auto const&, index_t, index_t) { return false; });
}

static_assert(ElementwiseObjective<Whip> && !TokenObjective<Whip> && !RankedObjective<Whip>);
static_assert(TokenObjective<Kurtosis> && !ElementwiseObjective<Kurtosis>);
static_assert(RankedObjective<Uniformity> && !ElementwiseObjective<Uniformity> &&
              !TokenObjective<Uniformity>);
static_assert(Objective<FourthMoment> && Objective<Peak> && Objective<QuantError> && !Objective<int>);

}  // namespace

TEST_CASE("slopes agree with central differences", "[objective]") {
  for (index_t const channels : {2, 7, 64, 65, 130}) {
    RowMatrix<double> const O = gaussian(3, channels, static_cast<std::uint64_t>(channels));
    CAPTURE(channels);
    CHECK(gradient_error(Whip{}, O) < 1e-6);
    CHECK(gradient_error(Variance{}, O) < 1e-6);
    CHECK(gradient_error(Kurtosis{}, O) < 1e-6);
    CHECK(gradient_error(Uniformity{}, O) < 1e-6);
    CHECK(gradient_error(FourthMoment{}, O) < 1e-6);
    for (double const temperature : {0.1, 0.25, 2.0})
      CHECK(gradient_error(Peak{.temperature = temperature}, O) < 1e-6);
  }
}

TEST_CASE("the slope of QuantError is exact away from jumps and ends of the range", "[objective]") {
  for (int const bits : {2, 4, 8}) {
    QuantError const objective{.bits = bits};
    auto const skip = [&](RowMatrix<double> const& O, index_t i, index_t j) {
      double const low = std::min(O.row(i).minCoeff(), 0.0), high = std::max(O.row(i).maxCoeff(), 0.0);
      double const level = O(i, j) * ((1 << bits) - 1) / (high - low);
      return O(i, j) == low || O(i, j) == high || std::abs(level - std::floor(level) - 0.5) < 1e-3;
    };
    CHECK(gradient_error(objective, gaussian(4, 50, 9), skip) < 1e-6);
  }
}

TEST_CASE("objectives have their known values", "[objective]") {
  index_t const channels = 4096;
  RowMatrix<double> const normal = gaussian(8, channels, 3);
  RowMatrix<double> uniform(1, channels), corner = RowMatrix<double>::Ones(1, channels);
  for (index_t i = 0; i < channels; ++i)
    uniform(0, i) = std::sqrt(3.0) * Uniformity::quantile<double>((i * 1237) % channels, channels);
  double const n = static_cast<double>(channels);
  CHECK(loss(Whip{}, normal) / n == Approx(0.523).margin(0.005));
  CHECK(loss(Whip{}, uniform) / n == Approx(0.475).margin(0.001));
  CHECK(loss(Whip{}, corner) / n == Approx(std::exp(-1.0)));
  CHECK(loss(Kurtosis{.scale = 1}, normal) / n == Approx(3).margin(0.1));
  CHECK(loss(Kurtosis{.scale = 1}, uniform) / n == Approx(1.8).margin(0.01));
  CHECK(loss(Kurtosis{.scale = 1}, corner) / n == Approx(1));
  CHECK(loss(Uniformity{}, uniform) / n < 1e-6);  // only b differs, by the finite number of quantiles
  CHECK(loss(Uniformity{}, corner) / n > 0.1);
  CHECK(loss(Variance{}, corner) / n == Approx(1));
  CHECK(loss(Peak{.temperature = 1e-3, .scale = 1}, corner) / n == Approx(1));
  CHECK(loss(QuantError{}, corner) < 1e-12);
  CHECK(loss(QuantError{.bits = 4}, normal) > 10 * loss(QuantError{.bits = 8}, normal));
}

TEST_CASE("tokens of zeros and ties have finite slopes", "[objective]") {
  RowMatrix<double> O = RowMatrix<double>::Zero(2, 10);
  O.row(1).setConstant(2);
  O(1, 4) = -2;
  RowMatrix<double> slope(2, 10);
  auto const check = [&](auto const& objective) {
    double const value = Cpu(1).objective<double>(objective, O, slope);
    CHECK(std::isfinite(value));
    CHECK(slope.allFinite());
    CHECK(slope.row(0).cwiseAbs().maxCoeff() == 0);
  };
  check(Whip{});
  check(Uniformity{});
  check(Kurtosis{});
  check(Variance{});
  check(Peak{});
  check(QuantError{});
}

TEST_CASE("a loss is the mean over tokens, the same for any threads, strides and alignment", "[objective]") {
  RowMatrix<float> const O = gaussian<float>(700, 131, 11);
  RowMatrix<float> wide = RowMatrix<float>::Zero(700, 140);
  wide.middleCols(3, 131) = O;
  auto const check = [&](auto const& objective) {
    RowMatrix<float> one(700, 131), four(700, 131), shifted = RowMatrix<float>::Zero(700, 137);
    double const value = Cpu(1).objective<float>(objective, O, one);
    CHECK(Cpu(4).objective<float>(objective, wide.middleCols(3, 131), four) == value);
    CHECK(Cpu(2).objective<float>(objective, wide.middleCols(3, 131), shifted.middleCols(5, 131)) == value);
    CHECK(std::memcmp(one.data(), four.data(), sizeof(float) * 700 * 131) == 0);
    CHECK(one == shifted.middleCols(5, 131));
    double sum = 0;
    for (index_t i = 0; i < 700; ++i) {
      RowMatrix<float> slope(1, 131);
      sum += Cpu(1).objective<float>(objective, O.middleRows(i, 1), slope);
      if (i == 17) CHECK((slope / 700 - one.row(17)).cwiseAbs().maxCoeff() < 1e-6f);
    }
    CHECK(sum / 700 == Approx(value).epsilon(1e-6));
  };
  check(Whip{});
  check(Uniformity{});
  check(Kurtosis{});
  check(Peak{});
  check(QuantError{});
}

TEMPLATE_TEST_CASE("rows are sorted stably, whatever their bits", "[objective]", float, double) {
  using T = TestType;
  detail::RowSort<T> sort;
  RowMatrix<T> x = gaussian<T>(1, 777, 4);
  x(0, 5) = x(0, 700) = x(0, 300);
  x(0, 6) = std::numeric_limits<T>::infinity();
  x(0, 8) = -std::numeric_limits<T>::max();
  x(0, 9) = T(-0.0);
  x(0, 10) = T(0);
  std::vector<std::int32_t> expected(777);
  for (std::size_t i = 0; i < 777; ++i) expected[i] = static_cast<std::int32_t>(i);
  std::stable_sort(expected.begin(), expected.end(),
                   [&](std::int32_t a, std::int32_t b) { return x(0, a) < x(0, b); });
  auto const order = sort(VectorView<T const>(x.data(), 777));
  CHECK(std::equal(order.begin(), order.end(), expected.begin(), expected.end()));
  x.setConstant(std::numeric_limits<T>::quiet_NaN());
  CHECK(sort(VectorView<T const>(x.data(), 3)).size() == 3);
}

TEST_CASE("the vectorised exponential is exp to two units in the last place", "[objective]") {
  float worst = 0;
  for (float x = 0; x > -87; x = std::nextafter(x * 1.0001F, -88.0F)) {
    double const exact = std::exp(static_cast<double>(x));
    float const error =
        static_cast<float>(std::abs(static_cast<double>(detail::exp_nonpositive(x)) - exact) / exact);
    worst = std::max(worst, error);
  }
  CHECK(worst <= 2 * std::numeric_limits<float>::epsilon());
  CHECK(detail::exp_nonpositive(0.0F) == 1);
  CHECK(detail::exp_nonpositive(-0.0F) == 1);
  for (float const x : {-87.1F, -1000.0F, -std::numeric_limits<float>::infinity()})
    CHECK((detail::exp_nonpositive(x) > 0 && detail::exp_nonpositive(x) < 2e-38F));
}

TEST_CASE("objectives refuse parameters out of range", "[objective]") {
  CHECK_THROWS_WITH((QuantError{.bits = 1}.validate()), "[QuantError] 1 bits: 2 to 8 are possible");
  CHECK_THROWS_WITH((QuantError{.bits = 4, .clip = 0}.validate()),
                    "[QuantError] clip 0: must be above 0 and at most 1");
  CHECK_THROWS_WITH((Peak{.temperature = 0}.validate()), "[Peak] temperature 0: must be above 0");
  CHECK_THROWS_WITH((Kurtosis{.scale = -1}.validate()), "[Kurtosis] scale -1: must be above 0");
  RowMatrix<float> const O(0, 4);
  RowMatrix<float> slope(0, 4);
  CHECK_THROWS_WITH(Cpu(1).objective<float>(Whip{}, O, slope),
                    Catch::Matchers::Contains("[objective] 0 x 4 values"));
}
