// SPDX-License-Identifier: Apache-2.0
// The launchers of the matrix products on the fake device: every path, argument checks, no hidden waits.
#include <dartquant/cuda/kernels.h>
#include <dartquant/cuda/matmul.hpp>

#include "cuda/device_products.hpp"
#include "cuda/fake/device.hpp"
#include "support/catch.hpp"

using namespace dartquant;
using namespace dartquant::cuda;
using namespace dartquant::test;

namespace {

/// The device has this architecture until the end of the scope.
struct Architecture {
  explicit Architecture(int architecture) { fake::set_architecture(architecture); }
  Architecture(Architecture const&) = delete;
  Architecture& operator=(Architecture const&) = delete;
  ~Architecture() { fake::set_architecture(90); }
};

MatmulPath path_of(ProductCase const& c) {
  return matmul_path(matmul_target(), {Operands(c).shape, c.tokens, c.x_bits,
                                       c.x_asymmetric ? Symmetry::asymmetric : Symmetry::symmetric});
}

}  // namespace

TEST_CASE("matmul: every path has the CPU's bytes", "[machine][matmul]") {
  ProductCase const many{.tokens = 19,
                         .out = 40,
                         .in = 330,
                         .group = 128,
                         .w_asymmetric = true,
                         .x_asymmetric = true,
                         .x_grouped = true,
                         .bias = true,
                         .extra = 1};
  ProductCase const few{
      .tokens = 5, .out = 40, .in = 330, .x_bits = 8, .w_asymmetric = true, .x_asymmetric = true};
  ProductCase const odd{.tokens = 3, .out = 20, .in = 100, .group = 24, .x_bits = 8};
  for (auto const& [architecture, path] :
       {std::pair{75, MatmulPath::plain}, std::pair{80, MatmulPath::mma_nibbles},
        std::pair{90, MatmulPath::wgmma}, std::pair{100, MatmulPath::mma_bytes}}) {
    Architecture const device(architecture);
    CHECK(path_of(many) == path);
    check_int(many);
    check_int(few);
    check_int(odd);
  }
  CHECK(path_of(few) == MatmulPath::decode);
  CHECK(path_of(odd) == MatmulPath::plain);
}

TEST_CASE("matmul: floats on every path", "[machine][matmul]") {
  ProductCase const many{.tokens = 19, .out = 40, .in = 136, .group = 64, .w_asymmetric = true, .bias = true};
  ProductCase const few{.tokens = 2, .out = 20, .in = 77, .extra = 1};
  for (int const architecture : {75, 90}) {
    Architecture const device(architecture);
    check_float<Half>(many);
    check_float<BFloat16>(few);
    check_float<float>(few);
  }
}

TEST_CASE("matmul: enqueues and returns", "[machine][matmul]") {
  ProductCase const c{.tokens = 20, .out = 32, .in = 64, .w_asymmetric = true};
  Operands const o(c);
  DeviceOperands const d(o);
  std::size_t const bytes = matmul_workspace_bytes(matmul_target(), {o.shape, c.tokens, c.x_bits});
  OnDevice const workspace(nullptr, bytes);
  fake::Counts const before = fake::counts();
  matmul(nullptr, o.shape, d.packed.as<void>(), d.x, nullptr,
         DeviceMatrixView<float>(d.y.as<float>(), c.tokens, c.out), workspace.as<void>(), bytes);
  fake::Counts const after = fake::counts();
  CHECK(after.launches - before.launches == 3);  // stage, sums, product
  CHECK(after.allocations == before.allocations);
  CHECK(after.waits == before.waits);
  CHECK(cudaStreamSynchronize(nullptr) == cudaSuccess);
}

TEST_CASE("matmul: refuses what is wrong", "[machine][matmul]") {
  ProductCase const c{.tokens = 40, .out = 64, .in = 256, .group = 128};
  Operands const o(c);
  DeviceOperands const d(o);
  DeviceMatrixView<float> const y(d.y.as<float>(), c.tokens, c.out);
  auto const sentence = [&](WeightShape const& shape, void const* packed, ConstQuantizedRows const& x,
                            DeviceMatrixView<float> Y, std::size_t bytes) -> std::string {
    try {
      matmul(nullptr, shape, packed, x, nullptr, Y, nullptr, bytes);
    } catch (InvalidArgument const& e) {
      return e.what();
    }
    return "";
  };
  void const* const packed = d.packed.as<void>();
  std::size_t const enough = 1 << 20;
  CHECK(sentence(o.shape, packed, d.x, y, 0) ==
        "[matmul] a workspace of 0 bytes where 32768 are needed: see matmul_workspace_bytes");
  CHECK(sentence(o.shape, packed, d.x, y, enough) == "[matmul] workspace is a null pointer");
  CHECK(sentence(o.shape, d.packed.as<char>() + 16, d.x, y, enough) ==
        "[matmul] packed must be aligned to 128 bytes");
  CHECK(sentence(o.shape, packed, d.x, {y.data(), 39, 64}, enough) ==
        "[matmul] Y is 39 x 64 for 40 tokens and 64 outputs");
  alignas(128) static std::byte host[128];
  CHECK(sentence(o.shape, host, d.x, y, enough).find("[matmul] packed points to host memory") == 0);
  ConstQuantizedRows x = d.x;
  x.level_stride = 100;
  CHECK(sentence(o.shape, packed, x, y, enough) == "[matmul] a stride of 100 bytes for rows of 128");
  x = d.x;
  x.group = 64;
  CHECK(sentence(o.shape, packed, x, y, enough) ==
        "[matmul] groups of 64 channels of X and 128 of W: give X one scale per token, or the groups of W");
  x = d.x;
  x.bits = 6;
  CHECK(sentence(o.shape, packed, x, y, enough) ==
        "[matmul] activations of 6 bits: 4, 8, 16 and 32 are possible");
  x = d.x;
  x.cols = 200;
  CHECK(sentence(o.shape, packed, x, y, enough) != "");
  WeightShape shape = o.shape;
  shape.sums = false;
  x = d.x;
  x.bits = 8;
  x.level_stride = 256;
  x.symmetry = Symmetry::asymmetric;
  x.zero_points = d.scales.as<std::int32_t>();
  x.zero_point_stride = 2;
  CHECK(sentence(shape, packed, x, y, enough) ==
        "[matmul] asymmetric 8-bit activations need weights that are packed with sums of levels");
}

TEST_CASE("matmul: the C calls", "[machine][matmul]") {
  ProductCase const c{.tokens = 18, .out = 40, .in = 192, .group = 64, .w_asymmetric = true, .bias = true};
  Operands const o(c);
  dartquant_weights const weights{c.out, c.in, c.group, dartquant_asymmetric, 1};
  std::size_t bytes = 0;
  REQUIRE(dartquant_cuda_packed_size(&weights, &bytes) == 0);
  std::vector<std::byte> host(bytes + 128);
  std::byte* const packed = host.data() + (128 - reinterpret_cast<std::uintptr_t>(host.data()) % 128);
  REQUIRE(dartquant_cuda_pack(&weights, &o.w.q, packed, bytes) == 0);
  DeviceOperands const d(o);
  CHECK(std::memcmp(packed, d.host_packed.data(), bytes) == 0);
  CHECK(std::string(dartquant_cuda_matmul_path(&weights, 18, 4, dartquant_symmetric)) == "mma_bytes");
  CHECK(std::string(dartquant_cuda_matmul_path(&weights, 16, 4, dartquant_symmetric)) == "decode");
  CHECK(std::string(dartquant_cuda_matmul_path(&weights, 0, 4, dartquant_symmetric)) == "unknown");

  std::size_t workspace_bytes = 0;
  REQUIRE(dartquant_cuda_matmul_workspace_size(&weights, 18, 4, dartquant_symmetric, &workspace_bytes) == 0);
  OnDevice const workspace(nullptr, workspace_bytes);
  dartquant_quantized x = o.x.q;
  x.levels = d.levels.as<void>();
  x.scales = d.scales.as<float>();
  dartquant_matrix y{d.y.as<void>(), dartquant_float32, c.tokens, c.out, c.out};
  auto const product = [&](void const* from, std::size_t from_bytes, void* space, std::size_t space_bytes) {
    return dartquant_cuda_matmul(nullptr, &weights, from, from_bytes, &x, d.bias.as<float>(), &y, space,
                                 space_bytes);
  };
  auto const status = [](dartquant_argument argument, dartquant_reason reason) {
    return 256 * argument + reason;
  };
  void* const w = d.packed.as<void>();
  CHECK(product(w, bytes - 1, workspace.as<void>(), workspace_bytes) ==
        status(dartquant_arg_packed, dartquant_too_small));
  CHECK(product(packed, bytes, workspace.as<void>(), workspace_bytes) ==
        status(dartquant_arg_packed, dartquant_unsupported));
  CHECK(product(w, bytes, nullptr, workspace_bytes) == status(dartquant_arg_workspace, dartquant_null));
  CHECK(product(w, bytes, workspace.as<void>(), workspace_bytes - 1) ==
        status(dartquant_arg_workspace, dartquant_too_small));
  x.group = 32;
  CHECK(product(w, bytes, workspace.as<void>(), workspace_bytes) != 0);
  x.group = 0;
  REQUIRE(product(w, bytes, workspace.as<void>(), workspace_bytes) == 0);
  auto const expected = o.expected();
  auto const found = d.y.read<float>();
  CHECK(std::memcmp(found.data(), expected.data(), expected.size() * 4) == 0);

  // 16-bit results are the float ones, rounded.
  y.type = dartquant_bfloat16;
  REQUIRE(product(w, bytes, workspace.as<void>(), workspace_bytes) == 0);
  auto const rounded = d.y.read<BFloat16>();
  std::int64_t wrong = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) wrong += rounded[i].bits != to_bfloat16(expected[i]).bits;
  CHECK(wrong == 0);

  dartquant_matrix const x16{d.levels.as<void>(), dartquant_float16, c.tokens, c.in, c.in};
  y.type = dartquant_bfloat16;
  CHECK(dartquant_cuda_matmul_float(nullptr, &weights, w, bytes, &x16, nullptr, &y) ==
        status(dartquant_arg_type, dartquant_unsupported));
  CHECK(dartquant_cuda_matmul_float(nullptr, nullptr, w, bytes, &x16, nullptr, &y) ==
        status(dartquant_arg_weights, dartquant_null));
}
