// SPDX-License-Identifier: Apache-2.0
#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/multiply_mma.cuh>
#include <dartquant/cuda/tensor_core.cuh>

#include "matmul_kernels.hpp"

namespace dartquant::cuda::detail {

void launch_mma_bytes(cudaStream_t stream, IntProduct const& p) {
  using Kernel = MultiplyMma<MmaOperands::bytes>;
  launch(stream, Kernel::grid(p), Kernel{p});
}

void launch_mma_nibbles(cudaStream_t stream, IntProduct const& p) {
  using Kernel = MultiplyMma<MmaOperands::nibbles>;
  launch(stream, Kernel::grid(p), Kernel{p});
}

}  // namespace dartquant::cuda::detail
