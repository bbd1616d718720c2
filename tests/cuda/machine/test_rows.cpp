// SPDX-License-Identifier: Apache-2.0
// The calls on rows from checks to kernels, on a device that is the host: the bytes of the CPU's calls.

#include <cstring>
#include <string>

#include "cuda/device_rows.hpp"
#include "cuda/fake/device.hpp"

extern "C" int dartquant_test_cuda_kernels(void);

using namespace rows_test;

TEST_CASE("The C kernel API of the GPU says what is wrong with arguments", "[rows][c]") {
  CHECK(dartquant_test_cuda_kernels() == 0);
  CHECK(std::string(dartquant_argument_text(dartquant_arg_stream)) == "stream");
  CHECK(std::string(dartquant_argument_text(dartquant_arg_norm)) == "norm");
  CHECK(std::string(dartquant_reason_text(dartquant_device_error)) == "was refused by the CUDA runtime");
}

TEST_CASE("Calls on rows: transform, quantize and dequantize on a stream", "[rows]") {
  Random random(1);
  for (CallCase const& c : {CallCase{3, 4096, 4096, 128}, CallCase{20, 256, 64, 64},
                            CallCase{2, 1152, 576, 0}, CallCase{3, 100, 4, 7}}) {
    CAPTURE(c.rows, c.cols, c.block, c.group);
    CallData const data(random, c);
    test::fake::Counts const before = test::fake::counts();
    data.run();
    CHECK(test::fake::counts().launches == before.launches + 3);
    CHECK(test::fake::counts().allocations == before.allocations);
    CHECK(test::fake::counts().waits == before.waits);
    data.compare();
  }
}

TEST_CASE("Calls on rows in C++ are the calls in C", "[rows]") {
  Random random(2);
  CallData const data(random, {5, 512, 256, 32});
  DeviceMatrixView<BFloat16 const> const X(data.x_device.as<BFloat16>(), 5, 512);
  cuda::RowTransform const transform{data.t.permutation, data.t.block, data.t.base, data.t.base_order};
  cuda::QuantizedRows const q = rows_of(data.q_at);
  cuda::hadamard(nullptr, transform, X, DeviceMatrixView<Half>(data.y_device.as<Half>(), 5, 512));
  cuda::quantize(nullptr, transform, X, q, 0.9f);
  cuda::dequantize(nullptr, q, DeviceMatrixView<float>(data.back_device.as<float>(), 5, 512));
  data.compare();
}

TEST_CASE("Block rotations on a stream", "[rows]") {
  std::vector<float> const x{1, 2, 3, 4}, R{0, 1, -1, 0};  // a quarter turn
  std::vector<std::int32_t> const order{3, 2, 1, 0};
  OnDevice const x_device(x.data(), 16), y_device(x.data(), 16), rotation(R.data(), 16),
      permutation(order.data(), 16);
  DeviceMatrixView<float> const X(x_device.as<float>(), 1, 4), Y(y_device.as<float>(), 1, 4);
  cuda::rotate_blocks(nullptr, {permutation.as<std::int32_t>(), rotation.as<float>(), 2}, X, Y);
  Exact const expected(16);
  std::vector<float> const turned{-3, 4, -1, 2};
  std::memcpy(expected.data(), turned.data(), 16);
  CHECK(y_device.holds(expected));
  dartquant_matrix const m{x_device.as<void>(), dartquant_float32, 1, 4, 4};
  dartquant_block_rotation r{nullptr, rotation.as<float>(), 3, 1};
  CHECK(dartquant_cuda_rotate_blocks(nullptr, &r, &m, &m) == 256 * dartquant_arg_block + dartquant_bad_size);
  r.block = 256;
  CHECK(dartquant_cuda_rotate_blocks(nullptr, &r, &m, &m) ==
        256 * dartquant_arg_block + dartquant_unsupported);
  r = {nullptr, nullptr, 2, 1};
  CHECK(dartquant_cuda_rotate_blocks(nullptr, &r, &m, &m) == 256 * dartquant_arg_base + dartquant_null);
  r = {nullptr, rotation.as<float>(), 2, 3};
  CHECK(dartquant_cuda_rotate_blocks(nullptr, &r, &m, &m) == 256 * dartquant_arg_base + dartquant_bad_size);
  r = {permutation.as<std::int32_t>(), rotation.as<float>(), 2, 1};
  CHECK(dartquant_cuda_rotate_blocks(nullptr, &r, &m, &m) == 256 * dartquant_arg_y + dartquant_bad_value);
  CHECK(dartquant_cuda_rotate_blocks(nullptr, nullptr, &m, &m) ==
        256 * dartquant_arg_transform + dartquant_null);
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
