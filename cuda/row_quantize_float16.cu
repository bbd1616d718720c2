// SPDX-License-Identifier: Apache-2.0
#include "row_strips.cuh"

template void dartquant::cuda::launch_quantize_strips<dartquant::Half>(cudaStream_t, StripPlan const&,
                                                                       QuantizedRows const&, float);
