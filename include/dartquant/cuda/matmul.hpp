// SPDX-License-Identifier: Apache-2.0
#pragma once

// Products with 4-bit weights on the GPU. Every call enqueues on the caller's stream and returns: no
// allocation, no synchronisation, nothing kept; CUDA graphs may capture it. Pointers are to device memory but
// for those of packed_weights.hpp, which packs on the host.

#include <cstddef>
#include <cstdint>

#include <dartquant/core/half.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/error.hpp>
#include <dartquant/cuda/matmul_path.hpp>
#include <dartquant/cuda/packed_weights.hpp>
#include <dartquant/cuda/stored_rows.hpp>

namespace dartquant::cuda {

/// The current device, and whether this library has code of sm_90a. Errors: CudaError without a device.
[[nodiscard]] MatmulTarget matmul_target();

/// Bytes of workspace of a product on `target`, aligned to 256: staged activations and their sums. 0 for
/// decode. Errors: InvalidArgument.
[[nodiscard]] std::size_t matmul_workspace_bytes(MatmulTarget const& target, MatmulShape const& shape);

/// W4A4 and W4A8: Y [tokens, out] <- X W^T + bias, X [tokens, in] with one scale per token or the groups of
/// the weights; the bytes of dartquant_matmul of kernels.h (Y in float32;
/// 16-bit types are its values rounded to nearest even). `packed` is layout 2, aligned to 128 bytes; bias
/// [out] or null. Errors: InvalidArgument for shapes, strides, null, misaligned or host pointers and a
/// workspace that is too small, before anything is enqueued; CudaError.
void matmul(cudaStream_t stream, WeightShape const& weights, void const* packed, ConstQuantizedRows const& X,
            float const* bias, DeviceMatrixView<float> Y, void* workspace, std::size_t workspace_bytes);
void matmul(cudaStream_t stream, WeightShape const& weights, void const* packed, ConstQuantizedRows const& X,
            float const* bias, DeviceMatrixView<Half> Y, void* workspace, std::size_t workspace_bytes);
void matmul(cudaStream_t stream, WeightShape const& weights, void const* packed, ConstQuantizedRows const& X,
            float const* bias, DeviceMatrixView<BFloat16> Y, void* workspace, std::size_t workspace_bytes);

/// W4A16 and W4A32: Y [tokens, out] <- X W^T + bias, weights dequantized on the way; sums in float, group by
/// group, within (in + groups) 2^-24 sum |x||w| of the exact product for the kernels that add in float order;
/// tensor cores truncate their partial sums, within twice that. Float X runs on the plain kernel. Errors: as
/// above.
void matmul(cudaStream_t stream, WeightShape const& weights, void const* packed,
            DeviceMatrixView<float const> X, float const* bias, DeviceMatrixView<float> Y);
void matmul(cudaStream_t stream, WeightShape const& weights, void const* packed,
            DeviceMatrixView<Half const> X, float const* bias, DeviceMatrixView<Half> Y);
void matmul(cudaStream_t stream, WeightShape const& weights, void const* packed,
            DeviceMatrixView<Half const> X, float const* bias, DeviceMatrixView<float> Y);
void matmul(cudaStream_t stream, WeightShape const& weights, void const* packed,
            DeviceMatrixView<BFloat16 const> X, float const* bias, DeviceMatrixView<BFloat16> Y);
void matmul(cudaStream_t stream, WeightShape const& weights, void const* packed,
            DeviceMatrixView<BFloat16 const> X, float const* bias, DeviceMatrixView<float> Y);

}  // namespace dartquant::cuda
