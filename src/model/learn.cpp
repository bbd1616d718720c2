// SPDX-License-Identifier: Apache-2.0
#include "model/learn.hpp"

#include <algorithm>

#include <dartquant/core/error.hpp>

#include "model/cpu_learners.hpp"

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

Learner learner_of(Cpu const& cpu, ModelCalibrationOptions const& run) {
  LearnedObjective const objective = objective_of(run);
  Learners const learners = run.learners ? run.learners : learners_on(cpu);
  Learner learner = learners(objective, rule_of(run));
  require(learner.rotation && learner.heads, "[calibrate] method ", name_of(run.method), " by ",
          name_of(rule_of(run)), ": the objective ", name_of(objective),
          " does not go with this optimizer here; leave both to the method");
  return learner;
}

index_t second_pass_windows(index_t windows, index_t seqlen, CaptureOptions const& capture) {
  index_t const rows = std::min(capture.r2_rows, windows * seqlen);
  return std::min(windows, (2 * rows + seqlen - 1) / seqlen);
}

}  // namespace dartquant::detail
