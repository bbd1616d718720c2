// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the instructions of cuda/tensor_core.cuh mean, in plain C++, with the spread of the operands over the
// lanes of a warp as the PTX ISA describes it. Kernels find these functions by their HostThread.

#include <array>
#include <cstdint>

#include <dartquant/core/half.hpp>
#include <dartquant/cuda/activations.cuh>

#include "support/host_thread.hpp"

namespace dartquant::test {

inline std::uint32_t select_bytes(HostThread const&, std::uint32_t a, std::uint32_t b,
                                  std::uint32_t selector) {
  std::uint64_t const both = static_cast<std::uint64_t>(b) << 32 | a;
  std::uint32_t word = 0;
  for (int i = 0; i < 4; ++i)
    word |= static_cast<std::uint32_t>(both >> (8 * (selector >> (4 * i) & 7)) & 0xFF) << (8 * i);
  return word;
}

inline std::int32_t sum_bytes(HostThread const&, std::uint32_t word, std::int32_t sum) {
  for (int i = 0; i < 4; ++i) sum += static_cast<std::int8_t>(word >> (8 * i));
  return sum;
}

namespace detail {

struct MmaOperands {
  std::uint32_t a[4], b[2];
};

/// c += a b for rows r, r + 8 and columns 2 q, 2 q + 1 of this lane. Word i of a lane 4 r + q holds `count`
/// values of row r + 8 (i mod 2), channels count (q + 4 (i / 2)) ..; b likewise of column r. value(word, k)
/// is the k-th value of a word.
template <class Sum, class Value>
void multiply(HostThread const& thread, Sum (&c)[4], std::uint32_t const (&a)[4], std::uint32_t b0,
              std::uint32_t b1, int count, Value const& value) {
  auto const lanes = thread.gather_warp(MmaOperands{{a[0], a[1], a[2], a[3]}, {b0, b1}});
  int const r = thread.lane() / 4, q = thread.lane() % 4;
  for (int i = 0; i < 4; ++i)
    for (int half = 0; half < 2; ++half)
      for (int source = 0; source < 4; ++source) {
        auto const& row = lanes[static_cast<std::size_t>(4 * r + source)];
        auto const& column = lanes[static_cast<std::size_t>(4 * (2 * q + i % 2) + source)];
        for (int k = 0; k < count; ++k) c[i] += value(row.a[2 * half + i / 2], k) * value(column.b[half], k);
      }
}

}  // namespace detail

inline void multiply_doubles(HostThread const& thread, double (&c)[2], double a, double b) {
  auto const lanes = thread.gather_warp(std::array<double, 2>{a, b});
  int const r = thread.lane() / 4, q = thread.lane() % 4;
  for (int i = 0; i < 2; ++i)
    for (int k = 0; k < 4; ++k)
      c[i] += lanes[static_cast<std::size_t>(4 * r + k)][0] *
              lanes[static_cast<std::size_t>(4 * (2 * q + i) + k)][1];
}

inline void multiply_bytes(HostThread const& thread, int (&c)[4], std::uint32_t const (&a)[4],
                           std::uint32_t b0, std::uint32_t b1) {
  detail::multiply(thread, c, a, b0, b1, 4, [](std::uint32_t word, int k) -> int {
    return static_cast<std::int8_t>(word >> (8 * k));
  });
}

inline constexpr bool has_nibbles(HostThread const&) { return true; }

inline void multiply_nibbles(HostThread const& thread, int (&c)[4], std::uint32_t const (&a)[4],
                             std::uint32_t b0, std::uint32_t b1) {
  detail::multiply(thread, c, a, b0, b1, 8, [](std::uint32_t word, int k) -> int {
    return static_cast<std::int32_t>(word << (28 - 4 * k)) >> 28;
  });
}

template <class T>
void multiply_floats(HostThread const& thread, T, float (&c)[4], std::uint32_t const (&a)[4],
                     std::uint32_t b0, std::uint32_t b1) {
  detail::multiply(thread, c, a, b0, b1, 2, [](std::uint32_t word, int k) {
    return to_float(T{static_cast<std::uint16_t>(word >> (16 * k))});
  });
}

template <class T>
std::uint32_t subtract_pair(HostThread const&, T, std::uint32_t a, std::uint32_t b) {
  std::uint32_t pair = 0;
  for (int k = 0; k < 32; k += 16) {
    float const difference =
        to_float(T{static_cast<std::uint16_t>(a >> k)}) - to_float(T{static_cast<std::uint16_t>(b >> k)});
    pair |= static_cast<std::uint32_t>(from_float<T>(difference).bits) << k;
  }
  return pair;
}

inline std::uint32_t subtract_from_16th(HostThread const&, std::uint32_t a, std::uint32_t b) {
  std::uint32_t pair = 0;
  for (int k = 0; k < 32; k += 16) {
    float const difference = to_float(Half{static_cast<std::uint16_t>(a >> k)}) / 16 -
                             to_float(Half{static_cast<std::uint16_t>(b >> k)});
    pair |= static_cast<std::uint32_t>(from_float<Half>(difference).bits) << k;
  }
  return pair;
}
inline std::uint32_t mask_and_flip(HostThread const&, std::uint32_t word, std::uint32_t mask,
                                   std::uint32_t flip) {
  return (word & mask) ^ flip;
}

inline cuda::Words4 read_once(HostThread const&, cuda::Words4 const* address) { return *address; }
inline void fetch_to_cache(HostThread const&, void const*) {}
inline void let_dependents_start(HostThread const&) {}
inline void wait_for_predecessors(HostThread const&) {}

}  // namespace dartquant::test
