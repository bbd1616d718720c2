// SPDX-License-Identifier: Apache-2.0
// The Hadamard kernel's body, run on the CPU, has the bytes of dartquant_hadamard.

#include "cuda/rows_case.hpp"

using namespace rows_test;

namespace {

struct Case {
  std::int64_t rows, cols, block;
  std::int64_t extra = 0;  ///< of the strides: 0 keeps whole vectors, 3 breaks them
};

void check(Random& random, Case const& c, dartquant_type from, dartquant_type to, bool permuted,
           bool in_place = false, cuda::RowDevice const& on = device) {
  CAPTURE(c.rows, c.cols, c.block, c.extra, int(from), int(to), permuted, in_place);
  std::size_t const offset = c.extra % 2 == 0 ? 0 : 1;
  Values x(from, c.rows, c.cols, c.extra, offset), y(to, c.rows, c.cols, c.extra, offset);
  Values expected(to, c.rows, c.cols, c.extra, offset);
  fill(random, x.m);
  Transform const transform(random, c.cols, c.block, permuted);
  dartquant_cpu const cpu = portable();
  Exact const space = workspace(c.cols);
  REQUIRE(dartquant_hadamard(&cpu, &transform.c, &x.m, &expected.m, space.data(), space.size(), 0, 1) == 0);

  auto const plan = cuda::plan_rows({c.rows, c.cols, transform.rows()}, on);
  REQUIRE(plan);
  dartquant_matrix const& out = in_place ? x.m : y.m;
  auto const order = static_cast<ThreadOrder>(random() % 3);
  run_hadamard(*plan, cuda::transform_step(*plan, transform.rows(), nullptr, rows_of(x.m)), rows_of(out),
               order);
  CHECK((in_place ? x.memory : y.memory) == expected.memory);
}

}  // namespace

TEST_CASE("Division by a product gives the quotient", "[rows]") {
  for (std::uint32_t d :
       {1u, 2u, 3u, 4u, 5u, 7u, 31u, 32u, 33u, 172u, 641u, 1023u, 1024u, 65537u, 0x7FFFFFFFu}) {
    cuda::Divider const by(d);
    for (std::uint32_t n : {0u, 1u, d - 1, d, d + 1, 2 * d - 1, 1000003u, 0x7FFFFFFEu, 0x7FFFFFFFu})
      if (n <= 0x7FFFFFFFu) CHECK(by.quotient(n) == n / d);
    for (std::uint32_t n = 0x7FFFFFFFu / d * d - 1; n > 0x7FFFFFF0u - d && n < 0x7FFFFFFFu; ++n)
      if (by.quotient(n) != n / d) FAIL(n << " / " << d);
  }
}

TEST_CASE("Hadamard kernel: the bytes of the CPU for every length", "[rows][hadamard]") {
  Random random(1);
  for (int m = 0; m <= 15; ++m) {
    std::int64_t const block = std::int64_t{1} << m;
    std::int64_t const rows = block >= 4096 ? 2 : 5;
    check(random, {rows, block, block}, dartquant_bfloat16, dartquant_bfloat16, false);
    check(random, {rows, block, block, 3}, dartquant_float32, dartquant_float16, m < 14);
  }
}

TEST_CASE("Hadamard kernel: blocks, bases, remainders and strides", "[rows][hadamard]") {
  Random random(2);
  std::vector<Case> const cases{
      {1, 1, 1},         {3, 33, 0},        {2, 6, 2, 1},   {70, 40, 8},        {3, 100, 4},
      {300, 64, 64},     {9, 384, 128},     {2, 4096, 128}, {3, 3072, 1024, 8}, {2, 12, 12},
      {3, 40, 20},       {2, 56, 28, 1},    {2, 36, 36},    {3, 96, 24},        {2, 80, 80},
      {2, 1152, 576},    {2, 344, 172},     {2, 1376, 688}, {2, 768, 768},      {2, 5120, 5120},
      {1, 11008, 11008}, {1, 14336, 14336}, {3, 5120, 20},  {1, 28672, 28672},  {1, 40960, 64}};
  for (Case const& c : cases) {
    bool const permuted = c.cols <= 8192;
    check(random, c, dartquant_float32, dartquant_float32, false);
    check(random, c, dartquant_float16, dartquant_bfloat16, permuted);
    check(random, c, dartquant_bfloat16, dartquant_bfloat16, permuted, true);
  }
}

TEST_CASE("Hadamard kernel: values that are not finite spread as on the CPU", "[rows][hadamard]") {
  Random random(3);
  Values x(dartquant_float32, 4, 512), y(dartquant_float32, 4, 512), expected(dartquant_float32, 4, 512);
  fill(random, x.m);
  set(x.m, 0, 5, std::numeric_limits<float>::quiet_NaN());
  set(x.m, 1, 200, std::numeric_limits<float>::infinity());
  set(x.m, 2, 0, 3e38f);
  set(x.m, 2, 1, 3e38f);
  Transform const transform(random, 512, 128, false);
  dartquant_cpu const cpu = portable();
  Exact const space = workspace(512);
  REQUIRE(dartquant_hadamard(&cpu, &transform.c, &x.m, &expected.m, space.data(), space.size(), 0, 1) == 0);
  auto const plan = cuda::plan_rows({4, 512, transform.rows()}, device);
  run_hadamard(*plan, cuda::transform_step(*plan, transform.rows(), nullptr, rows_of(x.m)), rows_of(y.m),
               ThreadOrder::shuffled);
  for (std::int64_t i = 0; i < 4; ++i)
    for (std::int64_t j = 0; j < 512; ++j) {
      float const a = get(y.m, i, j), b = get(expected.m, i, j);
      if (!(std::isnan(a) ? std::isnan(b) : a == b)) FAIL(i << ", " << j << ": " << a << " and " << b);
    }
}

TEST_CASE("Plans of rows keep their promises", "[rows]") {
  Random random(4);
  cuda::RowDevice const ada{99 * 1024, 128};
  CHECK_FALSE(cuda::plan_rows({1, 32768, {nullptr, 32768}}, ada));
  CHECK_FALSE(
      cuda::plan_rows({1, 65536, {random() == 0 ? nullptr : reinterpret_cast<std::int32_t*>(64)}}, device));
  CHECK_FALSE(cuda::plan_rows({std::int64_t{1} << 31, 4096, {nullptr, 4096}}, device));
  for (std::int64_t cols = 1; cols <= 2048; ++cols)
    for (std::int64_t const group : {-1, 0, 1, 7, 32, 100, 128}) {
      auto const plan = cuda::plan_rows({1000, cols, {}, group}, ada);
      if (!plan) FAIL(cols << " channels, groups of " << group);
      cuda::RowTile const& t = plan->tile;
      bool const right = t.floats <= 64 * plan->threads && t.shared_bytes <= ada.shared_bytes &&
                         t.floats >= t.tile_rows * t.pitch && t.floats % 512 == 0 && cols % t.cols == 0 &&
                         static_cast<std::int64_t>(plan->grid.blocks_x) * t.tile_rows >= t.rows &&
                         t.rows == 1000 * cols / t.cols;
      if (!right) FAIL(cols << " channels, groups of " << group);
    }
}
