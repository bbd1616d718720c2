// SPDX-License-Identifier: Apache-2.0
#include <dartquant/cuda/memory_pool.hpp>

#include <dartquant/core/error.hpp>
#include <dartquant/cuda/error.hpp>
#include <dartquant/cuda/gpu.hpp>

#include <cuda_runtime_api.h>

namespace dartquant::cuda {
namespace {

constexpr std::size_t grain = 256;
/// A free block serves a request that needs at least this share of it.
constexpr std::size_t waste_divisor = 4;

}  // namespace

MemoryPool::~MemoryPool() {
  int before = 0;
  bool const known = cudaGetDevice(&before) == cudaSuccess;
  cudaSetDevice(device_);
  for (auto const& [size, memory] : free_) cudaFree(memory);
  for (auto const& [memory, size] : used_) cudaFree(memory);
  if (known) cudaSetDevice(before);
}

void* MemoryPool::take(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  detail::require(bytes <= static_cast<std::size_t>(-1) / 2, "[MemoryPool] ", bytes,
                  " bytes: more than a device can hold");
  std::size_t const size = (bytes + grain - 1) / grain * grain;
  std::lock_guard lock(mutex_);
  if (auto const found = free_.lower_bound(size);
      found != free_.end() && found->first - size <= found->first / waste_divisor) {
    void* const memory = found->second;
    used_.emplace(memory, found->first);
    free_.erase(found);
    return memory;
  }
  DeviceScope const scope(device_);
  void* memory = nullptr;
  cudaError_t status = cudaMalloc(&memory, size);
  if (status == cudaErrorMemoryAllocation && !free_.empty()) {
    static_cast<void>(cudaGetLastError());
    release_unused();
    status = cudaMalloc(&memory, size);
  }
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    std::size_t free_bytes = 0, total = 0;
    static_cast<void>(cudaMemGetInfo(&free_bytes, &total));
    throw CudaError(Error::Kind::memory,
                    detail::sentence("[MemoryPool] ", size, " bytes asked of device ", device_,
                                     ", which has ", free_bytes, " of ", total, " left and gave ", held_,
                                     " here already: use smaller batches, or free memory of the device"),
                    static_cast<int>(status));
  }
  check(status);
  used_.emplace(memory, size);
  held_ += size;
  return memory;
}

void MemoryPool::give(void* memory) noexcept {
  std::lock_guard lock(mutex_);
  auto const found = used_.find(memory);
  if (found == used_.end()) return;
  free_.emplace(found->second, memory);
  used_.erase(found);
}

std::size_t MemoryPool::bytes_held() const {
  std::lock_guard lock(mutex_);
  return held_;
}

/// Only when the device is full: cudaFree waits for it.
void MemoryPool::release_unused() {
  for (auto const& [size, memory] : free_) {
    cudaFree(memory);
    held_ -= size;
  }
  free_.clear();
}

}  // namespace dartquant::cuda
