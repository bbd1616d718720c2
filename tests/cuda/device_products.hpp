// SPDX-License-Identifier: Apache-2.0
#pragma once

// Products on a device, a real one or the one that is the host, against the CPU's.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <dartquant/cuda/matmul.hpp>

#include "cuda/products.hpp"
#include "support/catch.hpp"

namespace dartquant::test {

/// A copy of host memory on the device, or bytes of 0xA5.
class OnDevice {
 public:
  OnDevice(void const* from, std::size_t bytes) : bytes_(bytes) {
    cuda::check(cudaMalloc(&data_, bytes == 0 ? 1 : bytes));
    std::vector<std::uint8_t> const pattern(from == nullptr ? bytes : 0, std::uint8_t{0xA5});
    if (bytes == 0) return;
    cuda::check(cudaMemcpyAsync(data_, from == nullptr ? pattern.data() : from, bytes, cudaMemcpyHostToDevice,
                                nullptr));
    cuda::check(cudaStreamSynchronize(nullptr));
  }
  OnDevice(OnDevice const&) = delete;
  OnDevice& operator=(OnDevice const&) = delete;
  ~OnDevice() { cudaFree(data_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  template <class T>
  std::vector<T> read() const {
    std::vector<T> values(bytes_ / sizeof(T));
    cuda::check(cudaMemcpyAsync(values.data(), data_, bytes_, cudaMemcpyDeviceToHost, nullptr));
    cuda::check(cudaStreamSynchronize(nullptr));
    return values;
  }

 private:
  void* data_ = nullptr;
  std::size_t bytes_;
};

/// The operands of a case on the device.
struct DeviceOperands {
  kernel_test::Exact host_packed;
  OnDevice packed, levels, scales, zero_points, bias, y;
  cuda::ConstQuantizedRows x;

  explicit DeviceOperands(Operands const& o)
      : host_packed(o.packed()),
        packed(host_packed.data(), host_packed.size()),
        levels(o.x.levels.data(), o.x.levels.size()),
        scales(o.x.scales.data(), o.x.scales.size()),
        zero_points(o.x.zero_points.data(), o.x.zero_points.size()),
        bias(o.bias.data(), o.bias.size() * 4),
        y(nullptr, static_cast<std::size_t>(o.c.tokens * (o.c.out + 3)) * 4),
        x{o.c.tokens,
          o.c.in,
          o.c.x_bits,
          o.c.x_asymmetric ? Symmetry::asymmetric : Symmetry::symmetric,
          o.x.q.group,
          levels.as<std::uint8_t>(),
          o.x.q.level_stride,
          scales.as<float>(),
          o.x.q.scale_stride,
          o.c.x_asymmetric ? zero_points.as<std::int32_t>() : nullptr,
          o.x.q.zero_point_stride} {}
};

inline void check_int(ProductCase const& c) {
  Operands const o(c);
  DeviceOperands const d(o);
  cuda::MatmulShape const shape{o.shape, c.tokens, c.x_bits, d.x.symmetry};
  OnDevice const workspace(nullptr, cuda::matmul_workspace_bytes(cuda::matmul_target(), shape));
  auto const run = [&](cudaStream_t stream) {
    cuda::matmul(stream, o.shape, d.packed.as<void>(), d.x, c.bias ? d.bias.as<float>() : nullptr,
                 {d.y.as<float>(), c.tokens, c.out, c.out + 3}, workspace.as<void>(),
                 cuda::matmul_workspace_bytes(cuda::matmul_target(), shape));
  };
  run(nullptr);
  auto const y = d.y.read<float>();
  auto const expected = o.expected();
  std::int64_t wrong = 0, touched = 0;
  std::uint32_t untouched = 0xA5A5A5A5u;
  for (std::int64_t t = 0; t < c.tokens; ++t)
    for (std::int64_t i = 0; i < c.out + 3; ++i) {
      auto const* const at = &y[static_cast<std::size_t>(t * (c.out + 3) + i)];
      if (i < c.out) wrong += std::memcmp(at, &expected[static_cast<std::size_t>(t * c.out + i)], 4) != 0;
      else touched += std::memcmp(at, &untouched, 4) != 0;
    }
  INFO("path " << cuda::name_of(cuda::matmul_path(cuda::matmul_target(), shape)) << ", tokens " << c.tokens
               << ", out " << c.out << ", in " << c.in << ", group " << c.group << ", x bits " << c.x_bits
               << ", asymmetric w x " << c.w_asymmetric << c.x_asymmetric << ", x grouped " << c.x_grouped);
  CHECK(wrong == 0);
  CHECK(touched == 0);
}

template <class T>
void check_float(ProductCase const& c) {
  Operands const o(c);
  auto const packed = o.packed();
  std::int64_t const stride = c.in + c.extra;
  auto const values = o.float_values<T>(stride);
  OnDevice const w(packed.data(), packed.size()), x(values.data(), values.size() * sizeof(T)),
      bias(o.bias.data(), o.bias.size() * 4), y(nullptr, static_cast<std::size_t>(c.tokens * c.out) * 4);
  cuda::matmul(nullptr, o.shape, w.as<void>(), DeviceMatrixView<T const>(x.as<T>(), c.tokens, c.in, stride),
               c.bias ? bias.as<float>() : nullptr, DeviceMatrixView<float>(y.as<float>(), c.tokens, c.out));
  auto const result = y.read<float>();
  auto const expected = o.expected(values, stride);
  std::int64_t wrong = 0;
  for (std::size_t i = 0; i < result.size(); ++i)
    wrong += !(std::abs(static_cast<double>(result[i]) - expected.y[i]) <= 2 * expected.bound[i]);
  INFO("tokens " << c.tokens << ", out " << c.out << ", in " << c.in << ", group " << c.group);
  CHECK(wrong == 0);
}

}  // namespace dartquant::test
