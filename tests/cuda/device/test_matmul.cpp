// SPDX-License-Identifier: Apache-2.0
// The matrix products on a GPU: the CPU's bytes for integers, the bound for floats, and refused arguments.

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <dartquant/cuda/matmul.hpp>

#include "cuda/products.hpp"
#include "support/catch.hpp"

using namespace dartquant;
using namespace dartquant::cuda;
using dartquant::test::Operands;
using dartquant::test::ProductCase;

namespace {

bool no_device() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) return false;
  WARN("skipped: no CUDA device");
  return true;
}

/// A copy of host memory on the device; the same bytes behind the end of an allocation are the sanitizer's.
class OnDevice {
 public:
  OnDevice(void const* from, std::size_t bytes) : bytes_(bytes) {
    check(cudaMalloc(&data_, bytes == 0 ? 1 : bytes));
    if (from != nullptr) check(cudaMemcpy(data_, from, bytes, cudaMemcpyHostToDevice));
    else check(cudaMemset(data_, 0xA5, bytes));
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
    check(cudaMemcpy(values.data(), data_, bytes_, cudaMemcpyDeviceToHost));
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
  DeviceQuantized x;

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
          levels.as<void>(),
          o.x.q.level_stride,
          scales.as<float>(),
          o.x.q.scale_stride,
          o.c.x_asymmetric ? zero_points.as<std::int32_t>() : nullptr,
          o.x.q.zero_point_stride} {}
};

void check_int(ProductCase const& c) {
  Operands const o(c);
  DeviceOperands const d(o);
  MatmulShape const shape{o.shape, c.tokens, c.x_bits, d.x.symmetry};
  OnDevice const workspace(nullptr, matmul_workspace_bytes(matmul_target(), shape));
  auto const run = [&](cudaStream_t stream) {
    matmul(stream, o.shape, d.packed.as<void>(), d.x, c.bias ? d.bias.as<float>() : nullptr,
           {d.y.as<float>(), c.tokens, c.out, c.out + 3}, workspace.as<void>(),
           matmul_workspace_bytes(matmul_target(), shape));
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
  INFO("path " << name_of(matmul_path(matmul_target(), shape)) << ", tokens " << c.tokens << ", out " << c.out
               << ", in " << c.in << ", group " << c.group << ", x bits " << c.x_bits << ", asymmetric w x "
               << c.w_asymmetric << c.x_asymmetric << ", x grouped " << c.x_grouped);
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
  matmul(nullptr, o.shape, w.as<void>(), DeviceMatrixView<T const>(x.as<T>(), c.tokens, c.in, stride),
         c.bias ? bias.as<float>() : nullptr, DeviceMatrixView<float>(y.as<float>(), c.tokens, c.out));
  auto const result = y.read<float>();
  auto const expected = o.expected(values, stride);
  std::int64_t wrong = 0;
  for (std::size_t i = 0; i < result.size(); ++i)
    wrong += !(std::abs(static_cast<double>(result[i]) - expected.y[i]) <= 2 * expected.bound[i]);
  INFO("tokens " << c.tokens << ", out " << c.out << ", in " << c.in << ", group " << c.group);
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("matmul on a GPU has the CPU's bytes", "[device][matmul]") {
  if (no_device()) return;
  for (std::int64_t const tokens : {1, 5, 8, 9, 16, 17, 100, 300})
    for (std::int64_t const group : {0, 24, 32, 64, 128})
      for (int const bits : {4, 8}) {
        check_int({.tokens = tokens, .out = 100, .in = 777, .group = group, .x_bits = bits});
        check_int({.tokens = tokens,
                   .out = 270,
                   .in = 1540,
                   .group = group,
                   .x_bits = bits,
                   .w_asymmetric = true,
                   .x_asymmetric = true,
                   .x_grouped = group != 0,
                   .bias = true,
                   .extra = 3});
      }
}

TEST_CASE("matmul on a GPU: long rows fill every stage", "[device][matmul]") {
  if (no_device()) return;
  for (std::int64_t const group : {0, 128}) {
    check_int({.tokens = 257, .out = 513, .in = 8192, .group = group, .bias = true});
    check_int({.tokens = 3, .out = 513, .in = 14336, .group = group, .x_bits = 8});
  }
}

TEST_CASE("W4A16 and W4A32 on a GPU stay within the bound", "[device][matmul]") {
  if (no_device()) return;
  for (std::int64_t const tokens : {1, 9, 17, 200})
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
  auto const run = [&](WeightShape const& shape, void const* packed, DeviceQuantized const& x,
                       DeviceMatrixView<float> Y,
                       std::size_t bytes) { matmul(nullptr, shape, packed, x, nullptr, Y, nullptr, bytes); };
  CHECK_THROWS_AS(run(o.shape, d.packed.as<void>(), d.x, y, 0), InvalidArgument);             // workspace
  CHECK_THROWS_AS(run(o.shape, d.host_packed.data(), d.x, y, 1 << 20), InvalidArgument);      // host pointer
  CHECK_THROWS_AS(run(o.shape, d.packed.as<char>() + 16, d.x, y, 1 << 20), InvalidArgument);  // misaligned
  CHECK_THROWS_AS(run(o.shape, d.packed.as<void>(), d.x, {y.data(), 39, 64}, 1 << 20), InvalidArgument);
  DeviceQuantized narrow = d.x;
  narrow.level_stride = 100;
  CHECK_THROWS_AS(run(o.shape, d.packed.as<void>(), narrow, y, 1 << 20), InvalidArgument);
  DeviceQuantized other = d.x;
  other.group = 64;
  CHECK_THROWS_AS(run(o.shape, d.packed.as<void>(), other, y, 1 << 20), InvalidArgument);
  CHECK(cudaGetLastError() == cudaSuccess);
}
