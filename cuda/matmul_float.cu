// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include <dartquant/cuda/decode_float.cuh>
#include <dartquant/cuda/float_product.cuh>
#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/multiply_float.cuh>
#include <dartquant/cuda/multiply_plain.cuh>
#include <dartquant/cuda/tensor_core.cuh>

#include "matmul_kernels.hpp"

namespace dartquant::cuda::detail {

namespace {

template <class T, int TokenTiles, int PieceSteps>
[[nodiscard]] bool run_decode(cudaStream_t stream, FloatProduct<T> const& p, DecodeDevice const& device) {
  using Kernel = DecodeFloat<T, TokenTiles, PieceSteps>;
  DecodePlan const plan = Kernel::plan_of(p, device);
  if (plan.bytes > device.shared_bytes) return false;
  launch(stream, plan.grid(), Kernel{p, plan});
  return true;
}

template <class T, int TokenTiles>
[[nodiscard]] bool run_decode(cudaStream_t stream, FloatProduct<T> const& p, DecodeDevice const& device) {
  int const steps = p.w.groups == 1 ? 0 : piece_steps(p.w.width);
  return steps == 0   ? run_decode<T, TokenTiles, 0>(stream, p, device)
         : steps == 4 ? run_decode<T, TokenTiles, 4>(stream, p, device)
         : steps == 2 ? run_decode<T, TokenTiles, 2>(stream, p, device)
                      : run_decode<T, TokenTiles, 1>(stream, p, device);
}

/// False where not even one token's activations fit.
template <class T>
[[nodiscard]] bool launch_decode(cudaStream_t stream, FloatProduct<T> const& p) {
  DecodeDevice const device = decode_device();
  for (int first = 0, count = p.y.tokens; first < p.y.tokens;) {
    FloatProduct<T> part = p;
    part.y = p.y.rows(first, std::min(count, p.y.tokens - first));
    part.x.tokens = part.y.tokens;
    part.x.data += first * p.x.stride;
    if (part.y.tokens <= 8 ? run_decode<T, 1>(stream, part, device) : run_decode<T, 2>(stream, part, device))
      first += count;
    else if (count > 1) count = (count + 1) / 2;
    else return false;
  }
  return true;
}

}  // namespace

template <class T>
void launch_float(cudaStream_t stream, MatmulPath path, FloatProduct<T> const& p) {
  if constexpr (sizeof(T) == 2) {
    if (path == MatmulPath::decode && launch_decode(stream, p)) return;
    if (path == MatmulPath::mma_floats) return launch(stream, MultiplyFloat<T>::grid(p), MultiplyFloat<T>{p});
  }
  launch(stream, plain_grid(p.y), MultiplyFloatPlain<T>{p});
}

template void launch_float(cudaStream_t, MatmulPath, FloatProduct<float> const&);
template void launch_float(cudaStream_t, MatmulPath, FloatProduct<Half> const&);
template void launch_float(cudaStream_t, MatmulPath, FloatProduct<BFloat16> const&);

}  // namespace dartquant::cuda::detail
