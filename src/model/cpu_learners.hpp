// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/cpu.hpp>
#include <dartquant/model/make_learner.hpp>

namespace dartquant {

// Compiled side by side, in learn_qr_orth.cpp, learn_procrustes.cpp and learn_cayley.cpp.
extern template Learner qr_orth_learner<Cpu>(Cpu const& machine, LearnedObjective objective);
extern template Learner procrustes_learner<Cpu>(Cpu const& machine, LearnedObjective objective);
extern template Learner cayley_learner<Cpu>(Cpu const& machine, LearnedObjective objective);

}  // namespace dartquant
