// SPDX-License-Identifier: Apache-2.0
#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/multiply_wgmma.cuh>
#include <dartquant/cuda/tensor_core.cuh>
#include <dartquant/cuda/warpgroup.cuh>

#include "matmul_kernels.hpp"

namespace dartquant::cuda::detail {

void launch_wgmma(cudaStream_t stream, IntProduct const& p, StagedLayout const& layout) {
  auto const run = [&]<class Kernel>(Kernel const& kernel) { launch(stream, Kernel::grid(p), kernel); };
  if (p.w.groups == 1) run(MultiplyWgmma<WgmmaSums::whole>{p, layout});
  else if (p.w.width == 128 && !p.corrected()) run(MultiplyWgmma<WgmmaSums::stages>{p, layout});
  else run(MultiplyWgmma<WgmmaSums::groups>{p, layout});
}

}  // namespace dartquant::cuda::detail
