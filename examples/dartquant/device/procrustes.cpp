// SPDX-License-Identifier: Apache-2.0
#include "gpu_learners.hpp"

template dartquant::Learner dartquant::procrustes_learner<dartquant::cuda::Gpu>(cuda::Gpu const&,
                                                                                LearnedObjective);
