// SPDX-License-Identifier: Apache-2.0
// Packed weights and integer products, every instruction set against sums over the plain matrices.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <dartquant/kernels.h>

#include "cpu/product_cases.hpp"

namespace {

using namespace product_test;

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
    INFO(name_of(cpu) << ": " << c.text());
    CHECK(different(y, expected) == 0);
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
