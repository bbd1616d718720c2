// SPDX-License-Identifier: Apache-2.0
// The bodies of the kernels on strips, run on the CPU, have the bytes of the CPU's calls.

#include <dartquant/cuda/base_strip.cuh>
#include <dartquant/cuda/strip_plan.hpp>

#include "cuda/rows_case.hpp"

using namespace rows_test;

namespace {

struct Case {
  std::int64_t rows, cols, block, group = 0, extra = 0;
  std::int32_t bits = 4;
  dartquant_symmetry symmetry = dartquant_symmetric;
  float clip = 1;
};

float factor_of(std::int64_t block) {
  return block == 0 ? 1.0f : static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
}

/// Few blocks, so that each works on several strips.
template <class Body>
void run(Random& random, std::uint32_t strips, Body const& body, int shared) {
  test::run_on_host({.blocks_x = static_cast<int>(std::min(strips, 2u)),
                     .shared_bytes = static_cast<std::size_t>(shared)},
                    body, static_cast<ThreadOrder>(random() % 4));
}

template <class T, int LogLength, int Threads>
void check_hadamard(Random& random, Case const& c) {
  auto const type = static_cast<dartquant_type>(cuda::element_type<T>);
  CAPTURE(c.rows, c.cols, c.block, c.extra, int(type));
  Values x(type, c.rows, c.cols, c.extra), y(type, c.rows, c.cols, c.extra), expected(type, c.rows, c.cols, c.extra);
  fill(random, x.m);
  Transform const transform(random, c.cols, c.block, false);
  dartquant_cpu const cpu = portable();
  Exact const space = workspace(c.cols);
  REQUIRE(dartquant_hadamard(&cpu, &transform.c, &x.m, &expected.m, space.data(), space.size(), 0, 1) == 0);
  auto const plan = cuda::plan_strips(transform.rows(), rows_of(x.m), rows_of(y.m));
  REQUIRE(plan);
  REQUIRE(plan->log_length == LogLength);
  REQUIRE(plan->threads == Threads);
  using Body = cuda::HadamardStrips<T, LogLength, Threads, 1>;
  run(random, plan->rows.strips, Body{{plan->rows}, static_cast<T*>(y.m.data), y.m.stride, factor_of(c.block)},
      Body::Transform::shared_bytes);
  CHECK(y.memory == expected.memory);
}

template <class T, int LogLength, int Threads, int Group>
void check_quantize(Random& random, Case c, bool strange = false) {
  auto const type = static_cast<dartquant_type>(cuda::element_type<T>);
  for (int kind = 0; kind < 4; ++kind) {
    c.bits = kind % 2 == 0 ? 4 : 8;
    c.symmetry = kind < 2 ? dartquant_symmetric : dartquant_asymmetric;
    CAPTURE(c.rows, c.cols, c.block, c.group, c.extra, c.bits, int(c.symmetry), c.clip, int(type));
    PlainShape const shape{c.rows, c.cols, c.bits, c.symmetry, c.group, c.extra, 0u};
    Plain const expected(shape), q(shape);
    Values x(type, c.rows, c.cols, c.extra);
    fill(random, x.m);
    if (strange) {
      set(x.m, 0, c.cols / 2, std::numeric_limits<float>::quiet_NaN());
      set(x.m, c.rows - 1, 3, -std::numeric_limits<float>::infinity());
      for (std::int64_t j = 0; j < c.cols; ++j) set(x.m, 1, j, 1e-38f * static_cast<float>(j % 5));
    }
    Transform const transform(random, c.cols, c.block, false);
    dartquant_cpu const cpu = portable();
    Exact const space = workspace(c.cols);
    dartquant_status const status = dartquant_quantize(&cpu, &transform.c, &x.m, c.clip, &expected.q, space.data(),
                                                       space.size(), 0, 1);
    REQUIRE((status == 0 || dartquant_status_reason(status) == dartquant_not_finite));
    auto const plan = cuda::plan_strips(transform.rows(), rows_of(x.m), rows_of(q.q));
    REQUIRE(plan);
    REQUIRE(plan->log_length == LogLength);
    REQUIRE(plan->threads == Threads);
    using Body = cuda::QuantizeStrips<std::conditional_t<LogLength == 0, cuda::PlainStrip<T, Threads>, cuda::StripTransform<T, LogLength == 0 ? 6 : LogLength, Threads>>, Group, 1>;
    cuda::QuantizedRows const r = rows_of(q.q);
    run(random, plan->rows.strips,
        Body{{plan->rows},
             {r.levels, r.level_stride, r.scales, r.scale_stride, r.zero_points, r.zero_point_stride, r.bits,
              r.symmetry, c.clip, 1},
             factor_of(c.block)},
        Body::shared_bytes);
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
  check_hadamard<BFloat16, 6, 32>(random, {7, 192, 64});
  check_hadamard<BFloat16, 7, 32>(random, {9, 4096, 128, 0, 8});
  check_hadamard<Half, 8, 32>(random, {5, 768, 256});
  check_hadamard<float, 9, 32>(random, {5, 512, 512, 0, 4});
  check_hadamard<BFloat16, 10, 32>(random, {3, 3072, 1024, 0, 8});
  check_hadamard<BFloat16, 11, 32>(random, {3, 2048, 2048});
  check_hadamard<BFloat16, 12, 64>(random, {5, 4096, 4096});
  check_hadamard<float, 13, 128>(random, {3, 8192, 8192});
  check_hadamard<Half, 14, 256>(random, {3, 16384, 16384});
  check_hadamard<BFloat16, 15, 512>(random, {3, 32768, 32768});
}

template <class T, int LogLength, int Outputs, int Threads>
void check_base(Random& random, Case const& c, int blocks) {
  auto const type = static_cast<dartquant_type>(cuda::element_type<T>);
  CAPTURE(c.rows, c.cols, c.block, c.extra, int(type));
  Values x(type, c.rows, c.cols, c.extra), y(type, c.rows, c.cols, c.extra), expected(type, c.rows, c.cols, c.extra);
  fill(random, x.m);
  Transform const transform(random, c.cols, c.block, false);
  dartquant_cpu const cpu = portable();
  Exact const space = workspace(c.cols);
  REQUIRE(dartquant_hadamard(&cpu, &transform.c, &x.m, &expected.m, space.data(), space.size(), 0, 1) == 0);
  using Step = cuda::BaseStrip<T, LogLength, Outputs, Threads>;
  Step s;
  s.base = transform.c.base;
  s.order = static_cast<int>(transform.c.base_order);
  s.groups = (s.order - 1) / Outputs + 1;
  s.values = static_cast<int>(c.block) * blocks;
  s.staged_at = 4 * s.values;
  s.signs_at = s.staged_at + static_cast<int>(sizeof(T)) * s.values;
  int const shared = s.signs_at + 4 * s.order * s.groups * Outputs;
  bool const flat = c.extra == 0;
  s.rows = {x.m.data, x.m.stride, flat ? c.rows * c.cols : c.cols, 0, {}};
  auto const row_strips = static_cast<std::uint32_t>((s.rows.cols - 1) / s.values + 1);
  s.rows.strips = static_cast<std::uint32_t>(flat ? 1 : c.rows) * row_strips;
  s.rows.row_strips = cuda::Divider(row_strips);
  run(random, s.rows.strips,
      cuda::HadamardBaseStrips<Step, T, 1>{s, static_cast<T*>(y.m.data), y.m.stride, factor_of(c.block)}, shared);
  CHECK(y.memory == expected.memory);
}

TEST_CASE("Base strips", "[rows][strips][base]") {
  Random random(13);
  check_base<BFloat16, 8, 20, 160>(random, {7, 5120, 5120}, 2);
  check_base<BFloat16, 9, 28, 224>(random, {5, 14336, 14336}, 1);
  check_base<BFloat16, 6, 16, 192>(random, {3, 11008, 11008}, 1);
}

TEST_CASE("Quantize strips: the bytes of the CPU, tokens and groups", "[rows][strips]") {
  Random random(12);
  check_quantize<BFloat16, 0, 64, 0>(random, {5, 4096, 0}, true);
  check_quantize<Half, 0, 64, 0>(random, {5, 2560, 0, 0, 8}, true);
  check_quantize<float, 0, 32, 0>(random, {7, 192, 0});
  check_quantize<BFloat16, 0, 64, 128>(random, {5, 4096, 0, 128}, true);
  check_quantize<float, 0, 64, 128>(random, {7, 384, 0, 128, 8});
  check_quantize<BFloat16, 6, 32, 0>(random, {7, 192, 64});
  check_quantize<BFloat16, 7, 64, 0>(random, {3, 4096, 128, 0, 8, 4, dartquant_symmetric, 0.9f});
  check_quantize<Half, 8, 64, 0>(random, {5, 2304, 256});
  check_quantize<BFloat16, 10, 32, 0>(random, {5, 1024, 1024}, true);
  check_quantize<BFloat16, 12, 64, 0>(random, {5, 4096, 4096}, true);
  check_quantize<float, 13, 128, 0>(random, {3, 8192, 8192});
  check_quantize<BFloat16, 14, 256, 0>(random, {3, 16384, 16384});
  check_quantize<BFloat16, 15, 512, 0>(random, {3, 32768, 32768});
  check_quantize<BFloat16, 6, 32, 128>(random, {7, 384, 64, 128});
  check_quantize<BFloat16, 7, 32, 128>(random, {9, 4096, 128, 128, 8}, true);
  check_quantize<Half, 8, 32, 128>(random, {5, 768, 256, 128}, true);
  check_quantize<float, 9, 32, 128>(random, {5, 512, 512, 128, 0, 4, dartquant_symmetric, 0.9f});
  check_quantize<BFloat16, 10, 32, 128>(random, {5, 1024, 1024, 128}, true);
  check_quantize<BFloat16, 11, 32, 128>(random, {5, 2048, 2048, 128});
  check_quantize<BFloat16, 12, 64, 128>(random, {5, 4096, 4096, 128}, true);
  check_quantize<Half, 14, 256, 128>(random, {3, 16384, 16384, 128});
  check_quantize<BFloat16, 15, 512, 128>(random, {3, 32768, 32768, 128});
}
