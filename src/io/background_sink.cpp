// SPDX-License-Identifier: Apache-2.0
#include "io/background_sink.hpp"

#include <string>
#include <utility>
#include <vector>

namespace dartquant::detail {
namespace {

constexpr std::uint64_t most_bytes = std::uint64_t{64} << 20;

}  // namespace

BackgroundSink::BackgroundSink(TensorSink& sink, int threads) : sink_(sink) {
  if (threads > 1) thread_ = std::thread([this] { work(); });
}

BackgroundSink::~BackgroundSink() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard const lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

template <class T>
void BackgroundSink::append_values(std::string_view name, MatrixView<T const> values) {
  if (!thread_.joinable()) return sink_.append(name, values);
  auto const bytes = static_cast<std::uint64_t>(values.rows() * values.cols()) * sizeof(T);
  add(bytes, [&]() -> std::function<void()> {
    return [this, tensor = std::string(name), copy = RowMatrix<T>(as_eigen(values))] {
      sink_.append(tensor, MatrixView<T const>(copy));
    };
  });
}

void BackgroundSink::append(std::string_view name, MatrixView<float const> values) {
  append_values(name, values);
}
void BackgroundSink::append(std::string_view name, MatrixView<double const> values) {
  append_values(name, values);
}
void BackgroundSink::append(std::string_view name, RowMatrix<double>&& values) {
  if (!thread_.joinable()) return sink_.append(name, MatrixView<double const>(values));
  add(static_cast<std::uint64_t>(values.size()) * sizeof(double), [&]() -> std::function<void()> {
    return [this, tensor = std::string(name), kept = std::move(values)] {
      sink_.append(tensor, MatrixView<double const>(kept));
    };
  });
}
void BackgroundSink::append_bytes(std::string_view name, std::span<std::byte const> bytes) {
  if (!thread_.joinable()) return sink_.append_bytes(name, bytes);
  add(bytes.size(), [&]() -> std::function<void()> {
    return [this, tensor = std::string(name), copy = std::vector<std::byte>(bytes.begin(), bytes.end())] {
      sink_.append_bytes(tensor, copy);
    };
  });
}

void BackgroundSink::add(std::uint64_t bytes, std::function<std::function<void()>()> const& make) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return error_ || jobs_.empty() || held_ + bytes <= most_bytes; });
  if (error_) std::rethrow_exception(error_);
  lock.unlock();
  std::function<void()> run = make();
  lock.lock();
  jobs_.push_back({std::move(run), bytes});
  held_ += bytes;
  changed_.notify_all();
}

void BackgroundSink::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return error_ || jobs_.empty(); });
  if (error_) std::rethrow_exception(error_);
}

void BackgroundSink::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || !jobs_.empty(); });
    if (stop_) return;
    std::function<void()> const run = std::move(jobs_.front().run);
    lock.unlock();
    std::exception_ptr error;
    try {
      run();
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    held_ -= jobs_.front().bytes;
    jobs_.pop_front();
    if (error) {
      error_ = error;
      jobs_.clear();
    }
    changed_.notify_all();
    if (error) return;
  }
}

}  // namespace dartquant::detail
