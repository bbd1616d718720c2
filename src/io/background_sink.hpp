// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include <dartquant/core/matrix.hpp>
#include <dartquant/io/tensor_writer.hpp>

namespace dartquant::detail {

/// Hands what it is given to another sink, in order, on a thread of its own: rounding, checksums and writing
/// run while the caller makes the next values. It keeps a copy of at most one append, or of several up to
/// 64 MB. What the other sink throws is thrown by the next call. With `threads` 1 there is no other thread.
class BackgroundSink final : public TensorSink {
 public:
  /// `sink` must outlive this.
  BackgroundSink(TensorSink& sink, int threads);
  BackgroundSink(BackgroundSink const&) = delete;
  BackgroundSink& operator=(BackgroundSink const&) = delete;
  ~BackgroundSink() override;

  void append(std::string_view name, MatrixView<float const> values) override;
  void append(std::string_view name, MatrixView<double const> values) override;
  void append_bytes(std::string_view name, std::span<std::byte const> bytes) override;
  /// Without a copy.
  void append(std::string_view name, RowMatrix<double>&& values);
  /// Waits until everything was handed over.
  void finish();

 private:
  struct Job {
    std::function<void()> run;
    std::uint64_t bytes;
  };
  template <class T>
  void append_values(std::string_view name, MatrixView<T const> values);
  /// Takes a job whose copy has `bytes`, as soon as there is room for it; `make` copies.
  void add(std::uint64_t bytes, std::function<std::function<void()>()> const& make);
  void work();

  TensorSink& sink_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;  ///< the first one is being run
  std::uint64_t held_ = 0;
  bool stop_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

}  // namespace dartquant::detail
