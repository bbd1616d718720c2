// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include <dartquant/core/error.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/memory_pool.hpp>

namespace dartquant::cuda {

/// A dense row-major matrix in the memory of a device, uninitialised. Move-only: a copy would hide a stream.
/// Converts to views of device memory. Its memory goes back to the pool it came from when it dies, for later
/// work on the same stream; whoever uses it on another stream waits first.
template <class T>
class DeviceMatrix {
 public:
  DeviceMatrix() = default;
  /// Errors: InvalidArgument for negative or overflowing sizes, CudaError when the device has no memory left.
  DeviceMatrix(std::shared_ptr<MemoryPool> pool, index_t rows, index_t cols)
      : pool_(std::move(pool)), rows_(rows), cols_(cols) {
    constexpr index_t most = static_cast<index_t>(static_cast<std::size_t>(-1) / 2 / sizeof(T));
    detail::require(rows >= 0 && cols >= 0 && (cols == 0 || rows <= most / cols), "[DeviceMatrix] ", rows,
                    " x ", cols, ": sizes must not be negative, nor their product overflow");
    data_ = static_cast<T*>(pool_->take(static_cast<std::size_t>(rows * cols) * sizeof(T)));
  }
  DeviceMatrix(DeviceMatrix&& other) noexcept { swap(other); }
  DeviceMatrix& operator=(DeviceMatrix&& other) noexcept {
    DeviceMatrix taken(std::move(other));
    swap(taken);
    return *this;
  }
  ~DeviceMatrix() {
    if (data_ != nullptr) pool_->give(data_);
  }

  [[nodiscard]] index_t rows() const { return rows_; }
  [[nodiscard]] index_t cols() const { return cols_; }
  [[nodiscard]] T* data() { return data_; }
  [[nodiscard]] T const* data() const { return data_; }

  [[nodiscard]] DeviceMatrixView<T> view() { return {data_, rows_, cols_}; }
  [[nodiscard]] DeviceMatrixView<T const> view() const { return {data_, rows_, cols_}; }
  operator DeviceMatrixView<T>() { return view(); }
  operator DeviceMatrixView<T const>() const { return view(); }

 private:
  void swap(DeviceMatrix& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(data_, other.data_);
    std::swap(rows_, other.rows_);
    std::swap(cols_, other.cols_);
  }

  std::shared_ptr<MemoryPool> pool_;
  T* data_ = nullptr;
  index_t rows_ = 0, cols_ = 0;
};

}  // namespace dartquant::cuda
