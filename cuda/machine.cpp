// SPDX-License-Identifier: Apache-2.0
#include "machine.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include <dartquant/core/error.hpp>
#include <dartquant/cuda/error.hpp>

namespace dartquant::cuda {
namespace {

/// What cuBLAS recommends for Hopper. Its own memory, so that products have the same bytes on every stream
/// and can be captured in a graph.
constexpr index_t blas_workspace_bytes = index_t{32} << 20;
/// Devices whose FP32 rate is at most this many times their FP64 rate work in FP64 where they may choose.
constexpr int fast_float64_ratio = 4;
/// Below, splitting the factors takes longer than it saves.
constexpr double least_split_products = 0x1p31;

[[nodiscard]] int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

}  // namespace

bool fast_float64(int device) {
  return attribute(cudaDevAttrSingleToDoublePrecisionPerfRatio, device) <= fast_float64_ratio;
}

bool fast_tf32(int device) {
  int const major = attribute(cudaDevAttrComputeCapabilityMajor, device),
            minor = attribute(cudaDevAttrComputeCapabilityMinor, device);
  return (major == 8 && minor == 0) || major == 9 || major == 10;
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) cudaFreeHost(data_);
}

void* PinnedBuffer::reserve(std::size_t bytes) {
  if (bytes > bytes_) {
    if (data_ != nullptr) check(cudaFreeHost(data_));
    data_ = nullptr;
    bytes_ = 0;
    check(cudaHostAlloc(&data_, bytes, cudaHostAllocDefault));
    bytes_ = bytes;
  }
  return data_;
}

Staging::~Staging() {
  for (Slot const& slot : slots_)
    if (slot.read != nullptr) cudaEventDestroy(slot.read);
}

void Staging::upload(void const* from, void* to, std::size_t bytes, cudaStream_t stream) {
  Slot& slot = slots_[next_];
  next_ = (next_ + 1) % slots_.size();
  if (slot.read == nullptr) check(cudaEventCreateWithFlags(&slot.read, cudaEventDisableTiming));
  else check(cudaEventSynchronize(slot.read));  // of the upload before the last
  void* const space = slot.buffer.reserve(bytes);
  std::memcpy(space, from, bytes);
  check(cudaMemcpyAsync(to, space, bytes, cudaMemcpyHostToDevice, stream));
  check(cudaEventRecord(slot.read, stream));
}

SideStream::~SideStream() {
  if (before_ != nullptr) cudaEventDestroy(before_);
  if (marked_ != nullptr) cudaEventDestroy(marked_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

void SideStream::open() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  check(cudaEventCreateWithFlags(&before_, cudaEventDisableTiming));
  check(cudaEventCreateWithFlags(&marked_, cudaEventDisableTiming));
}

void SideStream::follow(cudaStream_t stream) const {
  check(cudaEventRecord(before_, stream));
  check(cudaStreamWaitEvent(stream_, before_, 0));
}

void SideStream::mark() const { check(cudaEventRecord(marked_, stream_)); }

void SideStream::join(cudaStream_t stream) const { check(cudaStreamWaitEvent(stream, marked_, 0)); }

Machine::Machine(int device_number, cudaStream_t stream_given, bool owns_stream, GpuOptions const& wanted)
    : device(device_number),
      stream(stream_given),
      options(wanted),
      pool(std::make_shared<MemoryPool>(device_number)),
      owns_stream_(owns_stream) {
  try {
    open();
  } catch (...) {
    close();
    throw;
  }
}

void Machine::open() {
  gram_in_float64 = options.gram == GramPrecision::float64 ||
                    (options.gram == GramPrecision::automatic && fast_float64(device));
  bool const splits =
      options.products == Products::tf32x3 || (options.products == Products::automatic && fast_tf32(device));
  least_split = !splits                                   ? std::numeric_limits<double>::infinity()
                : options.products == Products::automatic ? least_split_products
                                                          : 0;
  block_shared_bytes = static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  check(cublasCreate(&blas));
  check(cublasSetStream(blas, stream));
  blas_workspace_ = matrix<std::byte>(1, blas_workspace_bytes);
  check(cublasSetWorkspace(blas, blas_workspace_.data(), static_cast<std::size_t>(blas_workspace_bytes)));
  side.open();
  check(cusolverDnCreate(&solver));
  check(cusolverDnSetStream(solver, stream));
  check(cusolverDnCreateParams(&solver_params));
  scalars = matrix<double>(1, scalar_count);
  info = matrix<int>(1, 1);
}

void Machine::close() noexcept {
  if (stream != nullptr) cudaStreamSynchronize(stream);
  if (solver_params != nullptr) cusolverDnDestroyParams(solver_params);
  if (solver != nullptr) cusolverDnDestroy(solver);
  if (blas != nullptr) cublasDestroy(blas);
  solver_params = nullptr;
  solver = nullptr;
  blas = nullptr;
  if (owns_stream_) cudaStreamDestroy(stream);
  owns_stream_ = false;
}

Machine::~Machine() {
  int before = 0;
  bool const known = cudaGetDevice(&before) == cudaSuccess;
  cudaSetDevice(device);
  close();
  if (known) cudaSetDevice(before);
}

void Machine::wait() const { check(cudaStreamSynchronize(stream)); }

int Machine::read_info() {
  auto* const host = static_cast<int*>(pinned.reserve(sizeof(double) * scalar_count));
  check(cudaMemcpyAsync(host, info.data(), sizeof(int), cudaMemcpyDeviceToHost, stream));
  wait();
  return *host;
}

}  // namespace dartquant::cuda
