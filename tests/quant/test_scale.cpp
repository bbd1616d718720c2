// SPDX-License-Identifier: Apache-2.0
#include <dartquant/core/random.hpp>
#include <dartquant/quant/scale.hpp>

#include <cfenv>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "data.hpp"
#include "support/catch.hpp"

using namespace dartquant;
using quant_test::both_symmetries;

namespace {

template <class T>
bool sound(Quantizer<T> const& quantizer) {
  return std::isnormal(quantizer.scale) && quantizer.scale > 0 && std::isnormal(quantizer.inverse);
}

constexpr float huge = std::numeric_limits<float>::max(), tiny = std::numeric_limits<float>::denorm_min(),
                infinity = std::numeric_limits<float>::infinity(),
                not_a_number = std::numeric_limits<float>::quiet_NaN();

}  // namespace

static_assert(levels(4, Symmetry::symmetric).lowest == -8 && levels(4, Symmetry::symmetric).highest == 7);
static_assert(levels(4, Symmetry::asymmetric).lowest == 0 && levels(4, Symmetry::asymmetric).highest == 15);
static_assert(levels(2, Symmetry::symmetric).highest == 1 && levels(8, Symmetry::asymmetric).highest == 255);
static_assert(symmetric_quantizer(7.0f, 4).level(2.5f) == 2, "usable in constant expressions");

TEMPLATE_TEST_CASE("rounding goes to the nearest, halves to even", "[scale]", float, double) {
  for (int n = -300; n <= 300; ++n) {
    auto const half = static_cast<TestType>(n) + TestType(0.5);
    int const even = n % 2 == 0 ? n : n + 1;
    CHECK(round_half_even(static_cast<TestType>(n)) == n);
    CHECK(round_half_even(half) == even);
    CHECK(round_half_even(std::nextafter(half, TestType(1000))) == n + 1);
    CHECK(round_half_even(std::nextafter(half, TestType(-1000))) == n);
  }
  CHECK(round_half_even(TestType(-0.0)) == 0);
  CHECK(round_half_even(std::nextafter(TestType(0.5), TestType(0))) == 0);
  Philox const random(3);
  int wrong = 0;
  for (std::uint64_t i = 0; i < 100000; ++i) {
    auto const x = static_cast<TestType>((random.uniform(i) - 0.5) * 600);
    wrong += static_cast<double>(round_half_even(x)) == std::nearbyint(static_cast<double>(x)) ? 0 : 1;
  }
  CHECK(wrong == 0);
}

TEST_CASE("rounding does not depend on the rounding mode", "[scale]") {
  int const before = std::fegetround();
  for (int const mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    std::fesetround(mode);
    float volatile half = 2.5f, above = 2.75f, below = -2.25f, small = 0.25f;
    int const results[] = {round_half_even(float(half)), round_half_even(float(above)),
                           round_half_even(float(below)), round_half_even(float(small))};
    std::fesetround(before);
    CHECK(results[0] == 2);
    CHECK(results[1] == 3);
    CHECK(results[2] == -2);
    CHECK(results[3] == 0);
  }
}

TEST_CASE("clamp_to limits, and a NaN becomes the lowest", "[scale]") {
  CHECK(clamp_to(3.0f, -1.0f, 2.0f) == 2.0f);
  CHECK(clamp_to(-3.0f, -1.0f, 2.0f) == -1.0f);
  CHECK(clamp_to(0.5f, -1.0f, 2.0f) == 0.5f);
  CHECK(clamp_to(infinity, -1.0f, 2.0f) == 2.0f);
  CHECK(clamp_to(not_a_number, -1.0f, 2.0f) == -1.0f);
}

TEST_CASE("the symmetric scale puts the largest magnitude on the last level", "[scale]") {
  for (int bits = 2; bits <= 8; ++bits) {
    int const last = (1 << (bits - 1)) - 1;
    auto const quantizer = symmetric_quantizer(3.7f, bits);
    CHECK(quantizer.scale == 3.7f / static_cast<float>(last));
    CHECK(quantizer.zero_point == 0);
    CHECK(quantizer.level(3.7f) == last);
    CHECK(quantizer.level(-3.7f) == -last);
    CHECK(quantizer.level(0.0f) == 0);
    CHECK(quantizer.level(-1000.0f) == -last - 1);  // the spare level holds only what was clipped
    CHECK(quantizer.level(1000.0f) == last);
  }
}

TEST_CASE("the asymmetric range holds zero exactly", "[scale]") {
  for (int bits = 2; bits <= 8; ++bits) {
    int const last = (1 << bits) - 1;
    for (auto const& [min, max] : {std::pair(-1.0f, 2.0f), std::pair(-5.0f, 0.1f), std::pair(1.0f, 2.0f),
                                   std::pair(-2.0f, -1.0f), std::pair(0.0f, 3.0f), std::pair(-3.0f, 0.0f)}) {
      auto const quantizer = asymmetric_quantizer(min, max, bits);
      float const low = std::min(min, 0.0f), high = std::max(max, 0.0f);
      CHECK(quantizer.scale == (high - low) / static_cast<float>(last));
      CHECK(quantizer.zero_point == std::lround(-low / quantizer.scale));
      CHECK(quantizer.round_trip(0.0f) == 0.0f);
      CHECK(quantizer.level(0.0f) == quantizer.zero_point);
      CHECK(quantizer.level(-100.0f) == 0);
      CHECK(quantizer.level(100.0f) == last);
      CHECK(std::abs(quantizer.round_trip(min) - min) <= 0.5001f * quantizer.scale);
      CHECK(std::abs(quantizer.round_trip(max) - max) <= 0.5001f * quantizer.scale);
    }
  }
  CHECK(asymmetric_quantizer(1.0f, 2.0f, 4).zero_point == 0);     // min above 0: the range starts at 0
  CHECK(asymmetric_quantizer(-2.0f, -1.0f, 4).zero_point == 15);  // max below 0: the range ends at 0
}

TEST_CASE("a row of one value c keeps c up to rounding", "[scale]") {
  for (int bits = 2; bits <= 8; ++bits)
    for (float const c : {1.0f, -1.0f, 3e-5f, -123.456f, 1e30f})
      for (auto const symmetry : both_symmetries)
        CHECK(range_quantizer(c, c, bits, symmetry).round_trip(c) == Approx(c).epsilon(1e-6));
}

TEST_CASE("no range gives a scale of zero, infinity or NaN", "[scale]") {
  for (int bits = 2; bits <= 8; ++bits)
    for (auto const symmetry : both_symmetries)
      for (float const min :
           {-infinity, -huge, -1e38f, -1.0f, -1e-38f, -tiny, -0.0f, 0.0f, tiny, 1.0f, not_a_number})
        for (float const max :
             {-1.0f, -tiny, 0.0f, tiny, 1e-38f, 1.0f, 1e38f, huge, infinity, not_a_number}) {
          auto const quantizer = range_quantizer(min, max, bits, symmetry);
          CAPTURE(bits, min, max, quantizer.scale, quantizer.inverse);
          REQUIRE(sound(quantizer));
          auto const [lowest, highest] = levels(bits, symmetry);
          REQUIRE(quantizer.zero_point >= std::max(0, lowest));
          REQUIRE(quantizer.zero_point <= highest);
          for (int level = lowest; level <= highest; ++level) REQUIRE(std::isfinite(quantizer.value(level)));
          for (float const x : {min, max, huge, -huge, not_a_number}) {
            REQUIRE(quantizer.level(x) >= lowest);
            REQUIRE(quantizer.level(x) <= highest);
          }
          REQUIRE(quantizer.round_trip(0.0f) == 0.0f);
        }
  CHECK(symmetric_quantizer(0.0f, 4).scale == 1.0f);
  CHECK(asymmetric_quantizer(0.0f, 0.0f, 4).scale == 1.0f);
  CHECK(sound(symmetric_quantizer(std::numeric_limits<double>::max(), 2)));
  CHECK(sound(asymmetric_quantizer(-std::numeric_limits<double>::max(), 5e-324, 8)));
}

TEST_CASE("values above 2^126 saturate there and keep their sign", "[scale]") {
  auto const quantizer = asymmetric_quantizer(-huge, huge, 4);
  CHECK(quantizer.round_trip(huge) > 0.9f * std::ldexp(1.0f, 126));
  CHECK(quantizer.round_trip(-huge) < -0.9f * std::ldexp(1.0f, 126));
  CHECK(symmetric_quantizer(huge, 4).round_trip(huge) == Approx(std::ldexp(1.0f, 126)));
}

TEST_CASE("the level of every value is the nearest one", "[scale]") {
  Philox const random(11);
  for (int bits = 2; bits <= 8; ++bits)
    for (auto const symmetry : both_symmetries)
      for (std::uint64_t seed = 0; seed < 200; ++seed) {
        double const size = std::exp2(40 * random.uniform(seed) - 20);
        auto const min = static_cast<float>(-size * random.uniform(1000 + seed)),
                   max = static_cast<float>(size * random.uniform(2000 + seed));
        auto const quantizer = range_quantizer(min, max, bits, symmetry);
        double const scale = quantizer.scale;
        for (std::uint64_t k = 0; k < 20; ++k) {
          auto const x =
              static_cast<float>(min + (double(max) - min) * random.uniform(10000 + 20 * seed + k));
          double const error = std::abs(double(quantizer.round_trip(x)) - double(x));
          // Half a level; the zero point moves the ends of an asymmetric range by up to half a level more.
          // The quotient (two roundings) and the product (one) add 3 x 2^-24 of at most 2^bits levels.
          double const edge =
              symmetry == Symmetry::asymmetric && (x < min + scale || x > max - scale) ? 1 : 0.5;
          REQUIRE(error <= scale * (edge + std::ldexp(3.0, bits - 24)));
          REQUIRE(quantizer.value(quantizer.level(x)) == quantizer.round_trip(x));
        }
      }
}
