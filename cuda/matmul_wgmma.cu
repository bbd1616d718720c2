// SPDX-License-Identifier: Apache-2.0
#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/multiply_wgmma.cuh>
#include <dartquant/cuda/tensor_core.cuh>
#include <dartquant/cuda/warpgroup.cuh>

#include "matmul_kernels.hpp"

namespace dartquant::cuda::detail {

void launch_wgmma(cudaStream_t stream, IntProduct const& p, StagedLayout const& layout) {
  using Grouped = MultiplyWgmma<1, true>;
  using Whole = MultiplyWgmma<2, false>;
  if (p.w.groups > 1) launch(stream, Grouped::grid(p), Grouped{p, layout});
  else launch(stream, Whole::grid(p), Whole{p, layout});
}

}  // namespace dartquant::cuda::detail
