// SPDX-License-Identifier: Apache-2.0
#include <dartquant/cuda/launch.cuh>

#include "row_launch.hpp"

namespace dartquant::cuda {

void launch_hadamard(cudaStream_t stream, RowPlan const& plan, RowTransformStep const& step, Rows const& y) {
  with_threads(plan.threads,
               [&]<int Threads>() { launch(stream, plan.grid, hadamard_rows<Threads>(step, y)); });
}

}  // namespace dartquant::cuda
