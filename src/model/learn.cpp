// SPDX-License-Identifier: Apache-2.0
#include "model/learn.hpp"

#include <dartquant/core/error.hpp>

namespace dartquant::detail {

LearningRule rule_of(ModelCalibrationOptions const& run) {
  return run.rule.value_or(traits(run.method).rule);
}

LearnedObjective objective_of(ModelCalibrationOptions const& run) {
  return run.objective.value_or(traits(run.method).objective);
}

double weight_rows_of(ModelCalibrationOptions const& run) {
  return run.weight_rows.value_or(traits(run.method).weight_rows);
}

Learner learner_of(ModelCalibrationOptions const& run) {
  LearnedObjective const objective = objective_of(run);
  Learner learner;
  switch (rule_of(run)) {
    case LearningRule::qr_orth:
      learner = qr_orth_learner(objective);
      break;
    case LearningRule::procrustes:
      learner = procrustes_learner(objective);
      break;
    case LearningRule::cayley:
      learner = cayley_learner(objective);
      break;
  }
  require(learner.rotation != nullptr, "[calibrate] method ", name_of(run.method), " by ",
          name_of(rule_of(run)), ": the objective ", name_of(objective),
          " does not go with this optimizer here; leave both to the method");
  return learner;
}

}  // namespace dartquant::detail
