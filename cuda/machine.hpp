// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <memory>

#include <dartquant/core/view.hpp>
#include <dartquant/cuda/device_matrix.hpp>
#include <dartquant/cuda/gpu.hpp>

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>

namespace dartquant::cuda {

/// Memory of the host that the device reads and writes directly; it grows.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(PinnedBuffer const&) = delete;
  PinnedBuffer& operator=(PinnedBuffer const&) = delete;
  ~PinnedBuffer();
  [[nodiscard]] void* reserve(std::size_t bytes);

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Carries small arrays of the host to the device without waiting for the stream: two pinned buffers in turn,
/// each with the event that says when it was read.
class Staging {
 public:
  Staging() = default;
  Staging(Staging const&) = delete;
  Staging& operator=(Staging const&) = delete;
  ~Staging();
  void upload(void const* from, void* to, std::size_t bytes, cudaStream_t stream);

 private:
  struct Slot {
    PinnedBuffer buffer{};
    cudaEvent_t read = nullptr;
  };
  std::array<Slot, 2> slots_{};
  std::size_t next_ = 0;
};

/// A second stream for what may run beside the first.
class SideStream {
 public:
  SideStream() = default;
  SideStream(SideStream const&) = delete;
  SideStream& operator=(SideStream const&) = delete;
  ~SideStream();
  void open();
  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  /// What is enqueued here from now on waits for what is enqueued on `stream` now.
  void follow(cudaStream_t stream) const;
  /// What is enqueued on a stream after `join` waits for what was enqueued here before `mark`.
  void mark() const;
  void join(cudaStream_t stream) const;

 private:
  cudaStream_t stream_ = nullptr;
  cudaEvent_t before_ = nullptr, marked_ = nullptr;
};

/// Whether the device computes FP64 at a quarter of its FP32 rate or faster.
[[nodiscard]] bool fast_float64(int device);

/// Whether the tensor cores of a device take TF32 at four times its FP32 rate or faster: those for data
/// centres.
[[nodiscard]] bool fast_tf32(int device);

/// What all copies of a Gpu share.
class Machine {
 public:
  Machine(int device, cudaStream_t stream, bool owns_stream, GpuOptions const& options);
  Machine(Machine const&) = delete;
  Machine& operator=(Machine const&) = delete;
  ~Machine();

  template <class T>
  [[nodiscard]] DeviceMatrix<T> matrix(index_t rows, index_t cols) const {
    return {pool, rows, cols};
  }
  /// Waits for the stream.
  void wait() const;
  /// The device's `info` word of a factorisation.
  [[nodiscard]] int read_info();

  static constexpr index_t scalar_count = 16;
  int const device;
  cudaStream_t const stream;
  GpuOptions const options;
  std::shared_ptr<MemoryPool> const pool;
  bool gram_in_float64 = true;
  /// Products of floats with so many multiplications or more are split, see Products::tf32x3.
  double least_split = 0;
  std::size_t block_shared_bytes = 0;
  cublasHandle_t blas = nullptr;
  cusolverDnHandle_t solver = nullptr;
  cusolverDnParams_t solver_params = nullptr;
  DeviceMatrix<double> scalars;
  DeviceMatrix<double> partial;
  DeviceMatrix<int> info;
  PinnedBuffer pinned;
  Staging staging;
  SideStream side;

 private:
  void open();
  void close() noexcept;

  bool owns_stream_;
  DeviceMatrix<std::byte> blas_workspace_;
};

}  // namespace dartquant::cuda
