// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <barrier>
#include <functional>
#include <thread>
#include <vector>

namespace engine {

/// The engine's own threads: `run` calls task(part) once on every thread, part = 0 .. count - 1, and waits.
/// The kernels never start a thread; they do the share they are told to do.
class Workers {
 public:
  explicit Workers(int count) : start_(count), finish_(count) {
    for (int part = 1; part < count; ++part)
      threads_.emplace_back([this, part] {
        for (start_.arrive_and_wait(); task_ != nullptr; start_.arrive_and_wait()) {
          (*task_)(part);
          finish_.arrive_and_wait();
        }
      });
  }
  ~Workers() {
    task_ = nullptr;
    start_.arrive_and_wait();
    for (std::thread& thread : threads_) thread.join();
  }
  Workers(Workers const&) = delete;
  Workers& operator=(Workers const&) = delete;

  [[nodiscard]] int count() const { return static_cast<int>(threads_.size()) + 1; }

  void run(std::function<void(int)> const& task) {
    task_ = &task;
    start_.arrive_and_wait();
    task(0);
    finish_.arrive_and_wait();
  }

 private:
  std::barrier<> start_, finish_;
  std::function<void(int)> const* task_ = nullptr;
  std::vector<std::thread> threads_;
};

}  // namespace engine
