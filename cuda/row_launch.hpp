// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the C and the C++ calls on rows have in common.

#include <optional>

#include <dartquant/cuda/kernels.h>
#include <dartquant/cuda/row_plan.hpp>
#include <dartquant/cuda/strip_plan.hpp>

#include <cuda_runtime_api.h>

namespace dartquant::cuda {

/// A call as kernels.h describes it. Null: there is none.
struct RowCall {
  dartquant_norm const* norm = nullptr;
  dartquant_transform const* transform = nullptr;
  dartquant_matrix const* x = nullptr;
  dartquant_matrix const* y = nullptr;
  dartquant_quantized const* q = nullptr;
  float clip_ratio = 1;
};

/// What is wrong with the arguments; row_checks.cpp.
[[nodiscard]] dartquant_status check_transform_call(RowCall const& call);
[[nodiscard]] dartquant_status check_dequantize_call(dartquant_quantized const* q, dartquant_matrix const* y);
[[nodiscard]] dartquant_status check_rotation_call(dartquant_block_rotation const* rotation,
                                                   dartquant_matrix const* x, dartquant_matrix const* y);

/// The tiles of a checked call on the current device; nothing where it is not supported. Errors: CudaError.
[[nodiscard]] std::optional<RowPlan> plan_of(RowCall const& call);
[[nodiscard]] std::optional<DequantizeRows> plan_of(dartquant_quantized const& q, dartquant_matrix const& y);

/// Enqueue planned calls; row_launch.cu. Errors: CudaError.
void launch_transform(cudaStream_t stream, RowCall const& call, RowPlan const& plan);
/// Its two kernels, which take nvcc most of the time; row_hadamard.cu and row_quantize.cu.
void launch_hadamard(cudaStream_t stream, RowPlan const& plan, RowTransformStep const& step, Rows const& y);
void launch_quantize(cudaStream_t stream, RowPlan const& plan, RowTransformStep const& step,
                     QuantizedRows const& q, float clip_ratio);
/// The kernels on strips for elements T, in row_hadamard_*.cu and row_quantize_*.cu; levels not of floats.
template <class T>
void launch_hadamard_strips(cudaStream_t stream, StripPlan const& plan, Rows const& y);
template <class T>
void launch_quantize_strips(cudaStream_t stream, StripPlan const& plan, QuantizedRows const& q,
                            float clip_ratio);
/// False where the shared memory of a block does not hold it; nothing is enqueued then.
[[nodiscard]] bool launch_rotation(cudaStream_t stream, dartquant_block_rotation const& rotation,
                                   dartquant_matrix const& x, dartquant_matrix const& y);
void launch_dequantize(cudaStream_t stream, DequantizeRows const& body);

}  // namespace dartquant::cuda
