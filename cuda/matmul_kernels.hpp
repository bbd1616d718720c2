// SPDX-License-Identifier: Apache-2.0
#pragma once

// The launches of the matrix kernels, in files of their own so that they compile side by side.

#include <dartquant/cuda/decode_plan.hpp>
#include <dartquant/cuda/float_product.cuh>
#include <dartquant/cuda/int_product.cuh>
#include <dartquant/cuda/matmul_path.hpp>

#include <cuda_runtime_api.h>

namespace dartquant::cuda::detail {

void launch_stage(cudaStream_t stream, Activations const& x, StagedLayout const& layout, std::byte* staged);
void launch_sums(cudaStream_t stream, Activations const& x, bool nibbles, int groups, std::int32_t* sums);
void launch_decode(cudaStream_t stream, IntProduct const& p);
[[nodiscard]] DecodeDevice decode_device();
void launch_plain(cudaStream_t stream, IntProduct const& p);
void launch_mma_bytes(cudaStream_t stream, IntProduct const& p);
void launch_mma_nibbles(cudaStream_t stream, IntProduct const& p);
void launch_wgmma(cudaStream_t stream, IntProduct const& p, StagedLayout const& layout);

template <class T>
void launch_float(cudaStream_t stream, MatmulPath path, FloatProduct<T> const& p);

}  // namespace dartquant::cuda::detail
