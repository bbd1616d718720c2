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
  job_started_ = Clock::now();
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
    stage_started_ = last_drawn_ = now;
  }
  if (terminal_) {
    if (drawn_ && done < total && now - last_drawn_ < between_frames) return;
    last_drawn_ = now;
    draw(done, total);
  } else if (done == total) {
    if (count_ == 1)
      fmt::print(stderr, "{}: {} {} in {}\n", label_, stage_, total,
                 format_seconds(seconds_between(stage_started_, now)));
  } else if (now - last_drawn_ >= between_lines) {
    last_drawn_ = now;
    fmt::print(stderr, "{}: {} {} of {}\n", label_, stage_, done, total);
  }
}

void ProgressDisplay::draw(index_t done, index_t total) {
  bool const one_job = count_ == 1;
  double const part = static_cast<double>(done) / static_cast<double>(total);
  double const fraction = one_job ? part : static_cast<double>(index_) / static_cast<double>(count_);
  double const elapsed = seconds_between(one_job ? stage_started_ : all_started_, Clock::now());
  std::string const left = fraction > 0 && elapsed > 1
                               ? format_seconds(elapsed * (1 - fraction) / fraction) + " left"
                               : std::string();
  std::string const place = one_job ? std::string() : fmt::format("{}/{} ", index_ + 1, count_);
  constexpr int bar_width = 24;
  std::string const filled = bar(fraction, bar_width);
  std::string const empty(static_cast<std::size_t>(bar_width) - display_width(filled),
                          speaks_utf8() ? ' ' : '.');
  std::string line =
      fmt::format("[{}{}] {}{}: {} {}/{}  {}", filled, empty, place, label_, stage_, done, total, left);
  if (display_width(line) >= static_cast<std::size_t>(terminal_columns()))
    line = fmt::format("{}{}: {}/{}  {}", place, stage_, done, total, left);
  fmt::print(stderr, "\r\x1b[K{}", line);
  std::fflush(stderr);
  drawn_ = true;
}

void ProgressDisplay::clear() {
  if (drawn_) fmt::print(stderr, "\r\x1b[K");
  drawn_ = false;
}

}  // namespace dartquant::program
