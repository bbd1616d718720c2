// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/cuda/gpu.hpp>
#include <dartquant/model/make_learner.hpp>

namespace dartquant {

// Compiled side by side, in qr_orth.cpp, procrustes.cpp and cayley.cpp.
extern template Learner qr_orth_learner<cuda::Gpu>(cuda::Gpu const& machine, LearnedObjective objective);
extern template Learner procrustes_learner<cuda::Gpu>(cuda::Gpu const& machine, LearnedObjective objective);
extern template Learner cayley_learner<cuda::Gpu>(cuda::Gpu const& machine, LearnedObjective objective);

}  // namespace dartquant
