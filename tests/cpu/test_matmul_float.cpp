// SPDX-License-Identifier: Apache-2.0
// Products of float activations, every instruction set against the formula of kernels.h, which is held to its
// bound.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include <dartquant/kernels.h>
#include <dartquant/core/half.hpp>

#include "cpu/product_cases.hpp"

namespace {

using namespace product_test;
using dartquant::BFloat16;
using dartquant::Half;

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
    INFO(name_of(cpu) << ": " << c.text() << ", type " << type << ", values about " << values_about);
    CHECK(different(y, expected) == 0);
    CHECK(y.guards_intact());
  }
}

}  // namespace

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
      CHECK(different(y, expected) == 0);
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
