// SPDX-License-Identifier: Apache-2.0
#include "progress.hpp"

#include <cstdio>
#include <utility>

#include <fmt/core.h>

#include "interrupt.hpp"
#include "terminal.hpp"
#include "units.hpp"

namespace dartquant::program {
namespace {

constexpr std::chrono::milliseconds between_frames{100};
constexpr std::chrono::seconds between_lines{15};

double seconds_between(std::chrono::steady_clock::time_point from, std::chrono::steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

ProgressDisplay::ProgressDisplay(Detail detail)
    : shown_(detail == Detail::shown), terminal_(shown_ && is_terminal(stderr)), all_started_(Clock::now()) {}

ProgressDisplay::~ProgressDisplay() { clear(); }

void ProgressDisplay::start(std::string label, index_t index, index_t count) {
  stop_if_interrupted();
  label_ = std::move(label);
  stage_.clear();
  index_ = index;
  count_ = count;
  job_started_ = last_update_ = last_shown_ = Clock::now();
  if (index == 0) all_started_ = job_started_;
}

void ProgressDisplay::finish(std::string_view outcome) {
  clear();
  stop_if_interrupted();
  if (!shown_ || terminal_) return;
  std::string const time = format_seconds(seconds_between(job_started_, Clock::now()));
  std::string const place = count_ > 1 ? fmt::format("[{}/{}] ", index_ + 1, count_) : std::string();
  if (count_ > 1 || !outcome.empty())
    fmt::print(stderr, "{}{}: {}{}{}\n", place, label_, outcome, outcome.empty() ? "" : ", ", time);
}

Progress ProgressDisplay::callback() {
  return [this](std::string_view stage, index_t done, index_t total) { update(stage, done, total); };
}

void ProgressDisplay::update(std::string_view stage, index_t done, index_t total) {
  stop_if_interrupted();
  if (!shown_ || total <= 0) return;
  Clock::time_point const now = Clock::now();
  if (stage != stage_) {
    stage_ = stage;
    stage_started_ = last_update_;
  }
  last_update_ = now;
  double const part = static_cast<double>(done) / static_cast<double>(total);
  if (terminal_) {
    if (drawn_ && done < total && now - last_shown_ < between_frames) return;
    draw(part);
  } else if (done == total && count_ == 1) {
    fmt::print(stderr, "{}: {} done in {}\n", label_, stage_,
               format_seconds(seconds_between(stage_started_, now)));
  } else if (done < total && now - last_shown_ >= between_lines) {
    fmt::print(stderr, "{}: {} {:.0f} %\n", label_, stage_, 100 * part);
  } else {
    return;
  }
  last_shown_ = now;
}

/// One job: its stage fills the bar. Several: the jobs do, since all take about the same time.
void ProgressDisplay::draw(double part) {
  constexpr std::size_t bar_width = 24;
  bool const one = count_ == 1;
  double const fraction = one ? part : (static_cast<double>(index_) + part / 2) / static_cast<double>(count_);
  double const elapsed = seconds_between(one ? stage_started_ : all_started_, last_update_);
  std::string const left = fraction > 0 && elapsed > 1
                               ? format_seconds(elapsed * (1 - fraction) / fraction) + " left"
                               : std::string();
  std::string filled = bar(fraction, static_cast<int>(bar_width));
  filled.append(bar_width - display_width(filled), speaks_utf8() ? ' ' : '.');
  std::string const what =
      one ? fmt::format("{}: {}", label_, stage_) : fmt::format("{}/{} {}", index_ + 1, count_, label_);
  std::string line = fmt::format("[{}] {:3.0f} %  {}  {}", filled, 100 * fraction, what, left);
  if (display_width(line) >= static_cast<std::size_t>(terminal_columns()))
    line = fmt::format("{:3.0f} %  {}", 100 * fraction, left);
  fmt::print(stderr, "\r\x1b[K{}", line);
  std::fflush(stderr);
  drawn_ = true;
}

void ProgressDisplay::clear() {
  if (drawn_) fmt::print(stderr, "\r\x1b[K");
  drawn_ = false;
}

}  // namespace dartquant::program
