// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <type_traits>

#include <dartquant/cuda/device_thread.cuh>
#include <dartquant/cuda/error.hpp>
#include <dartquant/cuda/grid.hpp>

#include <cuda_runtime.h>

namespace dartquant::cuda {

namespace detail {

using namespace dartquant::detail;  // what is private to the floors below is found under the same name here

/// Body::blocks, where it has one: blocks that a multiprocessor shall hold at a time, so that registers are
/// allotted accordingly.
template <class Body>
[[nodiscard]] constexpr int blocks_of() {
  if constexpr (requires { Body::blocks; }) return Body::blocks;
  else return 1;
}

/// Body::overlaps, where it has one: whether it waits by itself for what the kernels before it write
/// (wait_for_predecessors), so that its blocks may start while theirs end.
template <class Body>
[[nodiscard]] constexpr bool overlaps() {
  if constexpr (requires { Body::overlaps; }) return Body::overlaps;
  else return false;
}

/// Whether there is code for the very architecture of the current device, and it is one where kernels can
/// wait for others: 9.0 and newer. Older code, translated by the driver, could not.
[[nodiscard]] inline bool device_overlaps() {
  constexpr int compiled[] = {__CUDA_ARCH_LIST__};
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  bool found = false;
  for (int const architecture : compiled) found = found || architecture == 100 * major + 10 * minor;
  return major >= 9 && found;
}

}  // namespace detail

/// The one entry point of every kernel: body(thread). See DeviceThread. Body::threads is the number of
/// threads of its blocks, at most.
template <class Body>
__global__ void __launch_bounds__(Body::threads, detail::blocks_of<Body>()) body_kernel(Body const body) {
  body(DeviceThread{});
}

/// Starts `body` on `stream`. No allocation, no synchronisation; may be captured in a CUDA graph. More than
/// 48 KiB of shared memory are asked for as the runtime demands. Bodies that overlap are launched as what
/// CUDA calls programmatic dependents. Errors: CudaError.
template <class Body>
void launch(cudaStream_t stream, Grid const& grid, Body const& body) {
  static_assert(std::is_trivially_copyable_v<Body>, "the parameters of a kernel are copied to the device");
  if (grid.blocks_x == 0 || grid.blocks_y == 0 || grid.blocks_z == 0) return;
  if (grid.shared_bytes > 48 * 1024)
    check(cudaFuncSetAttribute(body_kernel<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(grid.shared_bytes)));
  dim3 const blocks{static_cast<unsigned>(grid.blocks_x), static_cast<unsigned>(grid.blocks_y),
                    static_cast<unsigned>(grid.blocks_z)};
  auto const threads = static_cast<unsigned>(grid.threads == 0 ? Body::threads : grid.threads);
  if constexpr (detail::overlaps<Body>()) {
    cudaLaunchAttribute overlap{};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = blocks;
    config.blockDim = threads;
    config.dynamicSmemBytes = grid.shared_bytes;
    config.stream = stream;
    config.attrs = &overlap;
    config.numAttrs = detail::device_overlaps() ? 1 : 0;
    check(cudaLaunchKernelEx(&config, body_kernel<Body>, body));
  } else {
    body_kernel<Body><<<blocks, threads, grid.shared_bytes, stream>>>(body);
    check(cudaGetLastError());
  }
}

}  // namespace dartquant::cuda
