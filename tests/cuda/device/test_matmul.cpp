// SPDX-License-Identifier: Apache-2.0
// The matrix products on a GPU: the CPU's bytes for integers, the bound for floats, and refused arguments.

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <dartquant/cuda/matmul.hpp>

#include "cuda/device_products.hpp"
#include "cuda/no_device.hpp"
#include "support/catch.hpp"

using namespace dartquant;
using namespace dartquant::cuda;
using namespace dartquant::test;

TEST_CASE("matmul on a GPU has the CPU's bytes", "[device][matmul]") {
  if (no_device()) return;
  for (std::int64_t const tokens : {1, 8, 9, 16, 17, 130})
    for (std::int64_t const group : {0, 24, 32, 64, 128})
      for (int const bits : {4, 8}) {
        check_int({.tokens = tokens, .out = 100, .in = 520, .group = group, .x_bits = bits});
        check_int({.tokens = tokens,
                   .out = 150,
                   .in = 840,
                   .group = group,
                   .x_bits = bits,
                   .w_asymmetric = true,
                   .x_asymmetric = true,
                   .x_grouped = group != 0,
                   .bias = true,
                   .extra = 3});
      }
}

TEST_CASE("matmul on a GPU: long rows fill every stage", "[device][matmul][large]") {
  if (no_device()) return;
  for (std::int64_t const group : {0, 128}) {
    check_int({.tokens = 130, .out = 260, .in = 8192, .group = group, .bias = true});
    check_int({.tokens = 3, .out = 260, .in = 14336, .group = group, .x_bits = 8});
  }
}

TEST_CASE("W4A16 and W4A32 on a GPU stay within the bound", "[device][matmul]") {
  if (no_device()) return;
  for (std::int64_t const tokens : {1, 9, 17, 130})
    for (std::int64_t const group : {0, 32, 128}) {
      ProductCase const c{.tokens = tokens,
                          .out = 150,
                          .in = 712,
                          .group = group,
                          .w_asymmetric = true,
                          .bias = true,
                          .extra = group == 0 ? 1 : 0};
      check_float<Half>(c);
      check_float<BFloat16>(c);
      check_float<float>(c);
    }
}

TEST_CASE("matmul on a GPU can be captured in a graph", "[device][matmul]") {
  if (no_device()) return;
  ProductCase const c{.tokens = 40, .out = 64, .in = 256, .group = 128};
  Operands const o(c);
  DeviceOperands const d(o);
  MatmulShape const shape{o.shape, c.tokens, c.x_bits};
  std::size_t const bytes = matmul_workspace_bytes(matmul_target(), shape);
  OnDevice const workspace(nullptr, bytes);
  cudaStream_t stream{};
  cudaGraph_t graph{};
  cudaGraphExec_t executable{};
  check(cudaStreamCreate(&stream));
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  matmul(stream, o.shape, d.packed.as<void>(), d.x, nullptr,
         DeviceMatrixView<float>(d.y.as<float>(), c.tokens, c.out), workspace.as<void>(), bytes);
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&executable, graph, 0));
  check(cudaGraphLaunch(executable, stream));
  check(cudaStreamSynchronize(stream));
  auto const expected = o.expected();
  auto const y = d.y.read<float>();
  CHECK(std::memcmp(y.data(), expected.data(), expected.size() * 4) == 0);
  check(cudaGraphExecDestroy(executable));
  check(cudaGraphDestroy(graph));
  check(cudaStreamDestroy(stream));
}

TEST_CASE("matmul on a GPU refuses what is wrong", "[device][matmul]") {
  if (no_device()) return;
  ProductCase const c{.tokens = 40, .out = 64, .in = 256, .group = 128};
  Operands const o(c);
  DeviceOperands const d(o);
  DeviceMatrixView<float> const y(d.y.as<float>(), c.tokens, c.out);
  auto const run = [&](WeightShape const& shape, void const* packed, ConstQuantizedRows const& x,
                       DeviceMatrixView<float> Y,
                       std::size_t bytes) { matmul(nullptr, shape, packed, x, nullptr, Y, nullptr, bytes); };
  CHECK_THROWS_AS(run(o.shape, d.packed.as<void>(), d.x, y, 0), InvalidArgument);             // workspace
  CHECK_THROWS_AS(run(o.shape, d.host_packed.data(), d.x, y, 1 << 20), InvalidArgument);      // host pointer
  CHECK_THROWS_AS(run(o.shape, d.packed.as<char>() + 16, d.x, y, 1 << 20), InvalidArgument);  // misaligned
  CHECK_THROWS_AS(run(o.shape, d.packed.as<void>(), d.x, {y.data(), 39, 64}, 1 << 20), InvalidArgument);
  ConstQuantizedRows narrow = d.x;
  narrow.level_stride = 100;
  CHECK_THROWS_AS(run(o.shape, d.packed.as<void>(), narrow, y, 1 << 20), InvalidArgument);
  ConstQuantizedRows other = d.x;
  other.group = 64;
  CHECK_THROWS_AS(run(o.shape, d.packed.as<void>(), other, y, 1 << 20), InvalidArgument);
  CHECK(cudaGetLastError() == cudaSuccess);
}
