// SPDX-License-Identifier: Apache-2.0
#include <dartquant/cuda/launch.cuh>

#include "row_launch.hpp"

namespace dartquant::cuda {

void launch_quantize(cudaStream_t stream, RowPlan const& plan, RowTransformStep const& step,
                     QuantizedRows const& q, float clip_ratio) {
  with_threads(plan.threads, [&]<int Threads>() {
    launch(stream, plan.grid, quantize_rows<Threads>(step, q, clip_ratio));
  });
}

}  // namespace dartquant::cuda
