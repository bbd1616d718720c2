// SPDX-License-Identifier: Apache-2.0
// What the card can do, measured in the same run as everything that is held against it: memory, tensor
// instructions from registers and shared memory alone, and the dense algebra of NVIDIA's libraries.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/tensor_core.cuh>
#include <dartquant/cuda/warpgroup.cuh>

#include <cublas_v2.h>
#include <cusolverDn.h>

#include "report.hpp"
#include "timing.hpp"

using namespace dartquant::cuda;
using namespace dartquant::bench;

namespace {

/// A number from a number, for operands: power, and with it the clock, depends on how many bits toggle.
__device__ std::uint32_t scramble(std::uint32_t x) {
  x ^= x >> 16;
  x *= 0x7FEB352Du;
  x ^= x >> 15;
  x *= 0x846CA68Bu;
  return x ^ x >> 16;
}
/// Four bytes of values -8 .. 7, as 4-bit data gives them.
__device__ std::uint32_t int4_valued(std::uint32_t x) {
  return ((scramble(x) & 0x0F0F0F0Fu) | 0x80808080u) - 0x08080808u ^ 0x80808080u;
}

__global__ void copy_kernel(uint4 const* from, uint4* to, std::size_t count) {
  std::size_t const first = blockIdx.x * std::size_t{blockDim.x} * 4 + threadIdx.x;
  uint4 values[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (first + i * blockDim.x < count) values[i] = __ldcs(from + first + i * blockDim.x);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (first + i * blockDim.x < count) __stcs(to + first + i * blockDim.x, values[i]);
}

__global__ void read_kernel(uint4 const* from, std::size_t count, std::uint32_t* sink) {
  std::uint32_t all = 0;
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * blockDim.x) {
    uint4 const v = __ldcs(from + i);
    all ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (all == 0xDEADBEEFu) *sink = all;
}

__global__ void fill_kernel(float* x, std::size_t count, std::uint32_t seed, float diagonal, int order) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * blockDim.x) {
    x[i] =
        (static_cast<float>(scramble(seed + static_cast<std::uint32_t>(i))) / 4294967296.0f - 0.5f) * 0.05f;
    if (order > 0 && i % static_cast<std::size_t>(order) == i / static_cast<std::size_t>(order))
      x[i] += diagonal;
  }
}

/// Eight independent sums of mma.sync, operands in registers.
template <bool Nibbles>
__global__ void __launch_bounds__(256) mma_kernel(int rounds, int* sink) {
  DeviceThread const thread;
  std::uint32_t a[4], b[4][2];
  for (int i = 0; i < 4; ++i) {
    a[i] = int4_valued(threadIdx.x * 12 + i);
    b[i][0] = int4_valued(threadIdx.x * 12 + 4 + i);
    b[i][1] = int4_valued(threadIdx.x * 12 + 8 + i);
  }
  int c[8][4] = {};
  for (int round = 0; round < rounds; ++round)
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if constexpr (Nibbles) multiply_nibbles(thread, c[j], a, b[j % 4][0], b[j % 4][1]);
      else multiply_bytes(thread, c[j], a, b[j % 4][0], b[j % 4][1]);
    }
  int sum = 0;
  for (int j = 0; j < 8; ++j)
    for (int i = 0; i < 4; ++i) sum += c[j][i];
  if (sum == 0x7FFFABCD) *sink = sum;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
__device__ void multiply_e4m3(float (&d)[64], std::uint32_t const (&a)[4], std::byte const* b) {
  std::uint64_t const descriptor =
      static_cast<std::uint64_t>((static_cast<std::uint32_t>(__cvta_generic_to_shared(b)) & 0x3FFFFu) >> 4) |
      std::uint64_t{128 >> 4} << 16 | std::uint64_t{1024 >> 4} << 32;
  // clang-format off
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,"
               "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,"
               "%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
               "}, {%64,%65,%66,%67}, %68, 1, 1, 1;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
                 "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
                 "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
                 "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
                 "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
                 "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
                 "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
                 "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
                 "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]),
                 "+f"(d[63])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor));
  // clang-format on
}
#endif

/// Two warpgroups with two sums of 64 x 128 each, first operand in registers as in MultiplyWgmma, second in
/// shared memory. int4-valued bytes; for e4m3 the same bits, small numbers.
template <bool Floats>
__global__ void __launch_bounds__(256) wgmma_kernel(int rounds, int* sink) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) unsigned char memory[];
  for (int i = threadIdx.x; i < 16384 / 4; i += blockDim.x)
    reinterpret_cast<std::uint32_t*>(memory)[i] = int4_valued(i) & (Floats ? 0xBFBFBFBFu : 0xFFFFFFFFu);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  DeviceThread const thread;
  std::uint32_t a[4][4];
  for (int i = 0; i < 16; ++i)
    a[i / 4][i % 4] = int4_valued(threadIdx.x * 16 + i + 77) & (Floats ? 0xBFBFBFBFu : 0xFFFFFFFFu);
  auto const* const b = reinterpret_cast<std::byte const*>(memory);
  float f[2][64] = {};
  int d[2][16][4] = {};
  for (int round = 0; round < rounds; ++round) {
    warpgroup_fence(thread);
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if constexpr (Floats) multiply_e4m3(f[i], a[step], b + step * 256);
        else multiply_warpgroup(thread, d[i], a[step], b + step * 256, true);
      }
    warpgroup_commit(thread);
    warpgroup_wait<0>(thread);
  }
  float sum = 0;
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 64; ++j) sum += Floats ? f[i][j] : static_cast<float>(d[i][j / 4][j % 4]);
  if (sum == 12345.678f) *sink = 1;
#endif
}

void measure_memory(Report& report, std::size_t bytes, int processors) {
  Buffer<uint4> const from(bytes / 16), to(bytes / 16);
  Buffer<std::uint32_t> const sink(1);
  fill_kernel<<<processors * 8, 256>>>(reinterpret_cast<float*>(from.data()), bytes / 4, 1, 0, 0);
  auto const blocks = static_cast<unsigned>((bytes / 16 + 1023) / 1024);
  double ms = median_milliseconds(nullptr,
                                  [&] { copy_kernel<<<blocks, 256>>>(from.data(), to.data(), from.size()); });
  report.add({"copy", 2.0 * static_cast<double>(bytes) / ms / 1e6, "GB/s", 0, "", 0});
  ms = median_milliseconds(
      nullptr, [&] { read_kernel<<<processors * 16, 512>>>(from.data(), from.size(), sink.data()); });
  report.add({"read", static_cast<double>(bytes) / ms / 1e6, "GB/s", 0, "", 0});
  check(cudaGetLastError());
}

void measure_tensor_cores(Report& report, int architecture, int processors, int rounds) {
  Buffer<int> const sink(1);
  double const warps = 8.0 * processors * 2;
  if (architecture >= 80) {
    double const ms = median_milliseconds(
        nullptr, [&] { mma_kernel<false><<<processors * 2, 256>>>(rounds, sink.data()); });
    report.add({"mma s8", warps * 8 * rounds * 2 * 16 * 8 * 32 / ms / 1e9, "TOPS", 0, "", 0});
  }
  if (architecture >= 80 && architecture < 90) {
    double const ms =
        median_milliseconds(nullptr, [&] { mma_kernel<true><<<processors * 2, 256>>>(rounds, sink.data()); });
    report.add({"mma s4", warps * 8 * rounds * 2 * 16 * 8 * 64 / ms / 1e9, "TOPS", 0, "", 0});
  }
  if (architecture == 90) {
    double const operations = 2.0 * 64 * 128 * 32 * 8 * 2 * processors * rounds;
    double ms = median_milliseconds(
        nullptr, [&] { wgmma_kernel<false><<<processors, 256, 16384>>>(rounds, sink.data()); });
    report.add({"wgmma s8", operations / ms / 1e9, "TOPS", 0, "", 0});
    ms = median_milliseconds(nullptr,
                             [&] { wgmma_kernel<true><<<processors, 256, 16384>>>(rounds, sink.data()); });
    report.add({"wgmma e4m3", operations / ms / 1e9, "TFLOPS", 0, "", 0});
  }
  check(cudaGetLastError());
}

/// Products and factorisations of order n. A is near the identity, so that all of them succeed.
void measure_algebra(Report& report, int n, int processors) {
  auto const count = static_cast<std::size_t>(n) * static_cast<std::size_t>(n);
  Buffer<float> const a(count), b(count), c(count), tau(static_cast<std::size_t>(n));
  Buffer<double> const wide(count), wide_product(count);
  Buffer<int> const info(1);
  cublasHandle_t blas{};
  cusolverDnHandle_t solver{};
  check(cublasCreate(&blas));
  check(cusolverDnCreate(&solver));
  auto const fill = [&](float* x) { fill_kernel<<<processors * 8, 256>>>(x, count, 3, 1.0f, n); };
  check(cudaMemset(wide.data(), 0, wide.bytes()));
  fill(a.data());
  fill(b.data());
  std::string const order = " " + std::to_string(n);
  double const cube = static_cast<double>(n) * n * n;
  float const one = 1, zero = 0;
  double const one64 = 1, zero64 = 0;
  auto const gemm = [&] {
    check(cublasSgemm(blas, CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, &one, a.data(), n, a.data(), n, &zero,
                      c.data(), n));
  };
  auto const add = [&](char const* name, double milliseconds, double flops) {
    report.add({name + order, flops / milliseconds / 1e9, "TFLOPS", 0, "", 0});
    report.add({name + order + " time", milliseconds, "ms", 0, "", 0});
  };
  add("sgemm", median_milliseconds(nullptr, gemm), 2 * cube);
  check(cublasSetMathMode(blas, CUBLAS_TF32_TENSOR_OP_MATH));
  add("tf32", median_milliseconds(nullptr, gemm), 2 * cube);
  check(cublasSetMathMode(blas, CUBLAS_DEFAULT_MATH));
  add("dgemm",
      median_milliseconds(
          nullptr,
          [&] {
            check(cublasDgemm(blas, CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, &one64, wide.data(), n, wide.data(), n,
                              &zero64, wide_product.data(), n));
          },
          3),
      2 * cube);
  gemm();  // c: positive definite
  int potrf = 0, geqrf = 0, orgqr = 0;
  check(cusolverDnSpotrf_bufferSize(solver, CUBLAS_FILL_MODE_UPPER, n, c.data(), n, &potrf));
  check(cusolverDnSgeqrf_bufferSize(solver, n, n, a.data(), n, &geqrf));
  check(cusolverDnSorgqr_bufferSize(solver, n, n, n, a.data(), n, tau.data(), &orgqr));
  int const words = std::max({potrf, geqrf, orgqr});
  Buffer<float> const work(static_cast<std::size_t>(words));
  auto const restore = [&] {
    check(cudaMemcpyAsync(b.data(), c.data(), b.bytes(), cudaMemcpyDeviceToDevice, nullptr));
  };
  double const copy = median_milliseconds(nullptr, restore, 3);
  add("potrf",
      median_milliseconds(
          nullptr,
          [&] {
            restore();
            check(cusolverDnSpotrf(solver, CUBLAS_FILL_MODE_UPPER, n, b.data(), n, work.data(), words,
                                   info.data()));
          },
          3) -
          copy,
      cube / 3);
  add("trsm",
      median_milliseconds(
          nullptr,
          [&] {
            check(cublasStrsm(blas, CUBLAS_SIDE_RIGHT, CUBLAS_FILL_MODE_UPPER, CUBLAS_OP_N,
                              CUBLAS_DIAG_NON_UNIT, n, n, &one, b.data(), n, c.data(), n));
          },
          3),
      cube);
  double const filling = median_milliseconds(
      nullptr, [&] { fill(a.data()); }, 3);
  add("geqrf",
      median_milliseconds(
          nullptr,
          [&] {
            fill(a.data());
            check(cusolverDnSgeqrf(solver, n, n, a.data(), n, tau.data(), work.data(), words, info.data()));
          },
          3) -
          filling,
      4 * cube / 3);
  add("orgqr",
      median_milliseconds(
          nullptr,
          [&] {
            check(
                cusolverDnSorgqr(solver, n, n, n, a.data(), n, tau.data(), work.data(), words, info.data()));
          },
          3),
      4 * cube / 3);
  check(cusolverDnDestroy(solver));
  check(cublasDestroy(blas));
}

int run(int argc, char** argv) {
  Report report("ceilings", argc, argv);
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0));
  report.device(properties.name);
  int const processors = properties.multiProcessorCount,
            architecture = 10 * properties.major + properties.minor;
  measure_memory(report, std::size_t{report.quick() ? 64u : 2048u} << 20, processors);
  measure_tensor_cores(report, architecture, processors, report.quick() ? 100 : 4000);
  std::vector<int> const orders = report.quick() ? std::vector{256} : std::vector{1024, 4096};
  for (int const n : orders) measure_algebra(report, n, processors);
  return report.finish();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
