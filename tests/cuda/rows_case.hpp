// SPDX-License-Identifier: Apache-2.0
#pragma once

// Cases of the kernels on rows: inputs as engines store them, a transform, and how the CPU and the kernel
// bodies on the CPU are run on them.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <dartquant/kernels.h>
#include <dartquant/core/half.hpp>
#include <dartquant/cuda/row_plan.hpp>

#include "cpu/exact.hpp"
#include "support/catch.hpp"
#include "support/host_thread.hpp"

namespace rows_test {

using namespace dartquant;
using kernel_test::Exact;
using kernel_test::Plain;
using kernel_test::PlainShape;
using kernel_test::Values;
using test::ThreadOrder;
using Random = std::mt19937;

inline void set(dartquant_matrix const& m, std::int64_t i, std::int64_t j, float value) {
  std::int64_t const at = i * m.stride + j;
  if (m.type == dartquant_float32) static_cast<float*>(m.data)[at] = value;
  else if (m.type == dartquant_float16) static_cast<Half*>(m.data)[at] = to_half(value);
  else static_cast<BFloat16*>(m.data)[at] = to_bfloat16(value);
}
[[nodiscard]] inline float get(dartquant_matrix const& m, std::int64_t i, std::int64_t j) {
  std::int64_t const at = i * m.stride + j;
  if (m.type == dartquant_float32) return static_cast<float const*>(m.data)[at];
  if (m.type == dartquant_float16) return to_float(static_cast<Half const*>(m.data)[at]);
  return to_float(static_cast<BFloat16 const*>(m.data)[at]);
}

/// Normal values with outliers, zeros of both signs and a row of zeros.
inline void fill(Random& random, dartquant_matrix const& m) {
  std::normal_distribution<float> normal;
  for (std::int64_t i = 0; i < m.rows; ++i)
    for (std::int64_t j = 0; j < m.cols; ++j) {
      unsigned const kind = static_cast<unsigned>(random() % 50);
      float const x = normal(random);
      set(m, i, j, i % 7 == 3 || kind == 0 ? (kind % 2 == 0 ? 0.0f : -0.0f) : kind == 1 ? 20 * x : x);
    }
}

/// A transform with what it points to.
struct Transform {
  std::vector<std::int32_t> permutation;
  std::vector<std::int8_t> base;
  dartquant_transform c{};

  Transform(Random& random, std::int64_t cols, std::int64_t block, bool permuted) {
    if (permuted) {
      for (std::int64_t j = 0; j < cols; ++j) permutation.push_back(static_cast<std::int32_t>(j));
      std::shuffle(permutation.begin(), permutation.end(), random);
      c.permutation = permutation.data();
    }
    c.block = block;
    if (block == 0) return;
    REQUIRE(dartquant_hadamard_base(block, nullptr, 0, &c.base_order) == 0);
    base.resize(static_cast<std::size_t>(c.base_order * c.base_order));
    REQUIRE(dartquant_hadamard_base(block, base.data(), base.size(), &c.base_order) == 0);
    if (c.base_order > 1) c.base = base.data();
  }
  Transform(Transform const&) = delete;

  [[nodiscard]] cuda::RowTransform rows() const { return {c.permutation, c.block, c.base, c.base_order}; }
};

[[nodiscard]] inline cuda::Rows rows_of(dartquant_matrix const& m) {
  return {m.data, static_cast<cuda::ElementType>(m.type), m.rows, m.cols, m.stride};
}
[[nodiscard]] inline cuda::QuantizedRows rows_of(dartquant_quantized const& q) {
  return {q.rows,
          q.cols,
          q.bits,
          static_cast<Symmetry>(q.symmetry),
          q.group,
          static_cast<std::uint8_t*>(q.levels),
          q.level_stride,
          q.scales,
          q.scale_stride,
          q.zero_points,
          q.zero_point_stride};
}

/// An H100: 132 multiprocessors.
inline constexpr cuda::RowDevice device{227 * 1024, 132};

[[nodiscard]] inline dartquant_cpu portable() {
  dartquant_cpu cpu;
  REQUIRE(dartquant_cpu_detect(&cpu) == 0);
  REQUIRE(dartquant_cpu_choose(&cpu, dartquant_isa_portable) == 0);
  return cpu;
}
[[nodiscard]] inline Exact workspace(std::int64_t cols) {
  std::size_t bytes = 0;
  REQUIRE(dartquant_rows_workspace_size(cols, &bytes) == 0);
  return Exact(bytes);
}

/// Calls run<Threads>() for the threads of a plan.
template <class Run>
void with_threads(int threads, Run const& run) {
  if (threads == 128) run.template operator()<128>();
  else if (threads == 256) run.template operator()<256>();
  else run.template operator()<512>();
}

inline void run_hadamard(cuda::RowPlan const& plan, cuda::RowTransformStep const& step, cuda::Rows const& y,
                         ThreadOrder order) {
  with_threads(plan.threads, [&]<int Threads>() {
    test::run_on_host(plan.grid, cuda::hadamard_rows<Threads>(step, y), order);
  });
}
inline void run_quantize(cuda::RowPlan const& plan, cuda::RowTransformStep const& step,
                         cuda::QuantizedRows const& q, float clip_ratio, ThreadOrder order) {
  with_threads(plan.threads, [&]<int Threads>() {
    test::run_on_host(plan.grid, cuda::quantize_rows<Threads>(step, q, clip_ratio), order);
  });
}

}  // namespace rows_test
