// SPDX-License-Identifier: Apache-2.0
#pragma once

// Rows for the tests of row kernels: lengths, guarded buffers, and values that come out alike only if every
// kernel rounds alike.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <dartquant/kernels.h>
#include <dartquant/core/half.hpp>
#include "cpu/detect.hpp"
#include "support/catch.hpp"

namespace dartquant::cpu {

using Random = std::mt19937;
inline constexpr float infinity = std::numeric_limits<float>::infinity();
inline constexpr float quiet_nan = std::numeric_limits<float>::quiet_NaN();
inline constexpr std::uint8_t guard = 0xA5;

struct Named {
  std::string name;
  RowKernels const* kernels;
};

/// The tables of this machine other than the portable one, each once.
inline std::vector<Named> tables() {
  dartquant_cpu cpu;
  dartquant_amx_request();
  REQUIRE(dartquant_cpu_detect(&cpu) == 0);
  std::vector<Named> found;
  for (int i = 0; i < dartquant_isa_count; ++i) {
    auto const isa = static_cast<dartquant_isa>(i);
    if (dartquant_cpu_choose(&cpu, isa) != 0) continue;
    RowKernels const* const rows = kernels_of(&cpu).rows;
    bool const is_new =
        std::none_of(found.begin(), found.end(), [&](Named const& n) { return n.kernels == rows; });
    if (rows != &portable_rows && is_new) found.push_back({dartquant_isa_name(isa), rows});
  }
  return found;
}

inline std::vector<std::int64_t> lengths() {
  std::vector<std::int64_t> all;
  for (std::int64_t n = 0; n <= 70; ++n) all.push_back(n);
  for (std::int64_t n : {95, 127, 128, 129, 191, 255, 257, 1001}) all.push_back(n);
  return all;
}

/// `count` values of T between guards, at an address that is odd in units of T.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::int64_t count)
      : count_(static_cast<std::size_t>(count)), bytes_(64 + 64 + count_ * sizeof(T), guard) {
    auto const past = reinterpret_cast<std::uintptr_t>(bytes_.data()) % 64;
    offset_ = (64 - past) % 64 + sizeof(T);
  }
  [[nodiscard]] T* data() { return reinterpret_cast<T*>(bytes_.data() + offset_); }
  [[nodiscard]] T& operator[](std::int64_t i) { return data()[i]; }
  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(count_); }
  [[nodiscard]] bool same(Buffer& other) {
    return std::memcmp(data(), other.data(), count_ * sizeof(T)) == 0 && guarded() && other.guarded();
  }
  [[nodiscard]] bool guarded() const {
    auto const is_guard = [](std::uint8_t byte) { return byte == guard; };
    auto const first = bytes_.begin() + static_cast<std::ptrdiff_t>(offset_);
    return std::all_of(bytes_.begin(), first, is_guard) &&
           std::all_of(first + static_cast<std::ptrdiff_t>(count_ * sizeof(T)), bytes_.end(), is_guard);
  }

 private:
  std::size_t count_, offset_ = 0;
  std::vector<std::uint8_t> bytes_;
};

/// Bits from which every kernel should come back with the portable bytes; with or without NaN and infinity.
inline float any_float(Random& random, bool finite) {
  static constexpr float special[] = {0.0f,     -0.0f,    1e-45f, -1e-40f,       1.17549435e-38f,
                                      3.4e38f,  -3.4e38f, 0.5f,   -1.5f,         2.5f,
                                      65504.0f, 65520.0f, 1e30f,  -6.097555e-5f, 3.0e-8f};
  if (random() % 4 == 0) return special[random() % std::size(special)];
  if (!finite && random() % 16 == 0)
    return random() % 2 == 0 ? quiet_nan : random() % 2 == 0 ? infinity : -infinity;
  float const x = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
  return std::isfinite(x) ? x : static_cast<float>(random() % 2001) / 8.0f - 125.0f;
}

inline Buffer<float> floats(Random& random, std::int64_t count, bool finite) {
  Buffer<float> x(count);
  for (std::int64_t j = 0; j < count; ++j) x[j] = any_float(random, finite);
  return x;
}

/// Multiples of 1/8: sums of them come out the same in any order only if they are exact, so larger ones too.
inline Buffer<float> addends(Random& random, std::int64_t count) {
  Buffer<float> x(count);
  for (std::int64_t j = 0; j < count; ++j)
    x[j] = std::ldexp(static_cast<float>(random() % 16777215) - 8388607.0f,
                      static_cast<int>(random() % 40) - 30);
  return x;
}

/// The bits, with NaNs told apart from numbers only.
template <class T>
std::uint32_t bits(T x) {
  if (std::isnan(dartquant::to_float(x))) return 0x7FC00000u;
  if constexpr (sizeof(T) == 4) return std::bit_cast<std::uint32_t>(x);
  else return x.bits;
}

template <class T>
void same_but_for_payloads(Buffer<T>& a, Buffer<T>& b) {
  std::int64_t different = 0;
  for (std::int64_t j = 0; j < a.size(); ++j) different += bits(a[j]) != bits(b[j]);
  CHECK(different == 0);
  CHECK(a.guarded());
  CHECK(b.guarded());
}

}  // namespace dartquant::cpu
