// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

#include <dartquant/calibrate/options.hpp>
#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/pipeline.hpp>

namespace dartquant::detail {

using EpochProgress = std::function<void(CalibrationProgress const&)>;

/// How one rotation of the pipeline, or those of the heads of a layer, are learned.
struct Learning {
  LearningOptions options{};
  RowScale row_scale = RowScale::as_given;
  InitialRotation initial = InitialRotation::random_hadamard;
  RowMatrix<double> const* output_factor = nullptr;  ///< of LearnedObjective::output_error, see below
  std::uint64_t seed = 0;
  EpochProgress progress{};
};

/// calibrate_rotation and calibrate_heads for one objective and optimizer.
struct Learner {
  Calibration (*rotation)(Cpu const& cpu, MatrixView<float const> X, Learning const& learning) = nullptr;
  HeadCalibration (*heads)(Cpu const& cpu, MatrixView<float const> X, index_t query_heads, index_t kv_heads,
                           Learning const& learning) = nullptr;
};

/// The learner of a run's method, by its own rule or that of the run. Precondition: it learns. Errors:
/// InvalidArgument where no learner was compiled for its objective and rule.
[[nodiscard]] Learner learner_of(ModelCalibrationOptions const& run);
/// The objective that a run learns on, and the rule that it learns by.
[[nodiscard]] LearnedObjective objective_of(ModelCalibrationOptions const& run);
/// The rows of weights that R1 learns on for every row of activations.
[[nodiscard]] double weight_rows_of(ModelCalibrationOptions const& run);
[[nodiscard]] LearningRule rule_of(ModelCalibrationOptions const& run);

/// L [hidden, hidden], L L^T = the mean of W^T W over all linear layers that the norms of the layers feed,
/// gains folded, scaled to a trace of `hidden` (OutputError::factor). One tensor in memory at a time.
[[nodiscard]] RowMatrix<double> output_factor(Cpu const& cpu, Model const& model);

/// One optimizer each, so that they compile side by side; an empty Learner for an objective without one.
[[nodiscard]] Learner qr_orth_learner(LearnedObjective objective);
[[nodiscard]] Learner procrustes_learner(LearnedObjective objective);
[[nodiscard]] Learner cayley_learner(LearnedObjective objective);

}  // namespace dartquant::detail
