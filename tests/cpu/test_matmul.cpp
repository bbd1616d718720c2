// SPDX-License-Identifier: Apache-2.0
// Packed weights and products, every instruction set against sums over the plain matrices.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <dartquant/kernels.h>
#include <dartquant/core/half.hpp>
#include "support/catch.hpp"

namespace {

using dartquant::BFloat16;
using dartquant::Half;
using Random = std::mt19937;

std::int64_t pick(Random& random, std::vector<std::int64_t> const& from) {
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

std::vector<dartquant_cpu> instruction_sets() {
  static_cast<void>(dartquant_amx_request());
  dartquant_cpu cpu{};
  REQUIRE(dartquant_cpu_detect(&cpu) == 0);
  std::vector<dartquant_cpu> all;
  for (int i = 0; i < dartquant_isa_count; ++i)
    if (dartquant_cpu_choose(&cpu, static_cast<dartquant_isa>(i)) == 0) all.push_back(cpu);
  return all;
}

char const* name_of(dartquant_cpu const& cpu) {
  return dartquant_isa_name(static_cast<dartquant_isa>(cpu.chosen));
}

/// The formula of dartquant_matmul over the plain matrices.
std::vector<float> product(Plain const& x, Plain const& w, float const* bias) {
  std::vector<std::int64_t> const X = x.all_centered(), W = w.all_centered();
  std::int64_t const in = w.q.cols, width = w.q.group == 0 ? in : w.q.group;
  bool const x_has_groups = x.q.group != 0 && x.q.group < in;
  std::vector<float> Y;
  for (std::int64_t i = 0; i < x.q.rows; ++i)
    for (std::int64_t o = 0; o < w.q.rows; ++o) {
      float a = 0;
      for (std::int64_t first = 0, g = 0; first < in; first += width, ++g) {
        std::int64_t n = 0;
        for (std::int64_t j = first; j < std::min(in, first + width); ++j)
          n += X[static_cast<std::size_t>(i * in + j)] * W[static_cast<std::size_t>(o * in + j)];
        float scale = w.scale(o, g);
        if (x_has_groups) scale *= x.scale(i, g);
        a = std::fma(static_cast<float>(n), scale, a);
      }
      float const b = bias == nullptr ? 0.0f : bias[o];
      Y.push_back(x_has_groups ? a + b : std::fma(a, x.scale(i, 0), b));
    }
  return Y;
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

std::vector<float> some_bias(Random& random, std::int64_t out) {
  std::vector<float> bias;
  for (std::int64_t o = 0; o < out; ++o) bias.push_back(static_cast<float>(random() % 1000) / 64.0f - 7.0f);
  return bias;
}

void check_case(Random& random, Case const& c) {
  auto const symmetry = [](bool asymmetric) {
    return asymmetric ? dartquant_asymmetric : dartquant_symmetric;
  };
  Plain const w(random, c.out, c.in, 4, symmetry(c.asymmetric_weights), c.group, c.w_fill);
  Plain const x(random, c.tokens, c.in, c.x_bits, symmetry(c.asymmetric_x), c.x_per_group ? c.group : 0,
                c.x_fill);
  Packed const packed(w, c.with_sums, c.parts);
  std::vector<float> const values = some_bias(random, c.out);
  float const* const bias = c.with_bias ? values.data() : nullptr;
  std::vector<float> const expected = product(x, w, bias);
  std::size_t size = 0;
  REQUIRE(dartquant_matmul_workspace_size(&packed.weights, c.tokens, c.x_bits, &size) == 0);
  for (dartquant_cpu const& cpu : instruction_sets()) {
    Output y(c.tokens, c.out);
    dartquant_matrix const matrix = y.matrix();
    for (std::int64_t part = 0; part < c.parts; ++part) {
      Aligned const workspace(size);
      REQUIRE(dartquant_matmul(&cpu, &packed.weights, packed.bytes.data, packed.bytes.size, &x.q, bias,
                               &matrix, workspace.data, size, part, c.parts) == 0);
    }
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < c.tokens; ++i)
      for (std::int64_t o = 0; o < c.out; ++o) {
        float const found = y.at(i, o);
        wrong += std::memcmp(&found, &expected[static_cast<std::size_t>(i * c.out + o)], sizeof found) != 0;
      }
    INFO(name_of(cpu) << ": " << c.text());
    CHECK(wrong == 0);
    CHECK(y.guards_intact());
  }
}

/// A case of sizes and kinds drawn from lists; large ones are cut down to `most` multiplications.
Case draw(Random& random, std::int64_t tokens, std::int64_t most) {
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

/// The three digits of a value in units of 2^exponent, highest first.
std::array<std::int64_t, 3> digits_of(double value, int exponent) {
  std::int64_t const n = std::llround(std::ldexp(value, -exponent));
  std::int64_t const low = static_cast<std::int8_t>(n & 255), rest = (n - low) / 256;
  std::int64_t const middle = static_cast<std::int8_t>(rest & 255);
  return {(rest - middle) / 256, middle, low};
}

/// The formula of dartquant_matmul_float for one row.
std::vector<float> float_product(std::vector<double> const& x, Plain const& w, float const* bias) {
  double largest = 0;
  for (double const value : x) largest = std::max(largest, std::abs(value));
  int exponent = -149;  // the smallest from which on 127 digits of every place are enough
  while (std::ldexp(largest, -exponent) > 127.0 * (65536 + 256 + 1)) ++exponent;
  if (largest == 0) exponent = 0;
  std::vector<std::int64_t> const W = w.all_centered();
  std::int64_t const in = w.q.cols, width = w.q.group == 0 ? in : w.q.group;
  std::vector<float> y;
  for (std::int64_t o = 0; o < w.q.rows; ++o) {
    std::array<float, 3> a{};
    for (std::int64_t first = 0, g = 0; first < in; first += width, ++g) {
      std::array<std::int64_t, 3> n{};
      for (std::int64_t j = first; j < std::min(in, first + width); ++j) {
        auto const digits = digits_of(x[static_cast<std::size_t>(j)], exponent);
        for (std::size_t place = 0; place < 3; ++place)
          n[place] += digits[place] * W[static_cast<std::size_t>(o * in + j)];
      }
      for (std::size_t place = 0; place < 3; ++place)
        a[place] = std::fma(static_cast<float>(n[place]), w.scale(o, g), a[place]);
    }
    float const sum = a[0] + (a[1] + a[2] / 256) / 256;
    float const without_bias = sum * std::ldexp(1.0F, exponent + 16);
    y.push_back(bias == nullptr ? without_bias : without_bias + bias[o]);
  }
  return y;
}

/// X of random values about `size`, some of them 0 or much smaller; every fourth row is one large value among
/// small ones.
template <class T>
std::vector<T> random_values(Random& random, std::int64_t rows, std::int64_t stride, float size) {
  std::vector<T> x;
  for (std::int64_t i = 0; i < rows * stride; ++i) {
    float value = (static_cast<float>(random() % 20001) / 10000.0F - 1) * size;
    if (random() % 16 == 0) value *= std::ldexp(1.0F, -static_cast<int>(random() % 30));
    if (i / stride % 4 == 3 && i % stride != stride / 2) value /= 4096;
    x.push_back(dartquant::from_float<T>(value));
  }
  return x;
}

/// Byte for byte the documented formula, and within the documented bound of the exact product.
template <class T>
void check_float_case(Random& random, Case const& c, dartquant_type type, float values_about = 10) {
  Plain const w(random, c.out, c.in, 4, c.asymmetric_weights ? dartquant_asymmetric : dartquant_symmetric,
                c.group, c.w_fill);
  Packed const packed(w, c.with_sums, c.parts);
  std::int64_t const stride = c.in + 2;
  std::vector<T> x = random_values<T>(random, c.tokens, stride, values_about);
  dartquant_matrix const X{x.data(), type, c.tokens, c.in, stride};
  std::vector<float> const values = some_bias(random, c.out);
  float const* const bias = c.with_bias ? values.data() : nullptr;
  std::vector<std::int64_t> const W = w.all_centered();
  std::size_t size = 0;
  REQUIRE(dartquant_matmul_workspace_size(&packed.weights, c.tokens, type == dartquant_float32 ? 32 : 16,
                                          &size) == 0);
  std::int64_t const groups = c.group == 0 ? 1 : (c.in - 1) / c.group + 1;
  std::vector<float> expected;
  std::int64_t beyond = 0;
  for (std::int64_t i = 0; i < c.tokens; ++i) {
    std::vector<double> row;
    for (std::int64_t j = 0; j < c.in; ++j)
      row.push_back(static_cast<double>(dartquant::to_float(x[static_cast<std::size_t>(i * stride + j)])));
    std::vector<float> const y = float_product(row, w, bias);
    expected.insert(expected.end(), y.begin(), y.end());
    double largest = 0;
    for (double const value : row) largest = std::max(largest, std::abs(value));
    for (std::int64_t o = 0; o < c.out; ++o) {
      double exact = 0, magnitude = 0, weights = 0;
      for (std::int64_t j = 0; j < c.in; ++j) {
        double const weight = static_cast<double>(W[static_cast<std::size_t>(o * c.in + j)]) *
                              static_cast<double>(w.scale(o, w.group_of(j)));
        exact += row[static_cast<std::size_t>(j)] * weight;
        magnitude += std::abs(row[static_cast<std::size_t>(j)] * weight);
        weights += std::abs(weight);
      }
      if (bias != nullptr) exact += static_cast<double>(bias[o]);
      double const bound = std::ldexp(largest * weights, -22) +
                           std::ldexp(static_cast<double>(groups + 4) * magnitude, -22) +
                           std::ldexp(std::abs(exact), -24) + std::ldexp(1, -149);
      beyond += !(std::abs(static_cast<double>(y[static_cast<std::size_t>(o)]) - exact) <= bound);
    }
  }
  CHECK(beyond == 0);
  for (dartquant_cpu const& cpu : instruction_sets()) {
    Output y(c.tokens, c.out);
    dartquant_matrix const matrix = y.matrix();
    for (std::int64_t part = 0; part < c.parts; ++part) {
      Aligned const workspace(size);
      REQUIRE(dartquant_matmul_float(&cpu, &packed.weights, packed.bytes.data, packed.bytes.size, &X, bias,
                                     &matrix, workspace.data, size, part, c.parts) == 0);
    }
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < c.tokens; ++i)
      for (std::int64_t o = 0; o < c.out; ++o) {
        float const found = y.at(i, o);
        wrong += std::memcmp(&found, &expected[static_cast<std::size_t>(i * c.out + o)], sizeof found) != 0;
      }
    INFO(name_of(cpu) << ": " << c.text() << ", type " << type << ", values about " << values_about);
    CHECK(wrong == 0);
    CHECK(y.guards_intact());
  }
}

}  // namespace

TEST_CASE("packing and unpacking give the same levels, scales and zero points") {
  Random random(1);
  for (std::int64_t const in : {1, 7, 8, 33, 100, 130})
    for (std::int64_t const group : {0, 8, 32})
      for (auto const symmetry : {dartquant_symmetric, dartquant_asymmetric}) {
        std::int64_t const out = 1 + static_cast<std::int64_t>(random() % 40);
        Plain const w(random, out, in, 4, symmetry, group, Fill::random);
        Packed const packed(w, true, 3), again(w, true, 1);
        CHECK(std::memcmp(packed.bytes.data, again.bytes.data, again.bytes.size) == 0);
        Plain back(random, out, in, 4, symmetry, group, Fill::random);
        REQUIRE(dartquant_unpack(&packed.weights, packed.bytes.data, packed.bytes.size, &back.q, 0, 1) == 0);
        CHECK(back.all_centered() == w.all_centered());
        std::int64_t different = 0;
        for (std::int64_t i = 0; i < out; ++i)
          for (std::int64_t g = 0; g <= w.group_of(in - 1); ++g) {
            different += back.scale(i, g) != w.scale(i, g);
            if (symmetry == dartquant_asymmetric)
              different += back.q.zero_points[i * back.q.zero_point_stride + g] !=
                           w.q.zero_points[i * w.q.zero_point_stride + g];
          }
        CHECK(different == 0);
      }
}

TEST_CASE("integer products are those of the plain matrices, bit for bit") {
  Random random(2);
  for (std::int64_t const tokens : {1, 2, 3, 4, 5, 8, 9, 11, 13, 16, 17, 23, 24, 25, 33, 35})
    for (int i = 0; i < 14; ++i) check_case(random, draw(random, tokens, 150000));
}

TEST_CASE("integer products of more rows than a block, and of long rows") {
  Random random(3);
  for (int i = 0; i < 4; ++i) check_case(random, draw(random, 257, 600000));
  for (std::int64_t const group : {0, 32, 128, 4096})
    for (std::int64_t const tokens : {1, 6, 19, 30})
      check_case(random, {tokens, 9000, 17, group, 1, group == 128, true, true, 8, group == 0, group == 32,
                          Fill::random, Fill::random});
}

TEST_CASE("integer products of the extreme levels") {
  Random random(4);
  for (std::int64_t const tokens : {1, 5, 19, 27})
    for (auto const w_fill : {Fill::lowest, Fill::highest})
      for (auto const x_fill : {Fill::lowest, Fill::highest})
        for (int kind = 0; kind < 8; ++kind)
          check_case(random, {tokens, 200, 33, 64, 1, (kind & 1) != 0, true, false, (kind & 2) != 0 ? 8 : 4,
                              (kind & 4) != 0, false, w_fill, x_fill});
}

TEST_CASE("float products are those of the plain matrices, bit for bit and within the documented bound") {
  Random random(5);
  for (std::int64_t const tokens : {1, 2, 3, 4, 5, 7, 9, 16, 17, 33, 65})
    for (int i = 0; i < 5; ++i) {
      check_float_case<float>(random, draw(random, tokens, 100000), dartquant_float32);
      check_float_case<Half>(random, draw(random, tokens, 100000), dartquant_float16);
      check_float_case<BFloat16>(random, draw(random, tokens, 100000), dartquant_bfloat16);
    }
  for (std::int64_t const tokens : {1, 9, 30})
    check_float_case<float>(
        random,
        {tokens, 9000, 17, 0, 1, tokens == 9, false, true, 8, false, false, Fill::random, Fill::random},
        dartquant_float32);
  check_float_case<float>(random, draw(random, 173, 600000), dartquant_float32);  // more than two blocks
}

TEST_CASE("float products of outputs that take more than one turn") {
  Random random(8);
  for (std::int64_t const tokens : {1, 60, 90})
    check_float_case<float>(random,
                            {tokens, 40, 1000, 32, tokens == 60 ? 3 : 1, tokens == 90, false, true, 8, false,
                             false, Fill::random, Fill::random},
                            dartquant_float32);
}

TEST_CASE("float products of the largest and the smallest floats") {
  Random random(7);
  for (float const size : {0.0F, 1e-45F, 3e-44F, 1e-40F, 1e-38F, 1e-30F, 1.0F, 127.0F, 128.0F, 1e30F, 3e36F})
    for (std::int64_t const tokens : {1, 4}) {
      Case c = draw(random, tokens, 30000);
      c.with_bias = size == 1.0F;
      check_float_case<float>(random, c, dartquant_float32, size);
    }
}

TEST_CASE("float activations are rounded to nearest, halves away from zero") {
  Random random(9);
  // The largest makes the unit 1; the next is the first that would need a digit of 128.
  for (float const largest : {8355711.0F, 8355712.0F, 4177856.0F, -8355711.0F}) {
    std::vector<float> const x{largest,     0.49999997F, 0.5F,       -0.5F,      -0.49999997F, 0.50000006F,
                               1.5F,        2.4999998F,  2.5F,       -3.5F,      127.5F,       128.0F,
                               -128.5F,     32639.5F,    32640.0F,   -32768.5F,  4194303.5F,   4194303.25F,
                               -8388607.0F, 8355711.5F,  -8355711.F, 8355710.5F, 0.0F,         -0.0F};
    std::vector<float> row;
    for (float const value : x)
      if (std::abs(value) <= std::abs(largest)) row.push_back(value);
    auto const in = static_cast<std::int64_t>(row.size());
    Plain const w(random, 20, in, 4, dartquant_symmetric, 8, Fill::random);
    Packed const packed(w, false, 1);
    std::vector<float> const expected = float_product({row.begin(), row.end()}, w, nullptr);
    dartquant_matrix const X{row.data(), dartquant_float32, 1, in, in};
    std::size_t size = 0;
    REQUIRE(dartquant_matmul_workspace_size(&packed.weights, 1, 32, &size) == 0);
    for (dartquant_cpu const& cpu : instruction_sets()) {
      Output y(1, 20);
      dartquant_matrix const matrix = y.matrix();
      Aligned const workspace(size);
      REQUIRE(dartquant_matmul_float(&cpu, &packed.weights, packed.bytes.data, packed.bytes.size, &X, nullptr,
                                     &matrix, workspace.data, size, 0, 1) == 0);
      INFO(name_of(cpu) << ", largest " << largest);
      for (std::int64_t o = 0; o < 20; ++o) CHECK(y.at(0, o) == expected[static_cast<std::size_t>(o)]);
    }
  }
}

TEST_CASE("float products of a row that is not finite are NaN") {
  Random random(6);
  std::int64_t const in = 64, out = 20;
  Plain const w(random, out, in, 4, dartquant_symmetric, 32, Fill::random);
  Packed const packed(w, false, 1);
  for (std::int64_t const tokens : {1, 10})
    for (float const value : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
      std::vector<float> x(static_cast<std::size_t>(tokens * in), 1.0f);
      x[37] = value;
      dartquant_matrix const X{x.data(), dartquant_float32, tokens, in, in};
      std::size_t size = 0;
      REQUIRE(dartquant_matmul_workspace_size(&packed.weights, tokens, 32, &size) == 0);
      for (dartquant_cpu const& cpu : instruction_sets()) {
        Output y(tokens, out);
        dartquant_matrix const matrix = y.matrix();
        Aligned const workspace(size);
        REQUIRE(dartquant_matmul_float(&cpu, &packed.weights, packed.bytes.data, packed.bytes.size, &X,
                                       nullptr, &matrix, workspace.data, size, 0, 1) == 0);
        INFO(name_of(cpu));
        for (std::int64_t o = 0; o < out; ++o) {
          CHECK(std::isnan(y.at(0, o)));
          if (tokens > 1) CHECK(std::isfinite(y.at(1, o)));
        }
      }
    }
}
