// SPDX-License-Identifier: Apache-2.0
#include "model/learn.hpp"

#include <dartquant/core/error.hpp>

namespace dartquant::detail {

Learner learner_of(MethodTraits const& method) {
  Learner learner;
  switch (method.rule) {
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
  require(learner.rotation != nullptr, "[calibrate] method ", method.name,
          ": its objective was not compiled for its optimizer");
  return learner;
}

}  // namespace dartquant::detail
