// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/pipeline.hpp>

namespace dartquant::detail {

/// The learner of a run's method, by its own rule or that of the run, on the run's machine or else `cpu`.
/// Precondition: it learns. Errors: InvalidArgument where there is no learner for its objective and rule.
[[nodiscard]] Learner learner_of(Cpu const& cpu, ModelCalibrationOptions const& run);
/// The objective that a run learns on, and the rule that it learns by.
[[nodiscard]] LearnedObjective objective_of(ModelCalibrationOptions const& run);
/// The rows of weights that a run learns on for every row of activations.
[[nodiscard]] double weight_rows_of(ModelCalibrationOptions const& run);
[[nodiscard]] LearningRule rule_of(ModelCalibrationOptions const& run);

/// L [hidden, hidden], L L^T = the mean of W^T W over all linear layers that the norms of the layers feed,
/// gains folded, scaled to a trace of `hidden` (OutputError::factor). One tensor in memory at a time.
[[nodiscard]] RowMatrix<double> output_factor(Cpu const& cpu, Model const& model);

/// Of `windows`, how many the second pass of a calibration runs over: so many that the samples of one layer
/// are filled twice.
[[nodiscard]] index_t second_pass_windows(index_t windows, index_t seqlen, CaptureOptions const& capture);

}  // namespace dartquant::detail
