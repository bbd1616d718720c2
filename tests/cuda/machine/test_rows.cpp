// SPDX-License-Identifier: Apache-2.0
// The calls on rows from checks to kernels, on a device that is the host: the bytes of the CPU's calls.

#include <string>

#include <dartquant/cuda/kernels.h>
#include <dartquant/cuda/device_matrix.hpp>
#include <dartquant/cuda/error.hpp>
#include <dartquant/cuda/hadamard.hpp>
#include <dartquant/cuda/quantize.hpp>

#include "cuda/fake/device.hpp"
#include "cuda/rows_case.hpp"

extern "C" int dartquant_test_cuda_kernels(void);

using namespace rows_test;

namespace {

/// Memory of the device with a copy of bytes of the host.
class OnDevice {
 public:
  explicit OnDevice(void const* from, std::size_t bytes) : bytes_(bytes) {
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
    std::vector<std::uint8_t> bytes(bytes_);
    cuda::check(cudaMemcpyAsync(bytes.data(), data_, bytes_, cudaMemcpyDeviceToHost, nullptr));
    cuda::check(cudaStreamSynchronize(nullptr));
    return bytes == expected.bytes();
  }

 private:
  void* data_ = nullptr;
  std::size_t bytes_;
};

[[nodiscard]] OnDevice copy_of(Exact const& memory) { return OnDevice(memory.data(), memory.size()); }

}  // namespace

TEST_CASE("The C kernel API of the GPU says what is wrong with arguments", "[rows][c]") {
  CHECK(dartquant_test_cuda_kernels() == 0);
  CHECK(std::string(dartquant_argument_text(dartquant_arg_stream)) == "stream");
  CHECK(std::string(dartquant_argument_text(dartquant_arg_norm)) == "norm");
  CHECK(std::string(dartquant_reason_text(dartquant_device_error)) == "was refused by the CUDA runtime");
}

TEST_CASE("Calls on rows: transform, quantize and dequantize on a stream", "[rows]") {
  Random random(1);
  dartquant_cpu const cpu = portable();
  for (auto const& [rows, cols, block, group] :
       {std::tuple{3, 4096, 4096, 128}, {20, 256, 64, 64}, {2, 1152, 576, 0}, {3, 100, 4, 7}}) {
    CAPTURE(rows, cols, block, group);
    Values x(dartquant_bfloat16, rows, cols), y(dartquant_float16, rows, cols),
        back(dartquant_float32, rows, cols);
    fill(random, x.m);
    Transform const transform(random, cols, block, true);
    Plain const q({rows, cols, 4, dartquant_asymmetric, group});
    OnDevice const x_device = copy_of(x.memory), y_device = copy_of(y.memory),
                   back_device = copy_of(back.memory), levels = copy_of(q.levels), scales = copy_of(q.scales),
                   zero_points = copy_of(q.zero_points),
                   permutation(transform.permutation.data(), 4 * transform.permutation.size()),
                   base(transform.base.data(), transform.base.size());
    Exact const space = workspace(cols);
    REQUIRE(dartquant_hadamard(&cpu, &transform.c, &x.m, &y.m, space.data(), space.size(), 0, 1) == 0);
    REQUIRE(dartquant_quantize(&cpu, &transform.c, &x.m, 0.9f, &q.q, space.data(), space.size(), 0, 1) == 0);
    REQUIRE(dartquant_dequantize(&cpu, &q.q, &back.m, space.data(), space.size(), 0, 1) == 0);

    dartquant_transform t = transform.c;
    t.permutation = permutation.as<std::int32_t>();
    if (t.base != nullptr) t.base = base.as<std::int8_t>();
    dartquant_matrix const x_at{x_device.as<void>(), x.m.type, rows, cols, cols};
    dartquant_matrix const y_at{y_device.as<void>(), y.m.type, rows, cols, cols};
    dartquant_matrix const back_at{back_device.as<void>(), back.m.type, rows, cols, cols};
    dartquant_quantized q_at = q.q;
    q_at.levels = levels.as<void>();
    q_at.scales = scales.as<float>();
    q_at.zero_points = zero_points.as<std::int32_t>();
    int const launches = test::fake::counts().launches, allocations = test::fake::counts().allocations,
              waits = test::fake::counts().waits;
    CHECK(dartquant_cuda_rows_supported(nullptr, &t, &x_at, &q_at) == 0);
    CHECK(dartquant_cuda_hadamard(nullptr, nullptr, &t, &x_at, &y_at) == 0);
    CHECK(dartquant_cuda_quantize(nullptr, nullptr, &t, &x_at, 0.9f, &q_at) == 0);
    CHECK(dartquant_cuda_dequantize(nullptr, &q_at, &back_at) == 0);
    CHECK(test::fake::counts().launches == launches + 3);
    CHECK(test::fake::counts().allocations == allocations);
    CHECK(test::fake::counts().waits == waits);
    CHECK(y_device.holds(y.memory));
    CHECK(levels.holds(q.levels));
    CHECK(scales.holds(q.scales));
    CHECK(zero_points.holds(q.zero_points));
    CHECK(back_device.holds(back.memory));

    // The C++ calls, over what the others left.
    cuda::RowTransform const again{t.permutation, t.block, t.base, t.base_order};
    DeviceMatrixView<BFloat16 const> const X(x_device.as<BFloat16>(), rows, cols);
    cuda::QuantizedRows to = rows_of(q_at);
    cuda::check(cudaMemcpyAsync(levels.as<void>(), x.memory.data(), 2, cudaMemcpyHostToDevice, nullptr));
    cuda::hadamard(nullptr, again, X, DeviceMatrixView<Half>(y_device.as<Half>(), rows, cols));
    cuda::quantize(nullptr, again, X, to, 0.9f);
    cuda::dequantize(nullptr, to, DeviceMatrixView<float>(back_device.as<float>(), rows, cols));
    CHECK(y_device.holds(y.memory));
    CHECK(levels.holds(q.levels));
    CHECK(back_device.holds(back.memory));
  }
}

TEST_CASE("Calls on rows: what they refuse", "[rows]") {
  std::vector<float> host(4096);
  OnDevice const device_memory(host.data(), 4 * host.size());
  DeviceMatrixView<float> const X(device_memory.as<float>(), 4, 1024), at_host(host.data(), 4, 1024);
  auto const says = [](auto const& call) -> std::string {
    try {
      call();
    } catch (std::exception const& e) {
      return e.what();
    }
    return "nothing";
  };
  CHECK(says([&] {
          cuda::hadamard(nullptr, {nullptr, 512}, at_host, X);
        }) == "[cuda::hadamard] X does not point to memory of a device; copy it there first");
  CHECK(says([&] {
          cuda::hadamard(nullptr, {nullptr, 100}, X, X);
        }) ==
        "[cuda::hadamard] 4 x 1024: block is not available on this machine or in this build, or is no such "
        "format");
  CHECK(says([&] { cuda::quantize(nullptr, {}, X, {.rows = 4, .cols = 1024}); }) ==
        "[cuda::quantize] 4 x 1024: levels is zero, negative, too small, or does not fit the other sizes");
  std::vector<std::int32_t> const order(65536);
  OnDevice const permutation(order.data(), 4 * order.size());
  OnDevice const wide(order.data(), 4 * order.size());
  DeviceMatrixView<float> const W(wide.as<float>(), 1, 65536);
  CHECK(
      says([&] {
        cuda::hadamard(nullptr, {permutation.as<std::int32_t>(), 512}, W, W);
      }) ==
      "[cuda::hadamard] rows of 65536 channels with blocks of 512 do not fit into the shared memory of this "
      "device; use smaller blocks and groups");
  dartquant_matrix const w{wide.as<void>(), dartquant_float32, 1, 65536, 65536};
  dartquant_transform const t{permutation.as<std::int32_t>(), 512, nullptr, 1};
  CHECK(dartquant_cuda_rows_supported(nullptr, &t, &w, nullptr) ==
        256 * dartquant_arg_cols + dartquant_unsupported);
  CHECK(dartquant_cuda_hadamard(nullptr, nullptr, &t, &w, &w) ==
        256 * dartquant_arg_cols + dartquant_unsupported);
}
