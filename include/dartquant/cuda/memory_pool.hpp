// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <map>
#include <mutex>

namespace dartquant::cuda {

/// Memory of one device that grows and is handed out again: what is given back stays here and serves the next
/// request that it fits, so a loop that asks for the same sizes over and over allocates in its first round
/// alone. Blocks are reused in the order of one stream, without waiting: everything that uses a pool runs on
/// one stream. `take` and `give` may be called from any thread.
class MemoryPool {
 public:
  explicit MemoryPool(int device) : device_(device) {}
  MemoryPool(MemoryPool const&) = delete;
  MemoryPool& operator=(MemoryPool const&) = delete;
  /// Waits for the device and frees everything.
  ~MemoryPool();

  /// At least `bytes` bytes, aligned to 256; null for 0. Errors: CudaError of kind memory that says how much
  /// was asked for and how much of the device is free.
  [[nodiscard]] void* take(std::size_t bytes);
  void give(void* memory) noexcept;

  /// Bytes that this pool holds of the device, in use or not. It never falls, so it is also the peak.
  [[nodiscard]] std::size_t bytes_held() const;

 private:
  void release_unused();

  int device_;
  std::size_t held_ = 0;
  std::multimap<std::size_t, void*> free_;
  std::map<void*, std::size_t> used_;
  mutable std::mutex mutex_;
};

}  // namespace dartquant::cuda
