// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/view.hpp>

#include <cuda_runtime_api.h>

/// Launchers of kernels that files without device code call. T: float or double.
namespace dartquant::cuda {

template <class T>
void clear_upper(cudaStream_t stream, DeviceMatrixView<T> A);
/// to <- from^T, column j times signs[j] unless signs is null. From and To differ.
template <class From, class To>
void transpose(cudaStream_t stream, DeviceMatrixView<From const> from, double const* signs,
               DeviceMatrixView<To> to);
/// See TakeLowerFactor.
void take_lower_factor(cudaStream_t stream, DeviceMatrixView<double const> packed, DeviceMatrixView<double> L,
                       double* signs);

}  // namespace dartquant::cuda
