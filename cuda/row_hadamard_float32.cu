// SPDX-License-Identifier: Apache-2.0
#include "row_strips.cuh"

template void dartquant::cuda::launch_hadamard_strips<float>(cudaStream_t, StripPlan const&, Rows const&);
