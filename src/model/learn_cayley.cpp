// SPDX-License-Identifier: Apache-2.0
#include <dartquant/calibrate/cayley.hpp>

#include "model/make_learner.hpp"

namespace dartquant::detail {

Learner cayley_learner(LearnedObjective objective) {
  return objective == LearnedObjective::whip ? make_learner<Whip, Cayley>() : Learner{};
}

}  // namespace dartquant::detail
