// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the row kernels for AVX-512 share. Included by files compiled for it and by nothing else; everything
// is in an unnamed namespace.

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernel_table.hpp"

#define DARTQUANT_INLINE inline __attribute__((always_inline))

#if defined(__GNUC__) && !defined(__clang__)  // g++ 12 warns of its own undefined vectors
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace dartquant::cpu {
namespace {

constexpr std::int64_t lanes = 16;

DARTQUANT_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
/// The lowest min(count, 16) or min(count, 64) bits.
DARTQUANT_INLINE __mmask16 mask16(std::int64_t count) {
  return count >= 16 ? static_cast<__mmask16>(0xFFFF) : static_cast<__mmask16>((1u << count) - 1);
}
DARTQUANT_INLINE __mmask64 mask64(std::int64_t count) {
  return count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

/// Requests for memory that a kernel makes on the way, or none. They bring it into the second-level cache:
/// the first has no room for rows to come and too few places for lines that are under way. `draw` brings what
/// was asked for nearer when it is about to be used.
struct Requests {
  Ahead ahead;

  DARTQUANT_INLINE void request() {
    _mm_prefetch(ahead.at, _MM_HINT_T1);
    ahead.at += ahead.pitch;
  }
  DARTQUANT_INLINE void draw(char const* at) { _mm_prefetch(at, _MM_HINT_T0); }
};
struct NoRequests {
  DARTQUANT_INLINE void request() {}
  DARTQUANT_INLINE void draw(char const*) {}
};

}  // namespace
}  // namespace dartquant::cpu
