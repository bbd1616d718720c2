// SPDX-License-Identifier: Apache-2.0
#include <dartquant/core/half.hpp>

#include <cmath>
#include <cstdint>
#include <limits>

#include "support/catch.hpp"

using namespace dartquant;

TEST_CASE("every 16-bit pattern survives the way to float and back", "[half]") {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    Half const half{static_cast<std::uint16_t>(bits)};
    BFloat16 const bfloat{static_cast<std::uint16_t>(bits)};
    if (std::isnan(to_float(half))) REQUIRE(std::isnan(to_float(to_half(to_float(half)))));
    else REQUIRE(to_half(to_float(half)).bits == half.bits);
    if (std::isnan(to_float(bfloat))) REQUIRE(std::isnan(to_float(to_bfloat16(to_float(bfloat)))));
    else REQUIRE(to_bfloat16(to_float(bfloat)).bits == bfloat.bits);
  }
}

TEST_CASE("known values", "[half]") {
  REQUIRE(to_float(Half{0x3C00}) == 1.0f);
  REQUIRE(to_float(Half{0x7BFF}) == 65504.0f);
  REQUIRE(to_float(Half{0x0001}) == std::ldexp(1.0f, -24));
  REQUIRE(to_half(65519.0f).bits == 0x7BFF);
  REQUIRE(to_half(65520.0f).bits == 0x7C00);
  REQUIRE(to_half(-std::numeric_limits<float>::infinity()).bits == 0xFC00);
  REQUIRE(to_half(std::ldexp(1.0f, -25)).bits == 0);  // tie, to even
  REQUIRE(to_half(std::ldexp(1.5f, -25)).bits == 1);
  REQUIRE(to_float(BFloat16{0x3F80}) == 1.0f);
  REQUIRE(to_bfloat16(std::numeric_limits<float>::max()).bits == 0x7F80);
}

TEST_CASE("rounding is to nearest even: the two neighbours are never closer", "[half]") {
  std::uint32_t state = 1;
  for (int i = 0; i < 200000; ++i) {
    state = state * 1664525u + 1013904223u;
    float const x = std::bit_cast<float>(state);
    if (!std::isfinite(x) || std::abs(x) > 65504.0f) continue;
    Half const h = to_half(x);
    double const error = std::abs(static_cast<double>(to_float(h)) - x);
    for (int const step : {-1, 1}) {
      Half const neighbour{static_cast<std::uint16_t>(h.bits + step)};
      if (!std::isfinite(to_float(neighbour))) continue;
      double const other = std::abs(static_cast<double>(to_float(neighbour)) - x);
      REQUIRE((error < other || (error == other && (h.bits & 1) == 0) || h.bits == 0 || h.bits == 0x8000));
    }
  }
}
