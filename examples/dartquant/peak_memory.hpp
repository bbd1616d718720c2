// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include <dartquant/model/fold.hpp>

namespace dartquant::program {

/// Bytes of resident memory; 0 where the system does not tell.
using PeakBytes = std::uint64_t;

/// Memory of this machine, and what of it nobody uses; 0 where the system does not tell.
[[nodiscard]] std::uint64_t machine_memory();
[[nodiscard]] std::uint64_t free_memory();

/// Forgets the largest resident memory of this process so far. False where the system does not allow it: what
/// peak_memory tells then belongs to no single step.
[[nodiscard]] bool reset_peak_memory();

/// The largest resident memory of this process since the last reset (VmHWM of Linux), everything that was
/// resident before included.
[[nodiscard]] PeakBytes peak_memory();

/// The peaks of calibrate_all, told apart by its progress: of the passes over the text with the R2 of all
/// runs, and of learning the R1 of each run.
class CalibrationMemory {
 public:
  explicit CalibrationMemory(index_t runs);

  /// Measures, then passes the call on. Valid as long as this object.
  [[nodiscard]] Progress around(Progress progress);

  [[nodiscard]] PeakBytes capture() const { return capture_; }
  /// One per run that has finished.
  [[nodiscard]] std::vector<PeakBytes> const& learning() const { return learning_; }

 private:
  [[nodiscard]] PeakBytes take();

  index_t runs_;
  bool measured_;
  PeakBytes capture_ = 0;
  std::vector<PeakBytes> learning_;
};

}  // namespace dartquant::program
