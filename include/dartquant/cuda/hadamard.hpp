// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/cuda/stored_rows.hpp>

#include <cuda_runtime_api.h>

namespace dartquant::cuda {

/// Y <- transform(X), X and Y [tokens, channels] of any ElementType in device memory, arithmetic in float:
/// the bytes of dartquant_hadamard of kernels.h. Y may be X (same data, type and stride), else they must not
/// overlap. Enqueued on `stream`; no allocation, no synchronisation, no workspace; CUDA graphs may capture
/// it. One pass over memory: the bytes of x and y per value, by design at the speed of a copy of as many
/// bytes up to blocks of 8192 channels, and for bases up to 20; a base of 28 costs 28 FMAs per value, about
/// 80 % of a copy's speed for 16-bit values on an H100 (estimates from instruction counts, not measured).
/// Errors: InvalidArgument for sizes, strides, null, misaligned or host pointers and overlap;
/// Error(unsupported) where rows do not fit into shared memory (rows_supported); CudaError.
void hadamard(cudaStream_t stream, RowTransform const& transform, ConstRows const& X, Rows const& Y);

/// The same behind an RMSNorm, see RowNorm: Y <- transform(norm(X)).
void hadamard(cudaStream_t stream, RowNorm const& norm, RowTransform const& transform, ConstRows const& X,
              Rows const& Y);

/// Y <- P(X) blockdiag(R_0, R_1, ...), DuQuant's step (arXiv 2406.01721): one kernel, sums in float from
/// channel 0 of a block upwards by FMAs. Without a permutation Y may be X. Bound by `block` FMAs per value,
/// not by memory. Errors: as above.
void rotate_blocks(cudaStream_t stream, BlockRotations const& rotation, ConstRows const& X, Rows const& Y);

}  // namespace dartquant::cuda
