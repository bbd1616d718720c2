// SPDX-License-Identifier: Apache-2.0
#pragma once

// The calls on rows on a device, a GPU or the one that is the host, against the CPU's.

#include <cstdint>
#include <vector>

#include <dartquant/cuda/kernels.h>
#include <dartquant/cuda/error.hpp>
#include <dartquant/cuda/hadamard.hpp>
#include <dartquant/cuda/quantize.hpp>

#include "cuda/rows_case.hpp"

namespace rows_test {

/// Memory of the device with a copy of bytes of the host.
class OnDevice {
 public:
  explicit OnDevice(void const* from, std::size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    cuda::check(cudaMalloc(&data_, bytes));
    cuda::check(cudaMemcpyAsync(data_, from, bytes, cudaMemcpyHostToDevice, nullptr));
    cuda::check(cudaStreamSynchronize(nullptr));
  }
  OnDevice(OnDevice const&) = delete;
  OnDevice& operator=(OnDevice const&) = delete;
  ~OnDevice() { cudaFree(data_); }
  template <class T>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(data_);
  }
  [[nodiscard]] bool holds(Exact const& expected) const {
    if (bytes_ == 0) return expected.size() == 0;
    std::vector<std::uint8_t> bytes(bytes_);
    cuda::check(cudaMemcpyAsync(bytes.data(), data_, bytes_, cudaMemcpyDeviceToHost, nullptr));
    cuda::check(cudaStreamSynchronize(nullptr));
    return bytes == expected.bytes();
  }

 private:
  void* data_ = nullptr;
  std::size_t bytes_;
};

[[nodiscard]] inline OnDevice copy_of(Exact const& memory) { return OnDevice(memory.data(), memory.size()); }

struct CallCase {
  std::int64_t rows, cols, block, group;
  std::int32_t bits = 4;
  dartquant_symmetry symmetry = dartquant_asymmetric;
  bool permuted = true;
  dartquant_type type = dartquant_bfloat16;
  float clip = 0.9f;
  dartquant_type to = dartquant_float16, back = dartquant_float32;  ///< of transformed and dequantized rows
};

/// A case in the memory of the CPU, where it is also computed, and in that of the device.
struct CallData {
  Values x, y, back;
  Transform transform;
  Plain q;
  OnDevice x_device, y_device, back_device, levels, scales, zero_points, permutation, base;
  dartquant_transform t;
  dartquant_matrix x_at, y_at, back_at;
  dartquant_quantized q_at;
  float clip;

  CallData(Random& random, CallCase const& c)
      : x(filled(random, c)),
        y(c.to, c.rows, c.cols),
        back(c.back, c.rows, c.cols),
        transform(random, c.cols, c.block, c.permuted),
        q({c.rows, c.cols, c.bits, c.symmetry, c.group}),
        x_device(copy_of(x.memory)),
        y_device(copy_of(y.memory)),
        back_device(copy_of(back.memory)),
        levels(copy_of(q.levels)),
        scales(copy_of(q.scales)),
        zero_points(copy_of(q.zero_points)),
        permutation(transform.permutation.data(), 4 * transform.permutation.size()),
        base(transform.base.data(), transform.base.size()),
        t(transform.c),
        x_at{x_device.as<void>(), x.m.type, c.rows, c.cols, c.cols},
        y_at{y_device.as<void>(), y.m.type, c.rows, c.cols, c.cols},
        back_at{back_device.as<void>(), back.m.type, c.rows, c.cols, c.cols},
        q_at(q.q),
        clip(c.clip) {
    if (c.permuted) t.permutation = permutation.as<std::int32_t>();
    if (t.base != nullptr) t.base = base.as<std::int8_t>();
    q_at.levels = levels.as<void>();
    q_at.scales = scales.as<float>();
    if (q_at.zero_points != nullptr) q_at.zero_points = zero_points.as<std::int32_t>();
    dartquant_cpu const cpu = portable();
    Exact const space = workspace(c.cols);
    REQUIRE(dartquant_hadamard(&cpu, &transform.c, &x.m, &y.m, space.data(), space.size(), 0, 1) == 0);
    REQUIRE(dartquant_quantize(&cpu, &transform.c, &x.m, c.clip, &q.q, space.data(), space.size(), 0, 1) ==
            0);
    REQUIRE(dartquant_dequantize(&cpu, &q.q, &back.m, space.data(), space.size(), 0, 1) == 0);
  }

  /// The device holds what the CPU computed.
  void compare() const {
    CHECK(y_device.holds(y.memory));
    CHECK(levels.holds(q.levels));
    CHECK(scales.holds(q.scales));
    CHECK(zero_points.holds(q.zero_points));
    CHECK(back_device.holds(back.memory));
  }
  /// The C calls.
  void run() const {
    CHECK(dartquant_cuda_rows_supported(nullptr, &t, &x_at, &q_at) == 0);
    CHECK(dartquant_cuda_hadamard(nullptr, nullptr, &t, &x_at, &y_at) == 0);
    CHECK(dartquant_cuda_quantize(nullptr, nullptr, &t, &x_at, clip, &q_at) == 0);
    CHECK(dartquant_cuda_dequantize(nullptr, &q_at, &back_at) == 0);
  }

 private:
  static Values filled(Random& random, CallCase const& c) {
    Values x(c.type, c.rows, c.cols);
    fill(random, x.m);
    return x;
  }
};

}  // namespace rows_test
