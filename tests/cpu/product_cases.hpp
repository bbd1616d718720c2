// SPDX-License-Identifier: Apache-2.0
#pragma once

// Plain and packed matrices for the tests of products, and cases of sizes and kinds that are drawn from
// lists.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <dartquant/kernels.h>

#include "support/catch.hpp"

namespace product_test {

using Random = std::mt19937;

inline std::int64_t pick(Random& random, std::vector<std::int64_t> const& from) {
  return from[random() % from.size()];
}

/// Memory aligned as the contract wants it.
struct Aligned {
  std::vector<std::uint8_t> bytes;
  std::uint8_t* data;
  std::size_t size;
  explicit Aligned(std::size_t count) : bytes(count + 64, 0xA5), size(count) {
    std::size_t const past = reinterpret_cast<std::uintptr_t>(bytes.data()) % 64;
    data = bytes.data() + (past == 0 ? 0 : 64 - past);
  }
};

enum class Fill { random, lowest, highest };

/// A plain quantized matrix with its memory; strides are larger than rows.
struct Plain {
  std::vector<std::uint8_t> levels;
  std::vector<float> scales;
  std::vector<std::int32_t> zero_points;
  dartquant_quantized q{};

  Plain(Random& random, std::int64_t rows, std::int64_t cols, std::int32_t bits, dartquant_symmetry symmetry,
        std::int64_t group, Fill fill) {
    std::int64_t const groups = group == 0 || group > cols ? 1 : (cols - 1) / group + 1;
    std::int64_t const stride = (bits == 4 ? (cols + 1) / 2 : cols) + 5;
    levels.resize(static_cast<std::size_t>(rows * stride));
    scales.resize(static_cast<std::size_t>(rows * (groups + 1)));
    zero_points.resize(static_cast<std::size_t>(rows * (groups + 2)));
    std::int32_t const top = bits == 4 ? 15 : 255;
    int const sign = bits == 4 ? 0x88 : 0x80;  // the bits that turn 0 into the lowest signed level
    int const flip = symmetry == dartquant_symmetric ? sign : 0;
    for (auto& byte : levels) {
      byte = static_cast<std::uint8_t>(random());
      if (fill != Fill::random) byte = static_cast<std::uint8_t>((fill == Fill::lowest ? 0 : 255) ^ flip);
    }
    for (auto& scale : scales) scale = std::ldexp(static_cast<float>(random() % 4096 + 1), -16);
    for (auto& zero : zero_points) {
      zero = static_cast<std::int32_t>(random() % static_cast<unsigned>(top + 1));
      if (fill != Fill::random) zero = fill == Fill::lowest ? top : 0;
    }
    q = {rows,       cols,
         bits,       symmetry,
         group,      levels.data(),
         stride,     scales.data(),
         groups + 1, symmetry == dartquant_symmetric ? nullptr : zero_points.data(),
         groups + 2};
  }

  [[nodiscard]] std::int64_t group_of(std::int64_t j) const { return q.group == 0 ? 0 : j / q.group; }
  [[nodiscard]] float scale(std::int64_t i, std::int64_t g) const { return q.scales[i * q.scale_stride + g]; }
  /// level - zero point.
  [[nodiscard]] std::int64_t centered(std::int64_t i, std::int64_t j) const {
    std::uint8_t const* const row = levels.data() + i * q.level_stride;
    int const raw = q.bits == 8 ? row[j] : j % 2 == 0 ? row[j / 2] & 15 : row[j / 2] >> 4;
    if (q.symmetry == dartquant_asymmetric) return raw - q.zero_points[i * q.zero_point_stride + group_of(j)];
    int const half = q.bits == 4 ? 8 : 128;
    return (raw ^ half) - half;
  }
  [[nodiscard]] std::vector<std::int64_t> all_centered() const {
    std::vector<std::int64_t> values;
    for (std::int64_t i = 0; i < q.rows; ++i)
      for (std::int64_t j = 0; j < q.cols; ++j) values.push_back(centered(i, j));
    return values;
  }
};

struct Packed {
  dartquant_weights weights{};
  Aligned bytes{0};

  Packed(Plain const& plain, bool with_sums, std::int64_t parts) {
    weights = {plain.q.rows, plain.q.cols, plain.q.group, plain.q.symmetry, with_sums ? 1 : 0};
    std::size_t size = 0;
    REQUIRE(dartquant_packed_size(&weights, &size) == 0);
    bytes = Aligned(size);
    for (std::int64_t part = 0; part < parts; ++part)
      REQUIRE(dartquant_pack(&weights, &plain.q, bytes.data, size, part, parts) == 0);
  }
  Packed(Packed const&) = delete;
};

/// Y with a larger stride between guards.
struct Output {
  static constexpr float guard = -12345.5f;
  std::int64_t rows, cols, stride;
  std::vector<float> values;
  Output(std::int64_t tokens, std::int64_t out)
      : rows(tokens), cols(out), stride(out + 3), values(static_cast<std::size_t>(tokens * stride), guard) {}
  [[nodiscard]] dartquant_matrix matrix() { return {values.data(), dartquant_float32, rows, cols, stride}; }
  [[nodiscard]] float at(std::int64_t i, std::int64_t j) const {
    return values[static_cast<std::size_t>(i * stride + j)];
  }
  [[nodiscard]] bool guards_intact() const {
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = cols; j < stride; ++j)
        if (at(i, j) != guard) return false;
    return true;
  }
};

inline std::vector<dartquant_cpu> instruction_sets() {
  static_cast<void>(dartquant_amx_request());
  dartquant_cpu cpu{};
  REQUIRE(dartquant_cpu_detect(&cpu) == 0);
  std::vector<dartquant_cpu> all;
  for (int i = 0; i < dartquant_isa_count; ++i)
    if (dartquant_cpu_choose(&cpu, static_cast<dartquant_isa>(i)) == 0) all.push_back(cpu);
  return all;
}

inline char const* name_of(dartquant_cpu const& cpu) {
  return dartquant_isa_name(static_cast<dartquant_isa>(cpu.chosen));
}

struct Case {
  std::int64_t tokens, in, out, group, parts;
  bool asymmetric_weights, with_sums, with_bias;
  std::int32_t x_bits;
  bool asymmetric_x, x_per_group;
  Fill w_fill, x_fill;

  [[nodiscard]] std::string text() const {
    return std::to_string(tokens) + " x " + std::to_string(in) + " x " + std::to_string(out) + ", group " +
           std::to_string(group) + ", parts " + std::to_string(parts) +
           (asymmetric_weights ? ", asymmetric weights" : "") + ", " + std::to_string(x_bits) + " bits" +
           (asymmetric_x ? " asymmetric" : "") + (x_per_group ? " per group" : "");
  }
};

inline std::vector<float> some_bias(Random& random, std::int64_t out) {
  std::vector<float> bias;
  for (std::int64_t o = 0; o < out; ++o) bias.push_back(static_cast<float>(random() % 1000) / 64.0f - 7.0f);
  return bias;
}

/// A case of sizes and kinds drawn from lists; large ones are cut down to `most` multiplications.
inline Case draw(Random& random, std::int64_t tokens, std::int64_t most) {
  auto const coin = [&] { return random() % 2 == 0; };
  Case c{};
  c.tokens = tokens;
  do {
    c.in = pick(random, {1, 2, 7, 8, 31, 32, 33, 64, 96, 100, 128, 130, 200, 512, 1000});
    c.out = pick(random, {1, 2, 15, 16, 17, 31, 33, 48, 70});
  } while (tokens * c.in * c.out > most);
  c.group = pick(random, {0, 8, 24, 32, 64, 128});
  c.parts = pick(random, {1, 1, 2, 3, 7});
  c.asymmetric_weights = coin();
  c.with_bias = coin();
  c.x_bits = coin() ? 8 : 4;
  c.asymmetric_x = coin();
  c.with_sums = coin() || (c.asymmetric_x && c.x_bits == 8);
  c.x_per_group = coin();
  c.w_fill = static_cast<Fill>(random() % 8 < 6 ? 0 : random() % 3);
  c.x_fill = static_cast<Fill>(random() % 8 < 6 ? 0 : random() % 3);
  return c;
}

/// Values of Y whose bits are not those of `expected` [rows, cols].
inline std::int64_t different(Output const& y, std::vector<float> const& expected) {
  std::int64_t wrong = 0;
  for (std::int64_t i = 0; i < y.rows; ++i)
    for (std::int64_t o = 0; o < y.cols; ++o) {
      float const found = y.at(i, o);
      wrong += std::memcmp(&found, &expected[static_cast<std::size_t>(i * y.cols + o)], sizeof found) != 0;
    }
  return wrong;
}

}  // namespace product_test
