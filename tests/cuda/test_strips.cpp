// SPDX-License-Identifier: Apache-2.0
// The bodies of the kernels on strips, run on the CPU, have the bytes of the CPU's calls.

#include <dartquant/cuda/strip_plan.hpp>

#include "cuda/rows_case.hpp"

using namespace rows_test;

namespace {

struct Case {
  std::int64_t rows, cols, block, group = 0, extra = 0;
  bool strange = false;
  float clip = 1;
  std::int32_t bits = 4;
  dartquant_symmetry symmetry = dartquant_symmetric;
};

/// On few blocks of threads, so that each works on several strips.
template <class Body>
void run(Random& random, cuda::StripPlan const& plan, Body const& body) {
  cuda::Grid grid = plan.grid;
  grid.blocks_x = std::min(grid.blocks_x, 2);
  test::run_on_host(grid, body, static_cast<ThreadOrder>(random() % 4));
}

/// A NaN, an infinity and a row of subnormal numbers.
void make_strange(dartquant_matrix const& x) {
  set(x, 0, x.cols / 2, std::numeric_limits<float>::quiet_NaN());
  set(x, x.rows - 1, 3, -std::numeric_limits<float>::infinity());
  for (std::int64_t j = 0; j < x.cols; ++j) set(x, 1, j, 1e-38f * static_cast<float>(j % 5));
}

template <class T>
void check_hadamard(Random& random, Case const& c) {
  auto const type = static_cast<dartquant_type>(cuda::element_type<T>);
  CAPTURE(c.rows, c.cols, c.block, c.extra, int(type));
  Values x(type, c.rows, c.cols, c.extra), y(type, c.rows, c.cols, c.extra),
      expected(type, c.rows, c.cols, c.extra);
  fill(random, x.m);
  Transform const transform(random, c.cols, c.block, false);
  dartquant_cpu const cpu = portable();
  Exact const space = workspace(c.cols);
  REQUIRE(dartquant_hadamard(&cpu, &transform.c, &x.m, &expected.m, space.data(), space.size(), 0, 1) == 0);
  auto const plan = cuda::plan_strips(transform.rows(), nullptr, rows_of(x.m), rows_of(y.m), device);
  REQUIRE(plan);
  cuda::with_hadamard_strips<T>(
      *plan, [&]<class Body>() { run(random, *plan, cuda::hadamard_strips<Body, T>(*plan, rows_of(y.m))); });
  CHECK(y.memory == expected.memory);
}

template <class T>
void check_quantize(Random& random, Case c) {
  auto const type = static_cast<dartquant_type>(cuda::element_type<T>);
  for (int kind = 0; kind < 4; ++kind) {
    c.bits = kind % 2 == 0 ? 4 : 8;
    c.symmetry = kind < 2 ? dartquant_symmetric : dartquant_asymmetric;
    CAPTURE(c.rows, c.cols, c.block, c.group, c.extra, c.bits, int(c.symmetry), c.clip, int(type));
    PlainShape const shape{c.rows, c.cols, c.bits, c.symmetry, c.group, c.extra, 0u};
    Plain const expected(shape), q(shape);
    Values x(type, c.rows, c.cols, c.extra);
    fill(random, x.m);
    if (c.strange) make_strange(x.m);
    Transform const transform(random, c.cols, c.block, false);
    dartquant_cpu const cpu = portable();
    Exact const space = workspace(c.cols);
    dartquant_status const status =
        dartquant_quantize(&cpu, &transform.c, &x.m, c.clip, &expected.q, space.data(), space.size(), 0, 1);
    REQUIRE((status == 0 || dartquant_status_reason(status) == dartquant_not_finite));
    auto const plan = cuda::plan_strips(transform.rows(), nullptr, rows_of(x.m), rows_of(q.q), device);
    REQUIRE(plan);
    cuda::with_quantize_strips<T>(*plan, [&]<class Body>() {
      run(random, *plan, cuda::quantize_strips<Body>(*plan, rows_of(q.q), c.clip));
    });
    CHECK(q.levels == expected.levels);
    CHECK(q.zero_points == expected.zero_points);
    bool same = true;
    for (std::int64_t i = 0; i < c.rows; ++i)
      for (std::int64_t g = 0; g < q.groups(); ++g) {
        float const a = q.scale(i, g), b = expected.scale(i, g);
        same = same && (a == b || (std::isnan(a) && std::isnan(b)));
      }
    CHECK(same);
  }
}

}  // namespace

TEST_CASE("Hadamard strips: the bytes of the CPU for every length", "[rows][strips]") {
  Random random(11);
  check_hadamard<BFloat16>(random, {7, 192, 64});
  check_hadamard<BFloat16>(random, {9, 4096, 128, 0, 8});
  check_hadamard<Half>(random, {5, 768, 256});
  check_hadamard<float>(random, {5, 512, 512, 0, 4});
  check_hadamard<BFloat16>(random, {3, 3072, 1024, 0, 8});
  check_hadamard<BFloat16>(random, {3, 2048, 2048});
  check_hadamard<BFloat16>(random, {5, 4096, 4096});
  check_hadamard<float>(random, {3, 8192, 8192});
  check_hadamard<Half>(random, {3, 16384, 16384});
  check_hadamard<BFloat16>(random, {3, 32768, 32768});
}

TEST_CASE("Hadamard strips with a base: the bytes of the CPU", "[rows][strips]") {
  Random random(12);
  check_hadamard<BFloat16>(random, {7, 5120, 5120});
  check_hadamard<BFloat16>(random, {5, 3072, 3072, 0, 8});
  check_hadamard<Half>(random, {5, 6144, 3072});
  check_hadamard<BFloat16>(random, {5, 14336, 14336});
  check_hadamard<BFloat16>(random, {3, 11008, 11008});
  check_hadamard<float>(random, {3, 2304, 2304});
  check_hadamard<BFloat16>(random, {3, 28672, 28672});
  check_hadamard<BFloat16>(random, {3, 1536, 768});
}

TEST_CASE("Quantize strips: the bytes of the CPU, tokens and groups", "[rows][strips]") {
  Random random(13);
  for (bool const strange : {false, true}) {
    check_quantize<BFloat16>(random, {5, 4096, 0, 0, 0, strange});
    check_quantize<Half>(random, {5, 2560, 0, 0, 8, strange});
    check_quantize<BFloat16>(random, {5, 4096, 0, 128, 0, strange});
    check_quantize<Half>(random, {7, 384, 0, 128, 8, strange});
    check_quantize<BFloat16>(random, {7, 192, 64, 0, 0, strange});
    check_quantize<BFloat16>(random, {3, 4096, 128, 0, 8, strange, 0.9f});
    check_quantize<Half>(random, {5, 2304, 256, 0, 0, strange});
    check_quantize<BFloat16>(random, {70, 128, 128, 0, 0, strange});
    check_quantize<BFloat16>(random, {5, 1024, 1024, 0, 0, strange});
    check_quantize<BFloat16>(random, {5, 4096, 4096, 0, 0, strange});
    check_quantize<Half>(random, {3, 8192, 8192, 0, 0, strange});
    check_quantize<BFloat16>(random, {3, 16384, 16384, 0, 0, strange});
    check_quantize<BFloat16>(random, {3, 32768, 32768, 0, 0, strange});
    check_quantize<BFloat16>(random, {7, 384, 64, 128, 0, strange});
    check_quantize<BFloat16>(random, {9, 4096, 128, 128, 8, strange});
    check_quantize<Half>(random, {5, 768, 256, 128, 0, strange});
    check_quantize<Half>(random, {5, 512, 512, 128, 0, strange, 0.9f});
    check_quantize<BFloat16>(random, {5, 1024, 1024, 128, 0, strange});
    check_quantize<BFloat16>(random, {5, 2048, 2048, 128, 0, strange});
    check_quantize<BFloat16>(random, {5, 4096, 4096, 128, 0, strange});
    check_quantize<Half>(random, {3, 16384, 16384, 128, 0, strange});
    check_quantize<BFloat16>(random, {3, 32768, 32768, 128, 0, strange});
    check_quantize<BFloat16>(random, {5, 5120, 5120, 0, 0, strange});
    check_quantize<BFloat16>(random, {5, 5120, 5120, 128, 0, strange});
    check_quantize<BFloat16>(random, {5, 6144, 3072, 0, 8, strange});
    check_quantize<BFloat16>(random, {5, 3072, 1536, 128, 0, strange, 0.9f});
    check_quantize<BFloat16>(random, {3, 14336, 14336, 0, 0, strange});
    check_quantize<BFloat16>(random, {3, 14336, 14336, 128, 0, strange});
    check_quantize<BFloat16>(random, {3, 11008, 11008, 0, 0, strange});
  }
}

TEST_CASE("What strips leave to tiles", "[rows][strips]") {
  Random random(16);
  Transform const sign(random, 11008, 11008, false), other(random, 4096, 4096, false),
      odd(random, 96, 32, false), permuted(random, 4096, 4096, true);
  auto const strips = [](Transform const& transform, std::int64_t cols, std::int64_t group) {
    Values const x(dartquant_bfloat16, 2, cols);
    Plain const q(PlainShape{2, cols, 4, dartquant_symmetric, group, 0, 0u});
    return cuda::plan_strips(transform.rows(), nullptr, rows_of(x.m), rows_of(q.q), device).has_value();
  };
  CHECK(strips(sign, 11008, 0));
  CHECK_FALSE(strips(sign, 11008, 128));  // 64 channels of an output lie side by side
  CHECK(strips(other, 4096, 128));
  CHECK_FALSE(strips(other, 4096, 64));
  CHECK_FALSE(strips(odd, 96, 0));
  CHECK_FALSE(strips(permuted, 4096, 0));
}

TEST_CASE("A base that is not the library's has its own signs", "[rows][strips]") {
  Random random(14);
  for (std::int64_t const order : {12, 20, 28}) {
    std::int64_t const cols = 64 * order;
    Values x(dartquant_bfloat16, 3, cols), y(dartquant_bfloat16, 3, cols),
        expected(dartquant_bfloat16, 3, cols);
    fill(random, x.m);
    Transform transform(random, cols, cols, false);
    REQUIRE(transform.c.base_order == order);
    for (std::int64_t j = 0; j < order; ++j) {  // rows change places
      auto const at = static_cast<std::size_t>(j), first = static_cast<std::size_t>(order - 1);
      std::swap(transform.base[at], transform.base[first * static_cast<std::size_t>(order) + at]);
    }
    dartquant_cpu const cpu = portable();
    Exact const space = workspace(cols);
    REQUIRE(dartquant_hadamard(&cpu, &transform.c, &x.m, &expected.m, space.data(), space.size(), 0, 1) == 0);
    auto const plan = cuda::plan_strips(transform.rows(), nullptr, rows_of(x.m), rows_of(y.m), device);
    REQUIRE(plan);
    cuda::with_hadamard_strips<BFloat16>(*plan, [&]<class Body>() {
      run(random, *plan, cuda::hadamard_strips<Body, BFloat16>(*plan, rows_of(y.m)));
    });
    CHECK(y.memory == expected.memory);
  }
}

TEST_CASE("RMSNorm in front of strips", "[rows][strips][norm]") {
  Random random(15);
  for (auto const& [rows, cols, block] :
       {std::tuple{5, 4096, 4096}, {3, 2304, 256}, {3, 16384, 16384}, {5, 192, 64}}) {
    CAPTURE(rows, cols, block);
    Values x(dartquant_bfloat16, rows, cols), y(dartquant_bfloat16, rows, cols),
        wide(dartquant_float32, rows, cols), normed(dartquant_float32, rows, cols);
    fill(random, x.m);
    cuda::RowNorm const norm{nullptr, cuda::ElementType::float32, 1e-5};
    for (int i = 0; i < rows; ++i) {
      double squares = 0;
      for (int j = 0; j < cols; ++j) squares += std::pow(static_cast<double>(get(x.m, i, j)), 2);
      auto const inverse = static_cast<float>(1.0 / std::sqrt(squares / cols + norm.epsilon));
      for (int j = 0; j < cols; ++j) set(normed.m, i, j, get(x.m, i, j) * inverse);
    }
    Transform const transform(random, cols, block, false);
    dartquant_cpu const cpu = portable();
    Exact const space = workspace(cols);
    REQUIRE(dartquant_hadamard(&cpu, &transform.c, &normed.m, &wide.m, space.data(), space.size(), 0, 1) ==
            0);
    auto const plan = cuda::plan_strips(transform.rows(), &norm, rows_of(x.m), rows_of(y.m), device);
    REQUIRE(plan);
    cuda::with_hadamard_strips<BFloat16>(*plan, [&]<class Body>() {
      run(random, *plan, cuda::hadamard_strips<Body, BFloat16>(*plan, rows_of(y.m)));
    });
    double worst = 0, size = 0;
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < cols; ++j) {
        worst = std::max(worst, std::abs(static_cast<double>(get(y.m, i, j)) - get(wide.m, i, j)));
        size = std::max(size, std::abs(static_cast<double>(get(wide.m, i, j))));
      }
    CHECK(worst <= 0x1p-8 * size);  // a rounding to bfloat16
  }
}
