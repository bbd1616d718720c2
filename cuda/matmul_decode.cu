// SPDX-License-Identifier: Apache-2.0
#include <dartquant/cuda/activations.cuh>
#include <dartquant/cuda/decode.cuh>
#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/multiply_plain.cuh>
#include <dartquant/cuda/tensor_core.cuh>

#include "matmul_kernels.hpp"

namespace dartquant::cuda::detail {

void launch_stage(cudaStream_t stream, Activations const& x, StagedLayout const& layout, std::byte* staged) {
  launch(stream, StageActivations::grid(layout), StageActivations{x, layout, staged});
}

void launch_sums(cudaStream_t stream, Activations const& x, bool nibbles, int groups, std::int32_t* sums) {
  launch(stream, {.blocks_x = static_cast<int>(SumActivations::block_count(x.tokens, groups))},
         SumActivations{x, nibbles, groups, sums});
}

void launch_decode(cudaStream_t stream, IntProduct const& p) {
  auto const run = [&]<class Kernel>(Kernel const& kernel) { launch(stream, Kernel::grid(p), kernel); };
  bool const few = p.y.tokens <= 8, grouped = p.w.groups > 1;
  if (few && grouped) run(Decode<1, true>{p});
  else if (few) run(Decode<1, false>{p});
  else if (grouped) run(Decode<2, true>{p});
  else run(Decode<2, false>{p});
}

void launch_plain(cudaStream_t stream, IntProduct const& p) {
  launch(stream, plain_grid(p.y), MultiplyPlain{p});
}

}  // namespace dartquant::cuda::detail
