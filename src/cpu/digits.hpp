// SPDX-License-Identifier: Apache-2.0
#pragma once

// Floats as three bytes each, for products of floats by the instructions for bytes. A plain loop that the
// compiler makes vectors of: every file that includes this is compiled for another processor and keeps its
// own copy, hence the unnamed namespace.

#include <cstdint>

namespace dartquant::cpu {
namespace {

/// See RowKernels::digits.
inline void digits(float const* __restrict x, std::int64_t count, float factor, float inverse,
                   std::int8_t* __restrict high, std::int8_t* __restrict middle,
                   std::int8_t* __restrict low) {
  // The float before 1/2: added to itself it stays below 1, where 1/2 would have been rounded up.
  constexpr float below_half = 0x1.FFFFFEp-2F;
  for (std::int64_t j = 0; j < count; ++j) {
    float const value = x[j] * factor * inverse;
    auto const n = static_cast<std::int32_t>(value + (value < 0.0F ? -below_half : below_half));
    // A byte of two's complement is the digit from -128 to 127; what it takes too much the next one gives
    // back.
    std::int32_t const without_low = (n + 0x80) >> 8, without_middle = (without_low + 0x80) >> 8;
    low[j] = static_cast<std::int8_t>(n);
    middle[j] = static_cast<std::int8_t>(without_low);
    high[j] = static_cast<std::int8_t>(without_middle);
  }
}

}  // namespace
}  // namespace dartquant::cpu
