// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include <dartquant/core/view.hpp>
#include <dartquant/model/fold.hpp>

namespace dartquant::program {

/// Shows on stderr how far a long job is: one line with a bar and the time left on a terminal, otherwise one
/// line per finished step. It is also where a job notices that it was interrupted.
class ProgressDisplay {
 public:
  enum class Detail { shown, hidden };

  explicit ProgressDisplay(Detail detail);
  ProgressDisplay(ProgressDisplay const&) = delete;
  ProgressDisplay& operator=(ProgressDisplay const&) = delete;
  ~ProgressDisplay();

  /// The next steps belong to job `index` (from 0) of `count`, called `label`.
  void start(std::string label, index_t index = 0, index_t count = 1);
  /// Ends the job; `outcome` is shown where lines are.
  void finish(std::string_view outcome = {});
  /// For the library's options: draws, and throws Interrupted after a signal. Valid as long as this object.
  [[nodiscard]] Progress callback();

 private:
  using Clock = std::chrono::steady_clock;

  void update(std::string_view stage, index_t done, index_t total);
  void draw(double part);
  void clear();

  bool shown_ = false, terminal_ = false, drawn_ = false;
  std::string label_, stage_;
  index_t index_ = 0, count_ = 1;
  Clock::time_point all_started_, job_started_, stage_started_, last_update_, last_shown_;
};

}  // namespace dartquant::program
