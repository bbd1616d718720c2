// SPDX-License-Identifier: Apache-2.0
#include "model/learn.hpp"

#include <dartquant/core/error.hpp>

#include "model/cpu_learners.hpp"

namespace dartquant::detail {

LearningRule rule_of(ModelCalibrationOptions const& run) {
  return run.rule.value_or(traits(run.method).rule);
}

Learner learner_of(Cpu const& cpu, ModelCalibrationOptions const& run) {
  MethodTraits const& method = traits(run.method);
  Learners const learners = run.learners ? run.learners : learners_on(cpu);
  Learner learner = learners(method.objective, rule_of(run));
  require(learner.rotation && learner.heads, "[calibrate] method ", method.name, " by ",
          name_of(rule_of(run)),
          ": its objective does not go with this optimizer here; leave the optimizer to the method");
  return learner;
}

}  // namespace dartquant::detail
