// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/calibrate/calibrate.hpp>
#include <dartquant/calibrate/cayley.hpp>
#include <dartquant/calibrate/output_error.hpp>
#include <dartquant/calibrate/procrustes.hpp>
#include <dartquant/core/backend.hpp>
#include <dartquant/model/learner.hpp>

namespace dartquant {

namespace detail {

template <class Objective, class Optimizer>
[[nodiscard]] CalibrationOptions<Objective, Optimizer> calibration_options(Learning const& learning) {
  CalibrationOptions<Objective, Optimizer> options;
  options.epochs = learning.options.epochs;
  if (learning.options.batch_rows > 0) options.batch_rows = learning.options.batch_rows;
  if (learning.options.learning_rate > 0)
    options.learning_rate = static_cast<float>(learning.options.learning_rate);
  options.row_scale = learning.row_scale;
  options.initial = learning.initial;
  options.seed = learning.seed;
  options.progress = learning.progress;
  return options;
}

/// X of the host where the machine works: itself, or a copy.
template <Backend B>
[[nodiscard]] auto on_machine(B const& machine, MatrixView<float const> X) {
  if constexpr (B::space == Space::host) {
    return X;
  } else {
    auto copy = machine.template matrix<float>(X.rows(), X.cols());
    machine.copy(X, MatrixView<float, B::space>(copy));
    return copy;
  }
}

template <class Objective, class Optimizer, Backend B>
[[nodiscard]] Learner make_learner(B const& machine) {
  return {
      [machine](MatrixView<float const> X, Learning const& learning) {
        return calibrate_rotation(machine, on_machine(machine, X),
                                  calibration_options<Objective, Optimizer>(learning));
      },
      [machine](MatrixView<float const> X, index_t query_heads, index_t kv_heads, Learning const& learning) {
        return calibrate_heads(machine, on_machine(machine, X), query_heads, kv_heads,
                               calibration_options<Objective, Optimizer>(learning));
      }};
}

}  // namespace detail

// The learners of one rule on a machine, empty for an objective that does not go with it. Each instantiates
// calibrations that take the compiler tens of seconds: give each a file, and tell the others so by an `extern
// template` (src/model/cpu_learners.hpp).

/// Descent by QR-Orth with SGD.
template <Backend B>
[[nodiscard]] Learner qr_orth_learner(B const& machine, LearnedObjective objective) {
  switch (objective) {
    case LearnedObjective::whip:
      return detail::make_learner<Whip, Sgd>(machine);
    case LearnedObjective::uniformity:
      return detail::make_learner<Uniformity, Sgd>(machine);
    case LearnedObjective::kurtosis:
      return detail::make_learner<Kurtosis, Sgd>(machine);
    case LearnedObjective::variance:
      return detail::make_learner<Variance, Sgd>(machine);
    case LearnedObjective::peak:
      return detail::make_learner<Peak, Sgd>(machine);
    case LearnedObjective::quant_error:
      return detail::make_learner<QuantError, Sgd>(machine);
    case LearnedObjective::output_error:
      break;
  }
  return {};
}

template <Backend B>
[[nodiscard]] Learner procrustes_learner(B const& machine, LearnedObjective objective) {
  switch (objective) {
    case LearnedObjective::whip:
      return detail::make_learner<Whip, Procrustes>(machine);
    case LearnedObjective::uniformity:
      return detail::make_learner<Uniformity, Procrustes>(machine);
    case LearnedObjective::kurtosis:
      return detail::make_learner<Kurtosis, Procrustes>(machine);
    case LearnedObjective::peak:
      return detail::make_learner<Peak, Procrustes>(machine);
    case LearnedObjective::variance:
    case LearnedObjective::quant_error:
    case LearnedObjective::output_error:
      break;
  }
  return {};
}

/// For output_error: R1 on the outputs, R2 on Whip, because what reads R2 is one layer's o_proj, whose input
/// is not split by head.
template <Backend B>
[[nodiscard]] Learner cayley_learner(B const& machine, LearnedObjective objective) {
  bool const outputs = objective == LearnedObjective::output_error;
  if (!outputs && objective != LearnedObjective::whip) return {};
  Learner learner = detail::make_learner<Whip, Cayley>(machine);
  if (outputs)
    learner.rotation = [machine](MatrixView<float const> X, Learning const& learning) {
      auto options = detail::calibration_options<OutputError, Cayley>(learning);
      options.objective.factor = *learning.output_factor;
      return calibrate_rotation(machine, detail::on_machine(machine, X), options);
    };
  return learner;
}

/// All learners of a machine, such as ModelCalibrationOptions::learners takes. The result keeps a copy of it.
template <Backend B>
[[nodiscard]] Learners learners_on(B const& machine) {
  return [machine](LearnedObjective objective, LearningRule rule) -> Learner {
    switch (rule) {
      case LearningRule::qr_orth:
        return qr_orth_learner(machine, objective);
      case LearningRule::procrustes:
        return procrustes_learner(machine, objective);
      case LearningRule::cayley:
        return cayley_learner(machine, objective);
    }
    return {};
  };
}

}  // namespace dartquant
