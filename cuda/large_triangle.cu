// SPDX-License-Identifier: Apache-2.0
// Launchers of the kernels of cuda/large_triangle.cuh.
#include <dartquant/cuda/large_triangle.cuh>
#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/tensor_core.cuh>

#include "passes.hpp"

namespace dartquant::cuda {

void factor_diagonal(cudaStream_t stream, DeviceMatrixView<double> G, DeviceMatrixView<double> inverse,
                     index_t first, int* info) {
  launch(stream, {.shared_bytes = FactorDiagonal::shared_bytes}, FactorDiagonal{G, inverse, first, info});
}

template <class T>
void invert_diagonal(cudaStream_t stream, DeviceMatrixView<T const> L, DeviceMatrixView<T> V) {
  launch(stream, InvertDiagonal<T>::grid(L.rows()), InvertDiagonal<T>{L, V});
}

void start_vector(cudaStream_t stream, VectorView<double, Space::device> x) {
  launch(stream, {.blocks_x = static_cast<int>((x.size() + StartVector::threads - 1) / StartVector::threads)},
         StartVector{x});
}

template <class T>
void multiply_vector(cudaStream_t stream, DeviceMatrixView<T const> A, Op op, Fill fill, double const* x,
                     double const* base, double factor, double* y) {
  bool const lower = fill == Fill::lower;
  if (op == Op::none) launch(stream, RowDots<T>::grid(A.rows()), RowDots<T>{A, lower, x, base, factor, y});
  else launch(stream, ColumnSums<T>::grid(A.cols()), ColumnSums<T>{A, lower, x, base, factor, y});
}

template void invert_diagonal<float>(cudaStream_t, DeviceMatrixView<float const>, DeviceMatrixView<float>);
template void invert_diagonal<double>(cudaStream_t, DeviceMatrixView<double const>, DeviceMatrixView<double>);
template void multiply_vector<float>(cudaStream_t, DeviceMatrixView<float const>, Op, Fill, double const*,
                                     double const*, double, double*);
template void multiply_vector<double>(cudaStream_t, DeviceMatrixView<double const>, Op, Fill, double const*,
                                      double const*, double, double*);

}  // namespace dartquant::cuda
