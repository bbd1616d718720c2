// SPDX-License-Identifier: Apache-2.0
#include <dartquant/core/random.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <vector>

#include "support/catch.hpp"

using namespace dartquant;

TEST_CASE("Philox4x32-10 gives the published numbers", "[random]") {
  // Random123's known-answer vectors for philox4x32-10.
  REQUIRE(Philox(0, 0).block(0) ==
          std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  REQUIRE(Philox(~0ull, ~0ull).block(~0ull) ==
          std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  REQUIRE(Philox(0x299f31d0a4093822ull, 0x0370734413198a2eull).block(0x85a308d3243f6a88ull) ==
          std::array<std::uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("uniform and normal numbers have the moments of their distributions", "[random]") {
  Philox const random(7, 3);
  int const count = 200000;
  double mean = 0, square = 0, fourth = 0, uniform = 0;
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(count); ++i) {
    double const z = random.normal(i), u = random.uniform(i);
    REQUIRE((u >= 0 && u < 1));
    REQUIRE(std::isfinite(z));
    mean += z, square += z * z, fourth += z * z * z * z, uniform += u;
  }
  // Five standard errors of each mean.
  REQUIRE(std::abs(mean / count) < 5 / std::sqrt(count));
  REQUIRE(std::abs(square / count - 1) < 5 * std::sqrt(2.0 / count));
  REQUIRE(std::abs(fourth / count - 3) < 5 * std::sqrt(96.0 / count));
  REQUIRE(std::abs(uniform / count - 0.5) < 5 * std::sqrt(1.0 / 12 / count));
}

TEST_CASE("the normal numbers agree with Box and Muller in long double", "[random]") {
  Philox const random(11);
  for (std::uint64_t i = 0; i < 20000; ++i) {
    auto const words = random.block(i);
    std::uint64_t const a = (std::uint64_t{words[1]} << 32) | words[0],
                        b = (std::uint64_t{words[3]} << 32) | words[2];
    long double const u = static_cast<long double>((a >> 11) + 1) * 0x1p-53L,
                      t = static_cast<long double>(b >> 11) * 0x1p-53L;
    long double const expected =
        std::sqrt(-2 * std::log(u)) * std::cos(2 * 3.14159265358979323846264338L * t);
    REQUIRE(std::abs(random.normal(i) - static_cast<double>(expected)) < 1e-14);
  }
}

TEST_CASE("numbers below a bound are below it and cover it evenly", "[random]") {
  Philox const random(5);
  std::array<int, 7> hits{};
  for (std::uint64_t i = 0; i < 70000; ++i) ++hits[random.below(i, 7)];
  for (int const count : hits) REQUIRE(std::abs(count - 10000) < 500);
  REQUIRE(random.below(0, 1) == 0);
  std::uint64_t const large = (1ull << 63) + 12345;
  for (std::uint64_t i = 0; i < 1000; ++i) REQUIRE(random.below(i, large) < large);
}

TEST_CASE("a sample without replacement has no repeats and every index is equally likely", "[random]") {
  std::vector<int> hits(50);
  for (std::uint64_t seed = 0; seed < 5000; ++seed) {
    auto const sample = sample_without_replacement(50, 10, Philox(seed));
    REQUIRE(std::set<index_t>(sample.begin(), sample.end()).size() == 10);
    for (index_t const i : sample) ++hits[static_cast<std::size_t>(i)];
  }
  for (int const count : hits) REQUIRE(std::abs(count - 1000) < 5 * 29);  // binomial, standard deviation 28.3
  REQUIRE(sample_without_replacement(3, 3, Philox(1)).size() == 3);
  REQUIRE(sample_without_replacement(0, 0, Philox(1)).empty());
  REQUIRE_THROWS_WITH(sample_without_replacement(3, 4, Philox(1)), Catch::Contains("4 of 3"));
}

TEST_CASE("streams and seeds are independent", "[random]") {
  REQUIRE(Philox(1, 0).bits(0) != Philox(1, 1).bits(0));
  REQUIRE(Philox(1, 0).bits(0) != Philox(2, 0).bits(0));
  REQUIRE(Philox(1, 0).bits(9) == Philox(1, 0).bits(9));
}
