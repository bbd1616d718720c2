// SPDX-License-Identifier: Apache-2.0
// The calls on rows, every instruction set against the plain C++ references.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <dartquant/kernels.h>
#include <dartquant/core/cpu.hpp>
#include <dartquant/core/half.hpp>
#include <dartquant/quant/quantize.hpp>
#include <dartquant/transform/hadamard.hpp>

#include "cpu/exact.hpp"
#include "cpu/owned_transform.hpp"
#include "support/catch.hpp"

namespace {

using namespace kernel_test;
using dartquant::index_t;
using dartquant::RowMatrix;
using Random = std::mt19937;

/// The processor with each of its instruction sets chosen.
std::vector<dartquant_cpu> processors() {
  dartquant_cpu cpu;
  dartquant_amx_request();
  REQUIRE(dartquant_cpu_detect(&cpu) == 0);
  std::vector<dartquant_cpu> all;
  for (int i = 0; i < dartquant_isa_count; ++i)
    if (dartquant_cpu_choose(&cpu, static_cast<dartquant_isa>(i)) == 0) all.push_back(cpu);
  return all;
}

std::string name_of(dartquant_cpu const& cpu) {
  return dartquant_isa_name(static_cast<dartquant_isa>(cpu.chosen));
}

RowMatrix<float> normal(Random& random, index_t rows, index_t cols) {
  std::normal_distribution<float> distribution;
  RowMatrix<float> X(rows, cols);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) X(i, j) = distribution(random) * (random() % 50 == 0 ? 20.0f : 1.0f);
  return X;
}

float get(dartquant_matrix const& m, index_t i, index_t j) {
  index_t const at = i * m.stride + j;
  if (m.type == dartquant_float32) return static_cast<float const*>(m.data)[at];
  if (m.type == dartquant_float16)
    return dartquant::to_float(static_cast<dartquant::Half const*>(m.data)[at]);
  return dartquant::to_float(static_cast<dartquant::BFloat16 const*>(m.data)[at]);
}

void set(dartquant_matrix const& m, index_t i, index_t j, float value) {
  index_t const at = i * m.stride + j;
  if (m.type == dartquant_float32) static_cast<float*>(m.data)[at] = value;
  else if (m.type == dartquant_float16) static_cast<dartquant::Half*>(m.data)[at] = dartquant::to_half(value);
  else static_cast<dartquant::BFloat16*>(m.data)[at] = dartquant::to_bfloat16(value);
}

/// A copy of X with the type, a stride that leaves gaps, and an unaligned start.
Values stored(RowMatrix<float> const& X, dartquant_type type, index_t extra) {
  Values values(type, X.rows(), X.cols(), extra, 3);
  for (index_t i = 0; i < X.rows(); ++i)
    for (index_t j = 0; j < X.cols(); ++j) set(values.m, i, j, X(i, j));
  return values;
}

/// What the kernels read.
RowMatrix<float> read(dartquant_matrix const& m) {
  RowMatrix<float> X(m.rows, m.cols);
  for (index_t i = 0; i < m.rows; ++i)
    for (index_t j = 0; j < m.cols; ++j) X(i, j) = get(m, i, j);
  return X;
}

/// Gaps between rows still hold what Exact put there.
bool gaps_untouched(dartquant_matrix const& m) {
  index_t const size = m.type == dartquant_float32 ? 4 : 2;
  auto const* const bytes = static_cast<std::uint8_t const*>(m.data);
  for (index_t i = 0; i + 1 < m.rows; ++i)
    for (index_t k = (i * m.stride + m.cols) * size; k < (i + 1) * m.stride * size; ++k)
      if (bytes[k] != 0xA5) return false;
  return true;
}

bool gaps_untouched(Plain const& plain) {
  auto const& q = plain.q;
  for (index_t i = 0; i + 1 < q.rows; ++i)
    for (index_t k = q.bits == 4 ? (q.cols + 1) / 2 : q.cols; k < q.level_stride; ++k)
      if (plain.levels.data()[i * q.level_stride + k] != 0xA5) return false;
  return true;
}

Exact workspace(index_t cols) {
  std::size_t bytes = 0;
  REQUIRE(dartquant_rows_workspace_size(cols, &bytes) == 0);
  return Exact(bytes);
}

/// With the transform of the C++ library.
struct Transform : OwnedTransform {
  using OwnedTransform::OwnedTransform;

  /// Permute, then Hadamard::apply.
  [[nodiscard]] RowMatrix<float> reference(RowMatrix<float> const& X) const {
    RowMatrix<float> Y = X;
    if (!permutation.empty())
      for (index_t j = 0; j < X.cols(); ++j) Y.col(j) = X.col(permutation[static_cast<std::size_t>(j)]);
    if (c.block != 0) dartquant::Hadamard(X.cols(), c.block).apply(dartquant::Cpu(1), Y);
    return Y;
  }
};

/// |difference| of two sums of `block` terms in any order, of norm |x| each.
double bound(index_t block, double norm) { return 2.0 * static_cast<double>(block) * 6e-8 * norm; }

void check_hadamard(dartquant_cpu const& cpu, RowMatrix<float> const& X, Transform const& transform,
                    dartquant_type from, dartquant_type to, index_t parts, bool in_place) {
  Values x = stored(X, from, 3), y(to, X.rows(), X.cols(), in_place ? 3 : 5, 1);
  RowMatrix<float> const expected = transform.reference(read(x.m));
  dartquant_matrix const* const out = in_place ? &x.m : &y.m;
  for (index_t part = parts - 1; part >= 0; --part) {
    Exact const space = workspace(X.cols());
    REQUIRE(dartquant_hadamard(&cpu, &transform.c, &x.m, out, space.data(), space.size(), part, parts) == 0);
  }
  CHECK(gaps_untouched(*out));
  Values rounded = stored(expected, out->type, 0);
  double worst = 0;
  for (index_t i = 0; i < X.rows(); ++i)
    for (index_t j = 0; j < X.cols(); ++j)
      worst = std::max(worst, std::abs(static_cast<double>(get(*out, i, j)) - get(rounded.m, i, j)));
  double const ulp = out->type == dartquant_float32 ? 0 : out->type == dartquant_float16 ? 1e-3 : 8e-3;
  double const size = expected.cwiseAbs().maxCoeff();
  CHECK(worst <= (transform.c.base == nullptr ? 0 : bound(transform.c.base_order, size) + ulp * size));
}

TEST_CASE("Hadamard transforms of rows are those of the plain class", "[rows]") {
  Random random(1);
  struct Case {
    index_t cols, block;
  };
  std::vector<Case> cases{{1, 1},         {6, 2},       {12, 4},      {40, 8},        {48, 16},
                          {96, 32},       {192, 64},    {384, 128},   {768, 256},     {1024, 512},
                          {2048, 1024},   {2048, 2048}, {8192, 4096}, {8192, 8192},   {16384, 16384},
                          {32768, 32768}, {12, 12},     {40, 20},     {28, 28},       {36, 36},
                          {96, 24},       {80, 80},     {224, 112},   {1152, 576},    {344, 172},
                          {1376, 688},    {768, 96},    {5120, 5120}, {11008, 11008}, {33, 0}};
  for (dartquant_cpu const& cpu : processors())
    for (Case const& c : cases) {
      CAPTURE(name_of(cpu), c.cols, c.block);
      index_t const rows = c.cols >= 8192 ? 2 : 1 + static_cast<index_t>(random() % 7);
      RowMatrix<float> const X = normal(random, rows, c.cols);
      Transform const plain(random, c.cols, c.block, false), permuted(random, c.cols, c.block, true);
      check_hadamard(cpu, X, plain, dartquant_float32, dartquant_float32, 1, false);
      check_hadamard(cpu, X, permuted, dartquant_float32, dartquant_float32, 2, true);
      check_hadamard(cpu, X, plain, dartquant_float16, dartquant_bfloat16, 3, false);
      check_hadamard(cpu, X, permuted, dartquant_bfloat16, dartquant_float16, 1, false);
      check_hadamard(cpu, X, plain, dartquant_bfloat16, dartquant_bfloat16, 1, true);
    }
}

TEST_CASE("Consecutive rows on whole cache lines have the same bytes as others", "[rows]") {
  Random random(8);
  for (dartquant_cpu const& cpu : processors())
    for (index_t const block : {16, 128, 4096, 8192, 192, 688}) {
      CAPTURE(name_of(cpu), block);
      RowMatrix<float> const X = normal(random, 5, 3 * block);
      Transform const plain(random, 3 * block, block, false), permuted(random, 3 * block, block, true);
      Exact const space = workspace(3 * block);
      for (Transform const* const transform : {&plain, &permuted})
        for (auto const type : {dartquant_float32, dartquant_bfloat16}) {
          Values x = stored(X, type, 1), apart(dartquant_float32, 5, 3 * block, 7, 1);
          auto const run = [&](dartquant_matrix const& from, dartquant_matrix const& to) {
            return dartquant_hadamard(&cpu, &transform->c, &from, &to, space.data(), space.size(), 0, 1);
          };
          REQUIRE(run(x.m, apart.m) == 0);
          Values together(dartquant_float32, 5, 3 * block);
          REQUIRE(run(x.m, together.m) == 0);
          CHECK(read(together.m) == read(apart.m));
          for (index_t i = 0; i < 5; ++i)
            for (index_t j = 0; j < 3 * block; ++j) set(together.m, i, j, get(x.m, i, j));
          REQUIRE(run(together.m, together.m) == 0);
          CHECK(read(together.m) == read(apart.m));
        }
    }
}

TEST_CASE("Every instruction set gives the same bytes, for a base too", "[rows]") {
  Random random(2);
  for (index_t const block : {12, 56, 80, 172, 344, 576}) {
    RowMatrix<float> const X = normal(random, 5, 2 * block);
    Transform const transform(random, 2 * block, block, true);
    std::vector<std::uint8_t> first;
    for (dartquant_cpu const& cpu : processors()) {
      CAPTURE(name_of(cpu), block);
      Values x = stored(X, dartquant_bfloat16, 0), y(dartquant_float32, 5, 2 * block, 2);
      Exact const space = workspace(2 * block);
      REQUIRE(dartquant_hadamard(&cpu, &transform.c, &x.m, &y.m, space.data(), space.size(), 0, 1) == 0);
      if (first.empty()) first = y.memory.bytes();
      CHECK(y.memory.bytes() == first);
    }
  }
}

template <int bits>
void check_equal(dartquant::IntMatrix<bits> const& expected, Plain const& found) {
  index_t different = 0;
  int const shift = found.q.symmetry == dartquant_symmetric ? 1 << (bits - 1) : 0;
  for (index_t i = 0; i < expected.rows(); ++i)
    for (index_t j = 0; j < expected.cols(); ++j) {
      index_t const g = j / (found.q.group == 0 ? expected.cols() : found.q.group);
      different += found.code(i, j) != expected.level(i, j) + shift;
      different += found.scale(i, g) != expected.scale(i, j);
      if (shift == 0) different += found.zero_point(i, g) != expected.zero_point(i, j);
    }
  CHECK(different == 0);
}

struct QuantizeCase {
  PlainShape shape;
  index_t block = 0;
  bool permuted = false;
  dartquant_type type = dartquant_float32;
  float clip = 1;
  index_t parts = 1;
};

dartquant::QuantizeOptions options_of(QuantizeCase const& c) {
  dartquant::QuantizeOptions options;
  options.bits = c.shape.bits;
  options.granularity = c.shape.group == 0 ? dartquant::per_row : dartquant::per_group(c.shape.group);
  options.symmetry = static_cast<dartquant::Symmetry>(c.shape.symmetry);
  options.clip_ratio = static_cast<double>(c.clip);
  return options;
}

/// Quantizes, compares with quantize after the reference transform, dequantizes, and compares again.
void check_quantize(dartquant_cpu const& cpu, Random& random, QuantizeCase const& c) {
  Transform const transform(random, c.shape.cols, c.block, c.permuted);
  Values x = stored(normal(random, c.shape.rows, c.shape.cols), c.type, c.shape.extra);
  Plain plain(c.shape);
  for (index_t part = 0; part < c.parts; ++part) {
    Exact const space = workspace(c.shape.cols);
    REQUIRE(dartquant_quantize(&cpu, &transform.c, &x.m, c.clip, &plain.q, space.data(), space.size(), part,
                               c.parts) == 0);
  }
  CHECK(gaps_untouched(plain));
  RowMatrix<float> const X = transform.reference(read(x.m));
  dartquant::Cpu const machine(1);
  RowMatrix<float> expected;
  if (c.shape.bits == 4) {
    auto const Q = dartquant::quantize(machine, X, options_of(c));
    check_equal(Q, plain);
    expected = dartquant::dequantize(machine, Q);
  } else {
    auto const Q = dartquant::quantize_int8(machine, X, options_of(c));
    check_equal(Q, plain);
    expected = dartquant::dequantize(machine, Q);
  }
  Values y(c.type, c.shape.rows, c.shape.cols, 2, 1), rounded = stored(expected, c.type, 0);
  for (index_t part = 0; part < c.parts; ++part) {
    Exact const space = workspace(c.shape.cols);
    REQUIRE(dartquant_dequantize(&cpu, &plain.q, &y.m, space.data(), space.size(), part, c.parts) == 0);
  }
  CHECK(gaps_untouched(y.m));
  CHECK((read(y.m).array() == read(rounded.m).array()).all());
}

TEST_CASE("Quantized rows have the bytes of the plain quantizer, and come back", "[rows]") {
  Random random(3);
  for (dartquant_cpu const& cpu : processors())
    for (index_t const cols : {1, 2, 7, 31, 64, 65, 129, 500, 1031, 4096, 5000})
      for (std::int32_t const bits : {4, 8})
        for (auto const symmetry : {dartquant_symmetric, dartquant_asymmetric})
          for (index_t const group : {0, 1, 5, 32, 99, 128, 6000}) {
            if (group == 1 && cols > 200) continue;
            CAPTURE(name_of(cpu), cols, bits, static_cast<int>(symmetry), group);
            QuantizeCase c{{1 + static_cast<index_t>(random() % 5), cols, bits, symmetry, group}};
            c.shape.extra = static_cast<index_t>(random() % 3);
            c.shape.offset = random() % 2;
            c.permuted = random() % 2 == 0;
            if (cols % 64 == 0 && random() % 2 == 0) c.block = 64;
            c.type = static_cast<dartquant_type>(random() % 3);
            c.clip = random() % 2 == 0 ? 1.0f : 0.9f;
            c.parts = 1 + static_cast<index_t>(random() % 3);
            check_quantize(cpu, random, c);
          }
}

TEST_CASE("A transform and the quantizer in one pass give what two passes give", "[rows]") {
  Random random(4);
  for (dartquant_cpu const& cpu : processors())
    for (index_t const block : {2, 8, 64, 128, 256, 1024, 4096})
      for (auto const type : {dartquant_float32, dartquant_float16, dartquant_bfloat16}) {
        CAPTURE(name_of(cpu), block, static_cast<int>(type));
        QuantizeCase c{{9, 4096, 4, dartquant_symmetric, 0}, block, block == 128, type};
        check_quantize(cpu, random, c);
        c.shape.group = 128;
        c.shape.symmetry = dartquant_asymmetric;
        check_quantize(cpu, random, c);
      }
}

TEST_CASE("KV caches: one scale per token and head, as rows or as groups of rows", "[rows]") {
  Random random(5);
  constexpr index_t tokens = 11, heads = 4;
  for (dartquant_cpu const& cpu : processors())
    for (index_t const head_dim : {64, 96, 128})
      for (std::int32_t const bits : {4, 8}) {
        CAPTURE(name_of(cpu), head_dim, bits);
        Values x = stored(normal(random, tokens, heads * head_dim), dartquant_float16, 0);
        Plain groups(PlainShape{tokens, heads * head_dim, bits, dartquant_asymmetric, head_dim});
        Plain rows(PlainShape{tokens * heads, head_dim, bits, dartquant_asymmetric});
        dartquant_matrix const x_rows{x.m.data, x.m.type, tokens * heads, head_dim, head_dim};
        Exact const space = workspace(heads * head_dim), row_space = workspace(head_dim);
        REQUIRE(dartquant_quantize(&cpu, nullptr, &x.m, 1, &groups.q, space.data(), space.size(), 0, 1) == 0);
        REQUIRE(dartquant_quantize(&cpu, nullptr, &x_rows, 1, &rows.q, row_space.data(), row_space.size(), 0,
                                   1) == 0);
        CHECK(groups == rows);
        RowMatrix<float> const X = read(x.m);
        auto const options = dartquant::kv_options(bits, head_dim);
        if (bits == 4) check_equal(dartquant::quantize(dartquant::Cpu(1), X, options), groups);
        else check_equal(dartquant::quantize_int8(dartquant::Cpu(1), X, options), groups);
      }
}

TEST_CASE("A group that is not finite is marked, all others are as ever", "[rows]") {
  Random random(6);
  constexpr index_t rows = 5, cols = 300, group = 100;
  for (dartquant_cpu const& cpu : processors())
    for (float const bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()})
      for (std::int32_t const bits : {4, 8})
        for (auto const symmetry : {dartquant_symmetric, dartquant_asymmetric}) {
          CAPTURE(name_of(cpu), bad, bits);
          RowMatrix<float> X = normal(random, rows, cols);
          Values clean = stored(X, dartquant_float32, 1);
          X(3, 157) = bad;
          Values x = stored(X, dartquant_float32, 1);
          PlainShape const shape{rows, cols, bits, symmetry, group};
          Plain expected(shape), found(shape);
          Exact const space = workspace(cols);
          REQUIRE(dartquant_quantize(&cpu, nullptr, &clean.m, 1, &expected.q, space.data(), space.size(), 0,
                                     1) == 0);
          REQUIRE(dartquant_quantize(&cpu, nullptr, &x.m, 1, &found.q, space.data(), space.size(), 0, 1) ==
                  256 * dartquant_arg_x + dartquant_not_finite);
          CHECK(std::isnan(found.scale(3, 1)));
          int const zero = symmetry == dartquant_symmetric ? 1 << (bits - 1) : 0;
          index_t different = 0;
          for (index_t i = 0; i < rows; ++i)
            for (index_t j = 0; j < cols; ++j) {
              bool const marked = i == 3 && j / group == 1;
              different += found.code(i, j) != (marked ? zero : expected.code(i, j));
            }
          CHECK(different == 0);
          if (symmetry == dartquant_asymmetric) CHECK(found.zero_point(3, 1) == 0);
        }
}

TEST_CASE("Extreme rows: zeros, one value, the largest numbers, the smallest", "[rows]") {
  constexpr float largest = std::numeric_limits<float>::max(), least = 1e-45f;
  RowMatrix<float> X(5, 67);
  X.setZero();
  X.row(1).setConstant(-3.5f);
  for (index_t j = 0; j < X.cols(); ++j) {
    X(2, j) = j % 2 == 0 ? largest : -largest;
    X(3, j) = static_cast<float>(j) * least;
    X(4, j) = j == 5 ? 1e-30f : 0.0f;
  }
  for (dartquant_cpu const& cpu : processors())
    for (std::int32_t const bits : {4, 8})
      for (auto const symmetry : {dartquant_symmetric, dartquant_asymmetric})
        for (float const clip : {1.0f, 0.5f, 1e-30f}) {
          CAPTURE(name_of(cpu), bits, static_cast<int>(symmetry), clip);
          QuantizeCase c{{X.rows(), X.cols(), bits, symmetry, 0}};
          c.clip = clip;
          Values x = stored(X, dartquant_float32, 0);
          Plain found(c.shape);
          Exact const space = workspace(X.cols());
          REQUIRE(dartquant_quantize(&cpu, nullptr, &x.m, clip, &found.q, space.data(), space.size(), 0, 1) ==
                  0);
          if (bits == 4) check_equal(dartquant::quantize(dartquant::Cpu(1), X, options_of(c)), found);
          else check_equal(dartquant::quantize_int8(dartquant::Cpu(1), X, options_of(c)), found);
        }
}

TEST_CASE("Parts of rows cover all of them once, also more parts than rows", "[rows]") {
  Random random(7);
  RowMatrix<float> const X = normal(random, 3, 130);
  Values x = stored(X, dartquant_float32, 0);
  for (dartquant_cpu const& cpu : processors()) {
    Plain one(PlainShape{3, 130, 4, dartquant_symmetric}), many(PlainShape{3, 130, 4, dartquant_symmetric});
    Exact const space = workspace(130);
    REQUIRE(dartquant_quantize(&cpu, nullptr, &x.m, 1, &one.q, space.data(), space.size(), 0, 1) == 0);
    for (index_t part = 0; part < 7; ++part)
      REQUIRE(dartquant_quantize(&cpu, nullptr, &x.m, 1, &many.q, space.data(), space.size(), part, 7) == 0);
    CHECK(one == many);
  }
}

TEST_CASE("Rows of another matrix may lie between the rows, but not over them", "[rows]") {
  dartquant_cpu const cpu = processors().front();
  Exact memory(4 * 4 * 16), space = workspace(8);
  std::fill_n(memory.as<float>(), 64, 1.0f);
  dartquant_transform const transform{nullptr, 8, nullptr, 0};
  dartquant_matrix const x{memory.data(), dartquant_float32, 4, 8, 16};
  auto const run = [&](std::int64_t first, std::int64_t stride) {
    dartquant_matrix const y{memory.as<float>() + first, dartquant_float32, 4, 8, stride};
    return dartquant_hadamard(&cpu, &transform, &x, &y, space.data(), space.size(), 0, 1);
  };
  CHECK(run(8, 16) == 0);
  CHECK(run(0, 16) == 0);
  CHECK(run(7, 16) == 256 * dartquant_arg_y + dartquant_bad_value);
  CHECK(run(4, 8) == 256 * dartquant_arg_y + dartquant_bad_value);
  CHECK(run(0, 12) == 256 * dartquant_arg_y + dartquant_bad_value);
}

TEST_CASE("Bases of blocks: known orders, and those that are not", "[rows]") {
  std::int64_t order = 0;
  for (index_t const block : {1, 2, 64, 32768}) {
    CHECK(dartquant_hadamard_base(block, nullptr, 0, &order) == 0);
    CHECK(order == 1);
  }
  for (index_t const block : {12, 24, 20, 28, 36, 172, 5120, 11008}) {
    REQUIRE(dartquant_hadamard_base(block, nullptr, 0, &order) == 0);
    std::vector<std::int8_t> base(static_cast<std::size_t>(order * order));
    REQUIRE(dartquant_hadamard_base(block, base.data(), base.size(), &order) == 0);
    index_t wrong = 0;
    for (index_t i = 0; i < order; ++i)
      for (index_t k = 0; k < order; ++k) {
        index_t product = 0;
        for (index_t j = 0; j < order; ++j)
          product +=
              base[static_cast<std::size_t>(i * order + j)] * base[static_cast<std::size_t>(k * order + j)];
        wrong += product != (i == k ? order : 0);
      }
    CHECK(wrong == 0);
  }
  for (index_t const block : {3, 6, 13696, 65536})
    CHECK(dartquant_status_reason(dartquant_hadamard_base(block, nullptr, 0, &order)) ==
          dartquant_unsupported);
}

}  // namespace
