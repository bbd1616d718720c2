// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <dartquant/calibrate/options.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant::detail {

/// How the rows of a calibration are cut: equal batches of at most `batch_rows`, `epochs` passes over them.
struct EpochPlan {
  index_t rows = 0, batches = 1, batch_rows = 0, epochs = 1;

  [[nodiscard]] index_t first_of(index_t batch) const { return rows * batch / batches; }
};

template <class Objective, class Optimizer>
[[nodiscard]] EpochPlan plan_epochs(CalibrationOptions<Objective, Optimizer> const& options, index_t rows) {
  EpochPlan plan{.rows = rows, .batches = (rows + options.batch_rows - 1) / options.batch_rows};
  plan.batch_rows = (rows + plan.batches - 1) / plan.batches;
  plan.epochs = options.epochs > 0
                    ? options.epochs
                    : std::max<index_t>(1, (default_steps<Optimizer>() + plan.batches / 2) / plan.batches);
  return plan;
}

/// The random numbers of a calibration: one stream per purpose, apart from those of the initial rotation.
[[nodiscard]] inline Philox row_order(std::uint64_t seed, index_t epoch) {
  return Philox(seed, 0x4550'0000'0000u + static_cast<std::uint64_t>(epoch));
}

/// How the last epoch went, from the losses.
[[nodiscard]] inline CalibrationStatus judge(Calibration const& found, double tolerance) {
  double const gained = found.initial_loss - found.best_loss;
  if (!(gained > 0)) return CalibrationStatus::stalled;
  double const before = found.loss.size() > 1 ? found.loss[found.loss.size() - 2] : found.initial_loss;
  return std::abs(before - found.loss.back()) <= tolerance * gained ? CalibrationStatus::converged
                                                                    : CalibrationStatus::max_epochs;
}

}  // namespace dartquant::detail
