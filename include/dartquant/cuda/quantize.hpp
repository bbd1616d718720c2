// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/cuda/stored_rows.hpp>

#include <cuda_runtime_api.h>

namespace dartquant::cuda {

/// q <- quantize(transform(X)) in one pass over memory: permute, Hadamard transform, range of every token or
/// group times clip_ratio in (0, 1], levels, packing; the bytes of dartquant_quantize of kernels.h. A group
/// that holds a NaN or an infinity gets scale NaN, levels and zero point 0. A KV cache [tokens, heads *
/// head_dim] is q.group = head_dim and, for a Hadamard transform per head, transform.block = head_dim.
/// Enqueued on `stream`; no allocation, no synchronisation, no workspace; CUDA graphs may capture it. Bytes
/// per value: those of x, bits / 8, and 4 (asymmetric: 8) per group.
/// Errors: InvalidArgument for sizes, strides, null, misaligned or host pointers and values of options;
/// Error(unsupported) where rows do not fit into shared memory; CudaError.
void quantize(cudaStream_t stream, RowTransform const& transform, ConstRows const& X, QuantizedRows const& q,
              float clip_ratio = 1);

/// The same behind an RMSNorm, see RowNorm: q <- quantize(transform(norm(X))).
void quantize(cudaStream_t stream, RowNorm const& norm, RowTransform const& transform, ConstRows const& X,
              QuantizedRows const& q, float clip_ratio = 1);

/// Y <- scale (level - zero_point): the bytes of dartquant_dequantize of kernels.h. Bytes per value: bits / 8
/// and those of y. Errors: InvalidArgument; CudaError.
void dequantize(cudaStream_t stream, ConstQuantizedRows const& q, Rows const& Y);

}  // namespace dartquant::cuda
