// SPDX-License-Identifier: Apache-2.0
#include "peak_memory.hpp"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <utility>

namespace dartquant::program {
namespace {

/// `name` of sysconf counts pages.
std::uint64_t bytes_of_pages(int name) {
  long const pages = sysconf(name), size = sysconf(_SC_PAGESIZE);
  return pages > 0 && size > 0 ? static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(size) : 0;
}

}  // namespace

std::uint64_t machine_memory() { return bytes_of_pages(_SC_PHYS_PAGES); }
std::uint64_t free_memory() { return bytes_of_pages(_SC_AVPHYS_PAGES); }

bool reset_peak_memory() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;
  return file.good();
}

PeakBytes peak_memory() {
  std::ifstream file("/proc/self/status");
  for (std::string word; file >> word;)
    if (PeakBytes kilobytes = 0; word == "VmHWM:" && file >> kilobytes) return 1024 * kilobytes;
  return 0;
}

CalibrationMemory::CalibrationMemory(index_t runs) : runs_(runs), measured_(reset_peak_memory()) {}

PeakBytes CalibrationMemory::take() {
  PeakBytes const bytes = measured_ ? peak_memory() : 0;
  measured_ = measured_ && reset_peak_memory();
  return bytes;
}

Progress CalibrationMemory::around(Progress progress) {
  return [this, progress = std::move(progress)](std::string_view stage, index_t done, index_t total) {
    bool const learning = stage == "calibrate";
    if (!learning && done == total) capture_ = std::max(capture_, take());
    if (learning && done * runs_ % total == 0 && done > 0 &&
        done * runs_ / total > static_cast<index_t>(learning_.size()))
      learning_.push_back(take());
    if (progress) progress(stage, done, total);
  };
}

}  // namespace dartquant::program
