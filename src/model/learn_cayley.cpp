// SPDX-License-Identifier: Apache-2.0
#include "model/cpu_learners.hpp"

template dartquant::Learner dartquant::cayley_learner<dartquant::Cpu>(Cpu const&, LearnedObjective);
