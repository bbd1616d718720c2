// SPDX-License-Identifier: Apache-2.0
#include "model/make_learner.hpp"

namespace dartquant::detail {

Learner qr_orth_learner(LearnedObjective objective) {
  switch (objective) {
    case LearnedObjective::whip:
      return make_learner<Whip, Sgd>();
    case LearnedObjective::uniformity:
      return make_learner<Uniformity, Sgd>();
    case LearnedObjective::kurtosis:
      return make_learner<Kurtosis, Sgd>();
    case LearnedObjective::variance:
      return make_learner<Variance, Sgd>();
    case LearnedObjective::peak:
      return make_learner<Peak, Sgd>();
    case LearnedObjective::quant_error:
      return make_learner<QuantError, Sgd>();
    case LearnedObjective::output_error:
      break;
  }
  return {};
}

}  // namespace dartquant::detail
