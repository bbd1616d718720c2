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

#include "c_rows.hpp"
#include "cpu/exact.hpp"
#include "cpu/owned_transform.hpp"
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

struct Transform : kernel_test::OwnedTransform {
  using OwnedTransform::OwnedTransform;
  [[nodiscard]] cuda::RowTransform rows() const { return cuda::transform_of(c); }
};

using cuda::rows_of;

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

inline void run_hadamard(cuda::RowPlan const& plan, cuda::RowTransformStep const& step, cuda::Rows const& y,
                         ThreadOrder order) {
  cuda::with_threads(plan.threads, [&]<int Threads>() {
    test::run_on_host(plan.grid, cuda::hadamard_rows<Threads>(step, y), order);
  });
}
inline void run_quantize(cuda::RowPlan const& plan, cuda::RowTransformStep const& step,
                         cuda::QuantizedRows const& q, float clip_ratio, ThreadOrder order) {
  cuda::with_threads(plan.threads, [&]<int Threads>() {
    test::run_on_host(plan.grid, cuda::quantize_rows<Threads>(step, q, clip_ratio), order);
  });
}

}  // namespace rows_test
