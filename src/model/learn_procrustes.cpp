// SPDX-License-Identifier: Apache-2.0
#include <dartquant/calibrate/procrustes.hpp>

#include "model/make_learner.hpp"

namespace dartquant::detail {

Learner procrustes_learner(LearnedObjective objective) {
  switch (objective) {
    case LearnedObjective::whip:
      return make_learner<Whip, Procrustes>();
    case LearnedObjective::uniformity:
      return make_learner<Uniformity, Procrustes>();
    case LearnedObjective::kurtosis:
      return make_learner<Kurtosis, Procrustes>();
    case LearnedObjective::peak:
      return make_learner<Peak, Procrustes>();
    case LearnedObjective::variance:
    case LearnedObjective::quant_error:
    case LearnedObjective::output_error:
      break;
  }
  return {};
}

}  // namespace dartquant::detail
