// SPDX-License-Identifier: Apache-2.0
#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/multiply_mma.cuh>
#include <dartquant/cuda/tensor_core.cuh>

#include "matmul_kernels.hpp"

namespace dartquant::cuda::detail {
namespace {

template <MmaOperands Operands>
void launch_mma(cudaStream_t stream, IntProduct const& p) {
  using Grouped = MultiplyMma<Operands, true>;
  using Whole = MultiplyMma<Operands, false>;
  if (p.w.groups > 1) launch(stream, Grouped::grid(p), Grouped{p});
  else launch(stream, Whole::grid(p), Whole{p});
}

}  // namespace

void launch_mma_bytes(cudaStream_t stream, IntProduct const& p) { launch_mma<MmaOperands::bytes>(stream, p); }
void launch_mma_nibbles(cudaStream_t stream, IntProduct const& p) {
  launch_mma<MmaOperands::nibbles>(stream, p);
}

}  // namespace dartquant::cuda::detail
