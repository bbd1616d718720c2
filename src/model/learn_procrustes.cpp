// SPDX-License-Identifier: Apache-2.0
#include <dartquant/calibrate/procrustes.hpp>

#include "model/make_learner.hpp"

namespace dartquant::detail {

Learner procrustes_learner(LearnedObjective objective) {
  return objective == LearnedObjective::whip ? make_learner<Whip, Procrustes>() : Learner{};
}

}  // namespace dartquant::detail
