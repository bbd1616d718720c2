// SPDX-License-Identifier: Apache-2.0
// What a Gpu says when something is wrong: no device, no memory, the wrong pointer, stream or shape.
#include <dartquant/cuda/gpu.hpp>

#include <string>

#include <dartquant/calibrate/objective.hpp>
#include <dartquant/calibrate/optimizer.hpp>
#include <dartquant/core/matrix.hpp>

#include "cuda/fake/device.hpp"
#include "support/catch.hpp"

using namespace dartquant;
using dartquant::cuda::CudaError;
using dartquant::cuda::Gpu;
namespace fake = dartquant::test::fake;

namespace {

/// The sentence of the exception of type E that f throws.
template <class E, class F>
[[nodiscard]] std::string sentence_of(F const& f) {
  try {
    f();
  } catch (E const& error) {
    return error.what();
  }
  return "nothing was thrown";
}

bool holds(std::string const& text, char const* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("a machine without a device says what to do", "[gpu]") {
  fake::set_device_count(0);
  try {
    Gpu const gpu;
    FAIL("a Gpu without a device");
  } catch (CudaError const& error) {
    CHECK(error.kind() == Error::Kind::unsupported);
    CHECK(holds(error.what(), "cudaErrorNoDevice"));
    CHECK(holds(error.what(), "use the CPU"));
  }
  fake::set_device_count(2);
  CHECK(holds(sentence_of<InvalidArgument>([] { Gpu const gpu(7); }), "[Gpu] device 7: there are 2"));
  CHECK(holds(sentence_of<InvalidArgument>([] { Gpu const gpu(-1); }), "device -1"));
}

TEST_CASE("an exhausted device names the sizes, and what is free is given back first", "[gpu]") {
  Gpu const gpu;
  std::size_t const before = gpu.bytes_held();
  fake::set_memory(before + (std::size_t{1} << 20));
  { auto const used = gpu.matrix<float>(300, 512); }  // 600 KiB go back to the pool
  auto const larger = gpu.matrix<float>(500, 512);    // 1000 KiB fit only when they are freed
  CHECK(gpu.bytes_held() == before + 1024000);
  try {
    auto const more = gpu.matrix<float>(500, 512);
    FAIL("more than there is");
  } catch (CudaError const& error) {
    CHECK(error.kind() == Error::Kind::memory);
    CHECK(holds(error.what(), "1024000 bytes asked of device 0"));
    CHECK(holds(error.what(), "smaller batches"));
  }
  fake::set_memory(static_cast<std::size_t>(-1));
  CHECK(holds(sentence_of<InvalidArgument>(
                  [&] { auto const m = gpu.matrix<double>(index_t{1} << 40, index_t{1} << 40); }),
              "[DeviceMatrix]"));
  CHECK_THROWS_AS(gpu.matrix<float>(-1, 4), InvalidArgument);
}

TEST_CASE("views of the caller's memory are checked", "[gpu]") {
  Gpu const gpu(0), other(1);
  auto matrix = gpu.matrix<float>(4, 8);
  CHECK(gpu.view(matrix.data(), 4, 8, 8).rows() == 4);
  float host[32] = {};
  CHECK(holds(sentence_of<InvalidArgument>([&] { (void)gpu.view(host, 4, 8, 8); }), "memory of the host"));
  CHECK(holds(sentence_of<InvalidArgument>([&] { (void)other.view(matrix.data(), 4, 8, 8); }),
              "memory of device 0 given to device 1"));
  CHECK(holds(sentence_of<InvalidArgument>([&] { (void)gpu.view(matrix.data(), 4, 8, 7); }), "stride 7"));
}

TEST_CASE("the caller's stream decides the device, and outlives the Gpu", "[gpu]") {
  REQUIRE(cudaSetDevice(1) == cudaSuccess);
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  REQUIRE(cudaSetDevice(0) == cudaSuccess);
  int const before = fake::living();
  {
    Gpu const gpu(stream);
    CHECK(gpu.device() == 1);
    CHECK(gpu.stream() == stream);
    RowMatrix<float> ones = RowMatrix<float>::Ones(3, 3);
    auto device = gpu.matrix<float>(3, 3);  // while device 0 is current
    gpu.copy(MatrixView<float const>(ones), device.view());
    CHECK(gpu.frobenius_norm<float>(device) == Approx(3));
    int current = -1;
    REQUIRE(cudaGetDevice(&current) == cudaSuccess);
    CHECK(current == 0);
  }
  CHECK(fake::living() == before);
  REQUIRE(cudaSetDevice(1) == cudaSuccess);
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
  REQUIRE(cudaSetDevice(0) == cudaSuccess);
}

TEST_CASE("a Gpu gives back all that it took, and matrices may outlive it", "[gpu]") {
  int const before = fake::living();
  {
    cuda::DeviceMatrix<float> left;
    {
      Gpu const gpu;
      Gpu const copy = gpu;
      left = copy.matrix<float>(2, 2);
      CHECK(copy.stream() == gpu.stream());
    }
    CHECK(left.rows() == 2);
  }
  CHECK(fake::living() == before);
}

TEST_CASE("shapes that do not fit are refused before anything is enqueued", "[gpu]") {
  Gpu const gpu;
  auto const A = gpu.matrix<float>(3, 4);
  auto C = gpu.matrix<float>(3, 3), wide = gpu.matrix<float>(2, 40000);
  auto G = gpu.matrix<double>(3, 3);
  int const before = fake::counts().launches;
  CHECK(holds(sentence_of<InvalidArgument>([&] { gpu.gemm<float>(1, A, Op::none, A, Op::none, 0, C); }),
              "[gemm] 3 x 4 times 3 x 4 into 3 x 3"));
  CHECK_THROWS_AS(gpu.gram<float>(A, G.view()), InvalidArgument);
  CHECK_THROWS_AS(gpu.skew_lower<float>(gpu.matrix<float>(3, 4).view()), InvalidArgument);
  CHECK_THROWS_AS(gpu.copy(A.view(), C.view()), InvalidArgument);
  CHECK_THROWS_AS(gpu.objective<float>(Whip{}, A, C), InvalidArgument);
  CHECK(holds(sentence_of<InvalidArgument>([&] { (void)gpu.objective<float>(Uniformity{}, wide, wide); }),
              "40000 channels need 524416 bytes of shared memory"));
  CHECK(fake::counts().launches == before);
}
