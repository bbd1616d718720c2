// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

#include <dartquant/calibrate/options.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/model/method.hpp>

namespace dartquant {

/// How long and how fast one rotation learns; 0 means the default of the method.
struct LearningOptions {
  index_t epochs = 0;
  index_t batch_rows = 0;
  double learning_rate = 0;

  /// Errors: InvalidArgument.
  void validate() const;
};

/// How one rotation of the pipeline, or those of the heads of a layer, are learned.
struct Learning {
  LearningOptions options{};
  RowScale row_scale = RowScale::as_given;
  InitialRotation initial = InitialRotation::random_hadamard;
  RowMatrix<double> const* output_factor =
      nullptr;  ///< of LearnedObjective::output_error: OutputError::factor
  std::uint64_t seed = 0;
  std::function<void(CalibrationProgress const&)> progress{};
};

/// calibrate_rotation and calibrate_heads for one objective and optimizer on one machine. X, in host memory:
/// [rows, channels], and [rows, query_heads * head_dim].
struct Learner {
  std::function<Calibration(MatrixView<float const> X, Learning const& learning)> rotation{};
  std::function<HeadCalibration(MatrixView<float const> X, index_t query_heads, index_t kv_heads,
                                Learning const& learning)>
      heads{};
};

/// The learners of a machine: see learners_on (model/make_learner.hpp). Empty functions where there is none
/// for an objective and rule.
using Learners = std::function<Learner(LearnedObjective objective, LearningRule rule)>;

}  // namespace dartquant
