// SPDX-License-Identifier: Apache-2.0
// The quantizing kernels' bodies, run on the CPU, have the bytes of dartquant_quantize and
// dartquant_dequantize.

#include "cuda/rows_case.hpp"

using namespace rows_test;

namespace {

struct Case {
  std::int64_t rows, cols, block = 0, group = 0;
  std::int64_t extra = 0;  ///< of the strides
  float clip = 1;
  std::int32_t bits = 4;
  dartquant_symmetry symmetry = dartquant_symmetric;
  bool permuted = false;
};

PlainShape shape_of(Case const& c) {
  return {c.rows, c.cols, c.bits, c.symmetry, c.group, c.extra, c.extra % 2 == 0 ? 0u : 1u};
}

/// Scales that are NaN are equal whatever their payload.
bool same(Plain const& a, Plain const& b) {
  if (!(a.levels == b.levels) || !(a.zero_points == b.zero_points)) return false;
  for (std::int64_t i = 0; i < a.q.rows; ++i)
    for (std::int64_t g = 0; g < a.groups(); ++g)
      if (!(a.scale(i, g) == b.scale(i, g) || (std::isnan(a.scale(i, g)) && std::isnan(b.scale(i, g)))))
        return false;
  return true;
}

void check(Random& random, Case const& c, dartquant_matrix const& x) {
  CAPTURE(c.rows, c.cols, c.block, c.group, c.extra, c.clip, c.bits, int(c.symmetry), c.permuted,
          int(x.type));
  Plain const expected(shape_of(c)), q(shape_of(c));
  Transform const transform(random, c.cols, c.block, c.permuted);
  dartquant_cpu const cpu = portable();
  Exact const space = workspace(c.cols);
  dartquant_status const status =
      dartquant_quantize(&cpu, &transform.c, &x, c.clip, &expected.q, space.data(), space.size(), 0, 1);
  REQUIRE((status == 0 || dartquant_status_reason(status) == dartquant_not_finite));
  auto const plan = cuda::plan_rows({c.rows, c.cols, transform.rows(), c.group}, device);
  REQUIRE(plan);
  auto const order = static_cast<ThreadOrder>(random() % 3);
  run_quantize(*plan, cuda::transform_step(*plan, transform.rows(), nullptr, rows_of(x)), rows_of(q.q),
               c.clip, order);
  CHECK(same(q, expected));
}

void check(Random& random, Case const& c, dartquant_type type) {
  Values x(type, c.rows, c.cols, c.extra, c.extra % 2 == 0 ? 0 : 1);
  fill(random, x.m);
  check(random, c, x.m);
}

/// Every kind of levels.
void check_kinds(Random& random, Case c, dartquant_type type) {
  for (std::int32_t const bits : {4, 8})
    for (auto const symmetry : {dartquant_symmetric, dartquant_asymmetric}) {
      c.bits = bits;
      c.symmetry = symmetry;
      check(random, c, type);
    }
}

}  // namespace

TEST_CASE("Quantize kernel: the bytes of the CPU, tokens and groups", "[rows][quantize]") {
  Random random(1);
  std::vector<Case> const cases{
      {2, 4096, 4096},     {3, 4096, 4096, 128},   {2, 4096, 128, 128}, {2, 4096, 128, 0, 0, 0.9f},
      {7, 512, 64, 64},    {5, 1024, 1024, 32},    {9, 256, 256, 0},    {2, 2048, 2048, 64, 16},
      {3, 5120, 256, 128}, {1, 5120, 5120, 0},     {2, 1152, 576, 32},  {64, 128, 128, 0, 0, 0.5f},
      {1, 8192, 8192, 0},  {1, 16384, 16384, 128}, {3, 96, 0, 32},      {4, 160, 32, 0}};
  for (Case const& c : cases) check_kinds(random, c, dartquant_bfloat16);
}

TEST_CASE("Quantize kernel: any shape, group and stride", "[rows][quantize]") {
  Random random(2);
  std::vector<Case> const cases{{1, 1},
                                {3, 7},
                                {5, 33, 0, 8},
                                {3, 100, 4, 7, 1},
                                {2, 40, 20, 3, 5},
                                {6, 64, 64, 32, 3},
                                {3, 130, 2, 0, 1},
                                {2, 344, 172, 100, 1},
                                {3, 12, 12, 5},
                                {2, 1000, 8, 1},
                                {4, 96, 32, 24},
                                {3, 2048, 2048, 100, 3}};
  for (Case c : cases) {
    check_kinds(random, c, dartquant_float16);
    c.permuted = true;
    c.clip = 0.8f;
    check_kinds(random, c, dartquant_float32);
  }
  check_kinds(random, {2, 4096, 4096, 0, 0, 1, 4, dartquant_symmetric, true}, dartquant_bfloat16);
  check_kinds(random, {2, 14336, 14336, 128, 0, 1, 4, dartquant_symmetric, true}, dartquant_bfloat16);
  check_kinds(random, {1, 11008, 11008, 128}, dartquant_bfloat16);
}

TEST_CASE("Quantize kernel: extreme values and values that are not finite", "[rows][quantize]") {
  Random random(3);
  float const infinity = std::numeric_limits<float>::infinity(),
              nan = std::numeric_limits<float>::quiet_NaN();
  for (Case c : {Case{8, 256, 64, 64}, Case{8, 256, 0, 32}, Case{8, 256, 256}, Case{8, 256, 0, 50},
                 Case{8, 255, 0, 0, 1}}) {
    Values x(dartquant_float32, c.rows, c.cols, c.extra, 0);
    fill(random, x.m);
    for (std::int64_t j = 0; j < c.cols; ++j) {
      set(x.m, 0, j, 1e-40f * static_cast<float>(j % 5));  // subnormal
      set(x.m, 1, j, j % 3 == 0 ? 3.4e38f : -3.3e38f);     // sums overflow
      set(x.m, 2, j, -0.0f);
      set(x.m, 4, j, static_cast<float>(j % 15 - 7) + (j % 2 == 0 ? 0.5f : 0.0f));  // ties
      set(x.m, 5, j, -5.0f);
    }
    set(x.m, 6, c.cols / 2, nan);
    set(x.m, 7, 3, -infinity);
    for (std::int32_t const bits : {4, 8})
      for (auto const symmetry : {dartquant_symmetric, dartquant_asymmetric}) {
        c.bits = bits;
        c.symmetry = symmetry;
        check(random, c, x.m);
      }
  }
}

TEST_CASE("Quantize kernel: the order of threads and the cut of rows change no byte", "[rows][quantize]") {
  Random random(4);
  Case const c{40, 1024, 128, 128, 0, 1, 4, dartquant_asymmetric};
  Values x(dartquant_bfloat16, c.rows, c.cols);
  fill(random, x.m);
  Transform const transform(random, c.cols, c.block, false);
  Plain const expected(shape_of(c));
  bool first = true;
  for (int const multiprocessors : {1, 20, 132})
    for (auto const order : {ThreadOrder::rising, ThreadOrder::falling, ThreadOrder::shuffled}) {
      Plain const q(shape_of(c));
      auto const plan =
          cuda::plan_rows({c.rows, c.cols, transform.rows(), c.group}, {227 * 1024, multiprocessors});
      run_quantize(*plan, cuda::transform_step(*plan, transform.rows(), nullptr, rows_of(x.m)),
                   rows_of(first ? expected.q : q.q), c.clip, order);
      if (!first) CHECK(q == expected);
      first = false;
    }
}

TEST_CASE("Dequantize kernel: the bytes of the CPU", "[rows][dequantize]") {
  Random random(5);
  dartquant_cpu const cpu = portable();
  for (Case c :
       {Case{3, 4096}, Case{5, 1024, 0, 128}, Case{2, 33, 0, 8}, Case{3, 100, 0, 7}, Case{3, 100, 0, 20},
        Case{3, 100, 0, 7, 1}, Case{1, 1}, Case{9, 64, 0, 64, 8}, Case{2, 8, 0, 3, 3}, Case{300, 16}})
    for (std::int32_t const bits : {4, 8})
      for (auto const symmetry : {dartquant_symmetric, dartquant_asymmetric})
        for (auto const type : {dartquant_float32, dartquant_float16, dartquant_bfloat16}) {
          c.bits = bits;
          c.symmetry = symmetry;
          CAPTURE(c.rows, c.cols, c.group, c.extra, bits, int(symmetry), int(type));
          Values x(dartquant_float32, c.rows, c.cols);
          Values y(type, c.rows, c.cols, c.extra, c.extra % 2 == 0 ? 0 : 1);
          Values expected(type, c.rows, c.cols, c.extra, c.extra % 2 == 0 ? 0 : 1);
          fill(random, x.m);
          Plain const q(shape_of(c));
          Exact const space = workspace(c.cols);
          REQUIRE(dartquant_quantize(&cpu, nullptr, &x.m, 1.0f, &q.q, space.data(), space.size(), 0, 1) == 0);
          REQUIRE(dartquant_dequantize(&cpu, &q.q, &expected.m, space.data(), space.size(), 0, 1) == 0);
          auto const body = cuda::dequantize_rows(rows_of(q.q), rows_of(y.m));
          REQUIRE(body);
          int const blocks = static_cast<int>((body->pieces - 1) / 256 + 1);
          test::run_on_host({.blocks_x = blocks}, *body, static_cast<ThreadOrder>(random() % 3));
          CHECK(y.memory == expected.memory);
          Values const again(type, c.rows, c.cols, c.extra, c.extra % 2 == 0 ? 0 : 1);
          auto const fast = cuda::dequantize_rows(rows_of(q.q), rows_of(again.m));
          bool const whole = cuda::with_octets(*fast, [&](auto const& octets) {
            test::run_on_host({.blocks_x = static_cast<int>((fast->pieces - 1) / (256 * octets.each) + 1)},
                              octets, static_cast<ThreadOrder>(random() % 3));
          });
          if (whole) CHECK(again.memory == expected.memory);
          CHECK((whole || c.cols % 8 != 0 || c.group == 3 || c.extra % 8 != 0));
        }
}

TEST_CASE("RMSNorm in front of a transform", "[rows][norm]") {
  Random random(6);
  for (auto const& [rows, cols, block, permuted] :
       {std::tuple{3, 4096, 4096, false}, {5, 100, 4, true}, {2, 1152, 576, true}, {70, 64, 64, false}}) {
    CAPTURE(rows, cols, block, permuted);
    Values x(dartquant_bfloat16, rows, cols), y(dartquant_float32, rows, cols),
        gain(dartquant_float16, 1, cols);
    fill(random, x.m);
    fill(random, gain.m);
    Transform const transform(random, cols, block, permuted);
    cuda::RowNorm const norm{gain.m.data, cuda::ElementType::float16, 1e-5};
    auto const plan = cuda::plan_rows({rows, cols, transform.rows(), -1, 1}, device);
    REQUIRE(plan);
    run_hadamard(*plan, cuda::transform_step(*plan, transform.rows(), &norm, rows_of(x.m)), rows_of(y.m),
                 static_cast<ThreadOrder>(random() % 3));
    // The plain way: norm, gain, then the CPU's transform.
    Values normed(dartquant_float32, rows, cols), expected(dartquant_float32, rows, cols);
    double worst = 0, size = 0;
    for (int i = 0; i < rows; ++i) {
      double squares = 0;
      for (int j = 0; j < cols; ++j) squares += std::pow(static_cast<double>(get(x.m, i, j)), 2);
      auto const inverse = static_cast<float>(1.0 / std::sqrt(squares / cols + norm.epsilon));
      for (int j = 0; j < cols; ++j) set(normed.m, i, j, get(x.m, i, j) * inverse * get(gain.m, 0, j));
    }
    dartquant_cpu const cpu = portable();
    Exact const space = workspace(cols);
    REQUIRE(dartquant_hadamard(&cpu, &transform.c, &normed.m, &expected.m, space.data(), space.size(), 0,
                               1) == 0);
    for (int i = 0; i < rows; ++i) {
      double norm_of_row = 0;
      for (int j = 0; j < cols; ++j) norm_of_row += std::pow(static_cast<double>(get(normed.m, i, j)), 2);
      for (int j = 0; j < cols; ++j)
        worst = std::max(worst, std::abs(static_cast<double>(get(y.m, i, j)) - get(expected.m, i, j)));
      size = std::max(size, std::sqrt(norm_of_row));
    }
    // Every stage and base sum adds a rounding of at most 2^-24 of the row's norm on both ways; the mean of
    // squares 33 / 2, the products and conversions 5.
    double const steps = std::log2(block) + static_cast<double>(transform.c.base_order);
    CHECK(worst <= (2 * steps + 22) * 0x1p-24 * size);
  }
}

TEST_CASE("RMSNorm and quantization: exact sums give the bytes of the plain way", "[rows][norm]") {
  Random random(7);
  Case const c{6, 256, 64, 0, 0, 1, 4, dartquant_asymmetric};
  Values x(dartquant_float32, c.rows, c.cols), scaled(dartquant_float32, c.rows, c.cols);
  for (std::int64_t i = 0; i < c.rows; ++i) {
    for (std::int64_t j = 0; j < c.cols; ++j) set(x.m, i, j, random() % 2 == 0 ? 4.0f : -4.0f);  // RMS 4
    for (std::int64_t j = 0; j < c.cols; ++j) set(scaled.m, i, j, get(x.m, i, j) / 4);
  }
  Transform const transform(random, c.cols, c.block, false);
  Plain const expected(shape_of(c)), q(shape_of(c));
  dartquant_cpu const cpu = portable();
  Exact const space = workspace(c.cols);
  REQUIRE(dartquant_quantize(&cpu, &transform.c, &scaled.m, 1, &expected.q, space.data(), space.size(), 0,
                             1) == 0);
  cuda::RowNorm const norm{};
  auto const plan = cuda::plan_rows({c.rows, c.cols, transform.rows(), c.group, 1}, device);
  run_quantize(*plan, cuda::transform_step(*plan, transform.rows(), &norm, rows_of(x.m)), rows_of(q.q), 1,
               ThreadOrder::shuffled);
  CHECK(q == expected);
}
