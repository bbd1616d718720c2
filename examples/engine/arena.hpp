// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <stdexcept>

namespace engine {

/// One block of memory, given out piece by piece: what an engine does so that nothing is allocated while it
/// runs.
class Arena {
 public:
  explicit Arena(std::size_t bytes)
      : block_(static_cast<std::byte*>(std::aligned_alloc(alignment, round_up(bytes)))),
        size_(round_up(bytes)) {
    if (block_ == nullptr) throw std::bad_alloc();
  }

  template <class T>
  [[nodiscard]] T* take(std::int64_t count) {
    std::size_t const bytes = round_up(static_cast<std::size_t>(count) * sizeof(T));
    if (bytes > size_ - used_) throw std::length_error("the arena is full");
    void* const piece = block_.get() + used_;
    used_ += bytes;
    return static_cast<T*>(piece);
  }

  /// Everything taken after `mark` is free again.
  [[nodiscard]] std::size_t mark() const { return used_; }
  void release(std::size_t mark) { used_ = mark; }

 private:
  static constexpr std::size_t alignment = 64;
  static constexpr std::size_t round_up(std::size_t bytes) {
    return (bytes + alignment - 1) / alignment * alignment;
  }
  struct Free {
    void operator()(std::byte* block) const { std::free(block); }
  };

  std::unique_ptr<std::byte, Free> block_;
  std::size_t size_ = 0, used_ = 0;
};

}  // namespace engine
