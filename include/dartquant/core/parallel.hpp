// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include <dartquant/core/error.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// Runs task(part) for every part in [0, parts), in any order and on any threads, and returns when all are
/// done. An engine gives its own here, so that the library uses the engine's threads and starts none. Tasks
/// do not throw: the library catches inside them.
using Executor = std::function<void(index_t parts, std::function<void(index_t)> const& task)>;

/// A fork-join pool: `threads` - 1 workers and the calling thread. A call from inside a task runs in place.
class ThreadPool {
 public:
  explicit ThreadPool(int threads) {
    detail::require(threads >= 1, "[ThreadPool] ", threads, " threads: at least one is needed");
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  ThreadPool(ThreadPool const&) = delete;
  ThreadPool& operator=(ThreadPool const&) = delete;
  ~ThreadPool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void operator()(index_t parts, std::function<void(index_t)> const& task) {
    std::unique_lock lock(mutex_);
    if (busy_ || workers_.empty() || parts <= 1) {
      lock.unlock();
      for (index_t part = 0; part < parts; ++part) task(part);
      return;
    }
    busy_ = true;
    task_ = &task;
    next_ = 0;
    parts_ = pending_ = parts;
    lock.unlock();
    wake_.notify_all();
    lock.lock();
    run_parts(lock);
    done_.wait(lock, [this] { return pending_ == 0; });
    task_ = nullptr;
    busy_ = false;
  }

 private:
  void run_parts(std::unique_lock<std::mutex>& lock) {
    while (task_ != nullptr && next_ < parts_) {
      index_t const part = next_++;
      std::function<void(index_t)> const& task = *task_;
      lock.unlock();
      task(part);
      lock.lock();
      if (--pending_ == 0) done_.notify_all();
    }
  }
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stop_ || (task_ != nullptr && next_ < parts_); });
      if (stop_) return;
      run_parts(lock);
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  std::function<void(index_t)> const* task_ = nullptr;
  index_t next_ = 0, parts_ = 0, pending_ = 0;
  bool busy_ = false, stop_ = false;
};

/// Calls body(first, last) on consecutive ranges of `grain` indices (the last one shorter) that cover [0,
/// count). The ranges depend on count and grain alone, never on the number of threads, so a result formed per
/// range is the same on any machine. The exception of the lowest range that threw is thrown again here.
template <class Body>
void parallel_for(Executor const& executor, index_t count, index_t grain, Body const& body) {
  if (count <= 0) return;
  index_t const step = grain < 1 ? 1 : grain;
  index_t const parts = (count + step - 1) / step;
  if (parts == 1 || !executor) {
    for (index_t part = 0; part < parts; ++part) body(part * step, std::min(count, (part + 1) * step));
    return;
  }
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(parts));
  executor(parts, [&](index_t part) {
    try {
      body(part * step, std::min(count, (part + 1) * step));
    } catch (...) {
      errors[static_cast<std::size_t>(part)] = std::current_exception();
    }
  });
  for (std::exception_ptr const& error : errors)
    if (error) std::rethrow_exception(error);
}

/// The sum of body(first, last) over the ranges of parallel_for, added in the order of the ranges.
template <class Body>
[[nodiscard]] double parallel_sum(Executor const& executor, index_t count, index_t grain, Body const& body) {
  if (count <= 0) return 0;
  index_t const step = grain < 1 ? 1 : grain;
  std::vector<double> partial(static_cast<std::size_t>((count + step - 1) / step));
  parallel_for(executor, count, step, [&](index_t first, index_t last) {
    partial[static_cast<std::size_t>(first / step)] = body(first, last);
  });
  double sum = 0;
  for (double const value : partial) sum += value;
  return sum;
}

}  // namespace dartquant
