// SPDX-License-Identifier: Apache-2.0
#include <dartquant/calibrate/cayley.hpp>
#include <dartquant/calibrate/output_error.hpp>

#include "model/make_learner.hpp"

namespace dartquant::detail {
namespace {

/// R1 on the outputs, R2 on Whip: what reads R2 is one layer's o_proj, whose input is not split by head.
Learner output_error_learner() {
  Learner learner = make_learner<Whip, Cayley>();
  learner.rotation = [](Cpu const& cpu, MatrixView<float const> X, Learning const& learning) {
    auto options = calibration_options<OutputError, Cayley>(learning);
    options.objective.factor = *learning.output_factor;
    return calibrate_rotation(cpu, X, options);
  };
  return learner;
}

}  // namespace

Learner cayley_learner(LearnedObjective objective) {
  if (objective == LearnedObjective::output_error) return output_error_learner();
  return objective == LearnedObjective::whip ? make_learner<Whip, Cayley>() : Learner{};
}

}  // namespace dartquant::detail
