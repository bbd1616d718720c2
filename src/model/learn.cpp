// SPDX-License-Identifier: Apache-2.0
#include "model/learn.hpp"

#include <dartquant/core/error.hpp>

namespace dartquant::detail {

LearningRule rule_of(ModelCalibrationOptions const& run) {
  return run.rule.value_or(traits(run.method).rule);
}

Learner learner_of(ModelCalibrationOptions const& run) {
  MethodTraits const& method = traits(run.method);
  Learner learner;
  switch (rule_of(run)) {
    case LearningRule::qr_orth:
      learner = qr_orth_learner(method.objective);
      break;
    case LearningRule::procrustes:
      learner = procrustes_learner(method.objective);
      break;
    case LearningRule::cayley:
      learner = cayley_learner(method.objective);
      break;
  }
  require(learner.rotation != nullptr, "[calibrate] method ", method.name, " by ", name_of(rule_of(run)),
          ": its objective does not go with this optimizer here; leave the optimizer to the method");
  return learner;
}

}  // namespace dartquant::detail
