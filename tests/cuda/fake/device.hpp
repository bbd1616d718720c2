// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>

#include <cuda_runtime_api.h>

/// A device that is the host: the calls of the CUDA runtime, cuBLAS and cuSOLVER that DartQuant::cuda makes,
/// in plain loops, with the semantics of their documentation. It is linked in place of the libraries, so the
/// sources of cuda/ run unchanged. Two things make mistakes visible: whatever is asynchronous runs as late as
/// it may, when somebody waits for its stream, and fresh device memory is full of NaNs.
namespace dartquant::test::fake {

/// Runs `work` after all earlier work of the stream, when it is waited for.
void enqueue(cudaStream_t stream, std::function<void()> work);
void count_launch();

/// What the tests read and set.
struct Counts {
  int launches = 0, allocations = 0, waits = 0;
};
[[nodiscard]] Counts counts();
void set_device_count(int count);
/// Allocations beyond this many bytes fail.
void set_memory(std::size_t bytes);
/// The ratio of FP32 to FP64 rate that the device reports.
void set_float64_ratio(int ratio);
/// 10 major + minor of the device; 90 at first.
void set_architecture(int architecture);
/// Device allocations and streams that are alive.
[[nodiscard]] int living();

/// Throws std::logic_error unless all of [data, data + bytes) lies in one living allocation of a device.
void require_device_memory(char const* who, void const* data, std::size_t bytes);

}  // namespace dartquant::test::fake
