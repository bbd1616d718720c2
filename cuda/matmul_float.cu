// SPDX-License-Identifier: Apache-2.0
#include <dartquant/cuda/decode_float.cuh>
#include <dartquant/cuda/float_product.cuh>
#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/multiply_float.cuh>
#include <dartquant/cuda/multiply_plain.cuh>
#include <dartquant/cuda/tensor_core.cuh>

#include "matmul_kernels.hpp"

namespace dartquant::cuda::detail {

template <class T>
void launch_float(cudaStream_t stream, MatmulPath path, FloatProduct<T> const& p) {
  if constexpr (sizeof(T) == 2) {
    auto const run = [&]<class Kernel>(Kernel const& kernel) { launch(stream, Kernel::grid(p), kernel); };
    if (path == MatmulPath::decode && p.y.tokens <= 8) return run(DecodeFloat<T, 1>{p});
    if (path == MatmulPath::decode) return run(DecodeFloat<T, 2>{p});
    if (path == MatmulPath::mma_floats) return run(MultiplyFloat<T>{p});
  }
  launch(stream, plain_grid(p.y), MultiplyFloatPlain<T>{p});
}

template void launch_float(cudaStream_t, MatmulPath, FloatProduct<float> const&);
template void launch_float(cudaStream_t, MatmulPath, FloatProduct<Half> const&);
template void launch_float(cudaStream_t, MatmulPath, FloatProduct<BFloat16> const&);

}  // namespace dartquant::cuda::detail
