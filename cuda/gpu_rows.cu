// SPDX-License-Identifier: Apache-2.0
// Primitives of Gpu that pass over the elements or rows of a matrix.
#include <cmath>

#include <dartquant/cuda/elements.cuh>
#include <dartquant/cuda/gpu.hpp>
#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/rows.cuh>
#include <dartquant/cuda/sums.cuh>
#include <dartquant/cuda/triangle.cuh>

#include "passes.hpp"

namespace dartquant::cuda {
namespace {

void require_equal(char const* who, index_t rows, index_t cols, index_t to_rows, index_t to_cols) {
  detail::require(rows == to_rows && cols == to_cols, "[", who, "] ", rows, " x ", cols, " into ", to_rows,
                  " x ", to_cols, ": the shapes differ");
}

}  // namespace

/// A first launch: it fails where this library holds no code for the device.
void Gpu::check_architecture() const {
  auto const scope = enter();
  launch(stream(), {.shared_bytes = SumPartials::shared_bytes},
         SumPartials{nullptr, 0, 0.0, scalars().data()});
}

template <class From, class To>
void Gpu::convert(DeviceMatrixView<From const> from, DeviceMatrixView<To> to) const {
  require_equal("copy", from.rows(), from.cols(), to.rows(), to.cols());
  auto const scope = enter();
  launch(stream(), element_grid(to.rows(), to.cols()), ConvertElements<From, To>{from, to});
}

template <class T>
void Gpu::enqueue_square_sum(DeviceMatrixView<T const> A, int slot) const {
  Grid grid = element_grid(A.rows(), A.cols());
  grid.shared_bytes = SquareSums<T>::shared_bytes;
  index_t const blocks = element_blocks(A.rows(), A.cols());
  double* const partial = partial_sums(blocks);
  auto const scope = enter();
  launch(stream(), grid, SquareSums<T>{A, partial});
  launch(stream(), {.shared_bytes = SumPartials::shared_bytes},
         SumPartials{partial, blocks, 1.0, scalars().data() + slot});
}

template <class T>
double Gpu::frobenius_norm(std::type_identity_t<DeviceMatrixView<T const>> A) const {
  enqueue_square_sum<T>(A, 0);
  return std::sqrt(read_scalars<1>()[0]);
}

template <class T>
void Gpu::normalize_rows(std::type_identity_t<DeviceMatrixView<T>> Y) const {
  auto const scope = enter();
  launch(stream(), row_grid(Y.rows()), NormalizeRows<T>{Y});
}

template <class T>
void Gpu::gather_rows(std::type_identity_t<DeviceMatrixView<T const>> X, VectorView<index_t const> rows,
                      std::type_identity_t<DeviceMatrixView<T>> Y) const {
  detail::require(Y.rows() == rows.size() && Y.cols() == X.cols(), "[gather_rows] ", rows.size(), " rows of ",
                  X.cols(), " into ", Y.rows(), " x ", Y.cols(), ": the shapes do not fit");
  DeviceMatrix<index_t> const numbers = upload(rows);
  auto const scope = enter();
  launch(stream(), element_grid(Y.rows(), Y.cols()), GatherRows<T>{X, numbers.data(), Y});
}

template <class T>
void Gpu::set_diagonal(T value, std::type_identity_t<DeviceMatrixView<T>> A) const {
  auto const scope = enter();
  launch(stream(), element_grid(A.rows(), A.cols()), SetDiagonal<T>{value, A});
}

template <class T>
void Gpu::skew_lower(std::type_identity_t<DeviceMatrixView<T>> A) const {
  detail::require(A.rows() == A.cols(), "[skew_lower] ", A.rows(), " x ", A.cols(),
                  ": a square matrix is needed");
  auto const scope = enter();
  launch(stream(), SkewLower<T>::grid(A.rows()), SkewLower<T>{A});
}

template <class T>
void clear_upper(cudaStream_t stream, DeviceMatrixView<T> A) {
  launch(stream, element_grid(A.rows(), A.cols()), ClearUpper<T>{A});
}

void split(cudaStream_t stream, DeviceMatrixView<float const> x, DeviceMatrixView<float> high,
           DeviceMatrixView<float> low) {
  launch(stream, element_grid(x.rows(), x.cols()), SplitElements{x, high, low});
}

template <class From, class To>
void transpose(cudaStream_t stream, DeviceMatrixView<From const> from, double const* signs,
               DeviceMatrixView<To> to) {
  launch(stream, element_grid(to.rows(), to.cols()), TransposeElements<From, To>{from, signs, to});
}

void take_lower_factor(cudaStream_t stream, DeviceMatrixView<double const> packed, DeviceMatrixView<double> L,
                       double* signs) {
  launch(stream, element_grid(L.rows(), L.cols()), TakeLowerFactor{packed, L, signs});
}

template void Gpu::convert<float, float>(DeviceMatrixView<float const>, DeviceMatrixView<float>) const;
template void Gpu::convert<float, double>(DeviceMatrixView<float const>, DeviceMatrixView<double>) const;
template void Gpu::convert<double, float>(DeviceMatrixView<double const>, DeviceMatrixView<float>) const;
template void Gpu::convert<double, double>(DeviceMatrixView<double const>, DeviceMatrixView<double>) const;
template void Gpu::convert<Half, float>(DeviceMatrixView<Half const>, DeviceMatrixView<float>) const;
template void Gpu::convert<BFloat16, float>(DeviceMatrixView<BFloat16 const>, DeviceMatrixView<float>) const;
template void Gpu::enqueue_square_sum<float>(DeviceMatrixView<float const>, int) const;
template void Gpu::enqueue_square_sum<double>(DeviceMatrixView<double const>, int) const;
template double Gpu::frobenius_norm<float>(DeviceMatrixView<float const>) const;
template double Gpu::frobenius_norm<double>(DeviceMatrixView<double const>) const;
template void Gpu::normalize_rows<float>(DeviceMatrixView<float>) const;
template void Gpu::normalize_rows<double>(DeviceMatrixView<double>) const;
template void Gpu::gather_rows<float>(DeviceMatrixView<float const>, VectorView<index_t const>,
                                      DeviceMatrixView<float>) const;
template void Gpu::gather_rows<double>(DeviceMatrixView<double const>, VectorView<index_t const>,
                                       DeviceMatrixView<double>) const;
template void Gpu::set_diagonal<float>(float, DeviceMatrixView<float>) const;
template void Gpu::set_diagonal<double>(double, DeviceMatrixView<double>) const;
template void Gpu::skew_lower<float>(DeviceMatrixView<float>) const;
template void Gpu::skew_lower<double>(DeviceMatrixView<double>) const;
template void clear_upper<float>(cudaStream_t, DeviceMatrixView<float>);
template void clear_upper<double>(cudaStream_t, DeviceMatrixView<double>);
template void transpose<float, double>(cudaStream_t, DeviceMatrixView<float const>, double const*,
                                       DeviceMatrixView<double>);
template void transpose<double, float>(cudaStream_t, DeviceMatrixView<double const>, double const*,
                                       DeviceMatrixView<float>);
template void transpose<double, double>(cudaStream_t, DeviceMatrixView<double const>, double const*,
                                        DeviceMatrixView<double>);

}  // namespace dartquant::cuda
