// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/backend.hpp>
#include <dartquant/core/view.hpp>

#include <cuda_runtime_api.h>

/// Launchers of kernels that files without device code call. T: float or double.
namespace dartquant::cuda {

template <class T>
void clear_upper(cudaStream_t stream, DeviceMatrixView<T> A);
/// See SplitElements.
void split(cudaStream_t stream, DeviceMatrixView<float const> x, DeviceMatrixView<float> high,
           DeviceMatrixView<float> low);
/// to <- from^T, column j times signs[j] unless signs is null. From and To differ.
template <class From, class To>
void transpose(cudaStream_t stream, DeviceMatrixView<From const> from, double const* signs,
               DeviceMatrixView<To> to);
/// See TakeLowerFactor.
void take_lower_factor(cudaStream_t stream, DeviceMatrixView<double const> packed, DeviceMatrixView<double> L,
                       double* signs);

/// See FactorDiagonal.
void factor_diagonal(cudaStream_t stream, DeviceMatrixView<double> G, DeviceMatrixView<double> inverse,
                     index_t first, int* info);
/// See InvertDiagonal.
template <class T>
void invert_diagonal(cudaStream_t stream, DeviceMatrixView<T const> L, DeviceMatrixView<T> V);
/// See StartVector.
void start_vector(cudaStream_t stream, VectorView<double, Space::device> x);
/// y <- base + factor op(A) x, or with the lower triangle of A only. `base` null: zero.
template <class T>
void multiply_vector(cudaStream_t stream, DeviceMatrixView<T const> A, Op op, Fill fill, double const* x,
                     double const* base, double factor, double* y);

}  // namespace dartquant::cuda
