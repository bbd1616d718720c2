// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include <dartquant/core/error.hpp>
#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a
/// keyed bijection of 128-bit counters. Number `index` of stream `stream` is a pure function of (seed,
/// stream, index), so the numbers are the same on every platform, for any thread count and in any order of
/// asking. No state, no global.
class Philox {
 public:
  DARTQUANT_HD constexpr explicit Philox(std::uint64_t seed, std::uint64_t stream = 0)
      : seed_(seed), stream_(stream) {}

  /// The four 32-bit words of counter `index`.
  [[nodiscard]] DARTQUANT_HD constexpr std::array<std::uint32_t, 4> block(std::uint64_t index) const {
    std::uint32_t c0 = low(index), c1 = high(index), c2 = low(stream_), c3 = high(stream_);
    std::uint32_t k0 = low(seed_), k1 = high(seed_);
    for (int round = 0; round < 10; ++round) {
      std::uint64_t const p0 = std::uint64_t{0xD2511F53u} * c0, p1 = std::uint64_t{0xCD9E8D57u} * c2;
      c0 = high(p1) ^ c1 ^ k0;
      c1 = low(p1);
      c2 = high(p0) ^ c3 ^ k1;
      c3 = low(p0);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return {c0, c1, c2, c3};
  }

  /// 64 uniform bits.
  [[nodiscard]] DARTQUANT_HD constexpr std::uint64_t bits(std::uint64_t index) const {
    auto const words = block(index);
    return (std::uint64_t{words[1]} << 32) | words[0];
  }

  /// Uniform in [0, 1), 53 bits.
  [[nodiscard]] DARTQUANT_HD constexpr double uniform(std::uint64_t index) const {
    return static_cast<double>(bits(index) >> 11) * 0x1p-53;
  }

  /// Uniform integer in [0, bound), by multiplication (Lemire); the bias is below bound / 2^64. Precondition:
  /// bound > 0.
  [[nodiscard]] DARTQUANT_HD constexpr std::uint64_t below(std::uint64_t index, std::uint64_t bound) const {
    std::uint64_t const x = bits(index);
    std::uint64_t const low_product = low(x) * (bound & 0xFFFFFFFFu),
                        middle = high(x) * (bound & 0xFFFFFFFFu) + (low_product >> 32);
    std::uint64_t const other = low(x) * (bound >> 32) + (middle & 0xFFFFFFFFu);
    return high(x) * (bound >> 32) + (middle >> 32) + (other >> 32);
  }

  /// +1 or -1.
  [[nodiscard]] DARTQUANT_HD constexpr int sign(std::uint64_t index) const {
    return (block(index)[0] & 1u) != 0 ? 1 : -1;
  }

  /// Standard normal, by Box and Muller. Logarithm, square root and cosine are evaluated with correctly
  /// rounded operations only (std::fma, std::sqrt), so the result does not depend on the C library.
  [[nodiscard]] double normal(std::uint64_t index) const {
    auto const words = block(index);
    std::uint64_t const a = (std::uint64_t{words[1]} << 32) | words[0],
                        b = (std::uint64_t{words[3]} << 32) | words[2];
    double const u = static_cast<double>((a >> 11) + 1) * 0x1p-53;  // (0, 1]
    return std::sqrt(-2 * log_unit(u)) * cos_turn(static_cast<double>(b >> 11) * 0x1p-53);
  }

 private:
  DARTQUANT_HD static constexpr std::uint32_t low(std::uint64_t x) { return static_cast<std::uint32_t>(x); }
  DARTQUANT_HD static constexpr std::uint32_t high(std::uint64_t x) {
    return static_cast<std::uint32_t>(x >> 32);
  }

  /// log(u) for 0 < u <= 1: u = 2^e m with m in [sqrt(1/2), sqrt(2)), log m = 2 artanh((m - 1) / (m + 1)) as
  /// a series.
  static double log_unit(double u) {
    int exponent = 0;
    double m = std::frexp(u, &exponent);
    if (m < 0.70710678118654757) {
      m *= 2;
      --exponent;
    }
    double const s = (m - 1) / (m + 1), s2 = s * s;
    double sum = 0;
    for (int k = 23; k >= 1; k -= 2) sum = std::fma(sum, s2, 1.0 / k);
    return std::fma(static_cast<double>(exponent), 0.69314718055994531, 2 * s * sum);
  }

  /// cos(2 pi t) for 0 <= t < 1: folded to an eighth of a turn, then a Taylor series.
  static double cos_turn(double t) {
    double const octant = std::floor(std::fma(t, 4.0, 0.5));  // nearest quarter turn
    double const x = std::fma(octant, -0.25, t) * 6.2831853071795865, x2 = x * x;
    int const quarter = static_cast<int>(octant) & 3;
    double sum = 0;
    if (quarter == 0 || quarter == 2) {
      for (int k = 16; k >= 0; k -= 2) sum = std::fma(sum, -x2 / ((k + 1.0) * (k + 2.0)), 1.0);
    } else {
      for (int k = 17; k >= 1; k -= 2) sum = std::fma(sum, -x2 / ((k + 1.0) * (k + 2.0)), 1.0);
      sum *= x;
    }
    return quarter == 0 || quarter == 3 ? sum : -sum;
  }

  std::uint64_t seed_, stream_;
};

/// `count` distinct indices of [0, population), in random order: Fisher and Yates. Every subset is equally
/// likely. Errors: InvalidArgument when count is negative or above population. Cost: O(population) memory and
/// time.
[[nodiscard]] inline std::vector<index_t> sample_without_replacement(index_t population, index_t count,
                                                                     Philox const& random) {
  detail::require(count >= 0 && count <= population, "[sample_without_replacement] ", count, " of ",
                  population, ": the count must be between 0 and the population");
  std::vector<index_t> order(static_cast<std::size_t>(population));
  std::iota(order.begin(), order.end(), index_t{0});
  for (index_t i = 0; i < count; ++i) {
    auto const offset =
        random.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(population - i));
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(i) + offset]);
  }
  order.resize(static_cast<std::size_t>(count));
  return order;
}

}  // namespace dartquant
