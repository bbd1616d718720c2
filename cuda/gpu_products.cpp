// SPDX-License-Identifier: Apache-2.0
// Products on cuBLAS.
#include <dartquant/cuda/gpu.hpp>

#include "blas.hpp"
#include "machine.hpp"
#include "passes.hpp"
#include "split_products.hpp"

namespace dartquant::cuda {
namespace {

template <class T>
[[nodiscard]] cublasComputeType_t compute_type(Products products) {
  if (sizeof(T) == sizeof(double)) return CUBLAS_COMPUTE_64F;
  switch (products) {
    case Products::automatic:
    case Products::float32:
    case Products::tf32x3:
      return CUBLAS_COMPUTE_32F;
    case Products::tf32:
      return CUBLAS_COMPUTE_32F_FAST_TF32;
    case Products::bfloat16:
      return CUBLAS_COMPUTE_32F_FAST_16BF;
  }
  return CUBLAS_COMPUTE_32F;
}

}  // namespace

template <class T>
void Gpu::gemm(T alpha, std::type_identity_t<DeviceMatrixView<T const>> A, Op op_a,
               std::type_identity_t<DeviceMatrixView<T const>> B, Op op_b, std::type_identity_t<T> beta,
               std::type_identity_t<DeviceMatrixView<T>> C) const {
  gemm_each<T>(1, alpha, A, op_a, B, op_b, beta, C);
}

template <class T>
void Gpu::gemm_each(index_t groups, T alpha, std::type_identity_t<DeviceMatrixView<T const>> A, Op op_a,
                    std::type_identity_t<DeviceMatrixView<T const>> B, Op op_b, std::type_identity_t<T> beta,
                    std::type_identity_t<DeviceMatrixView<T>> C) const {
  detail::require(groups >= 1 && A.rows() % groups == 0 && B.rows() % groups == 0 && C.rows() % groups == 0,
                  "[gemm] ", A.rows(), ", ", B.rows(), " and ", C.rows(), " rows in ", groups,
                  " groups: they must divide the rows");
  index_t const a_rows = A.rows() / groups, b_rows = B.rows() / groups, c_rows = C.rows() / groups;
  index_t const rows = op_a == Op::none ? a_rows : A.cols(), depth = op_a == Op::none ? A.cols() : a_rows;
  index_t const cols = op_b == Op::none ? B.cols() : b_rows, depth_b = op_b == Op::none ? b_rows : B.cols();
  detail::require(depth == depth_b && rows == c_rows && cols == C.cols(), "[gemm] ", rows, " x ", depth,
                  " times ", depth_b, " x ", cols, " into ", c_rows, " x ", C.cols(),
                  ": the shapes do not fit");
  if (rows == 0 || cols == 0) return;
  auto const scope = enter();
  if constexpr (sizeof(T) == sizeof(float))
    if (groups == 1 && splits(*machine_, rows, cols, depth)) {
      SplitMatrix const left(*machine_, A), right(*machine_, B);
      return multiply_split(machine_->blas, alpha, left.halves(), op_a, right.halves(), op_b, beta, C);
    }
  multiply<T>(machine_->blas, alpha, DeviceMatrixView<T const>(A.data(), a_rows, A.cols(), A.stride()), op_a,
              DeviceMatrixView<T const>(B.data(), b_rows, B.cols(), B.stride()), op_b, beta,
              DeviceMatrixView<T>(C.data(), c_rows, C.cols(), C.stride()),
              compute_type<T>(machine_->options.products), groups,
              {a_rows * A.stride(), b_rows * B.stride(), c_rows * C.stride()});
}

/// G = Z^T Z: cuBLAS sees W = Z^T and forms the upper triangle of W W^T.
template <class T>
void Gpu::gram(std::type_identity_t<DeviceMatrixView<T const>> Z, DeviceMatrixView<double> G) const {
  detail::require(G.rows() == Z.cols() && G.cols() == Z.cols(), "[gram] ", G.rows(), " x ", G.cols(),
                  " for the Gram matrix of ", Z.cols(), " columns: the shapes do not fit");
  index_t const n = Z.cols();
  auto const scope = enter();
  if (sizeof(T) == sizeof(float) && !machine_->gram_in_float64) {
    auto narrow = machine_->matrix<float>(n, n);
    float const one = 1, zero = 0;
    check(cublasSsyrk(machine_->blas, CUBLAS_FILL_MODE_UPPER, CUBLAS_OP_N, as_int(n), as_int(Z.rows()), &one,
                      reinterpret_cast<float const*>(Z.data()), as_int(Z.stride()), &zero, narrow.data(),
                      as_int(n)));
    clear_upper<float>(stream(), narrow);
    convert<float, double>(narrow, G);
    return;
  }
  DeviceMatrix<double> wide;
  DeviceMatrixView<double const> z;
  if constexpr (sizeof(T) == sizeof(double)) {
    z = Z;
  } else {
    wide = machine_->matrix<double>(Z.rows(), n);
    convert<T, double>(Z, wide);
    z = wide;
  }
  double const one = 1, zero = 0;
  check(cublasDsyrk(machine_->blas, CUBLAS_FILL_MODE_UPPER, CUBLAS_OP_N, as_int(n), as_int(z.rows()), &one,
                    z.data(), as_int(z.stride()), &zero, G.data(), as_int(G.stride())));
}

template void Gpu::gemm<float>(float, DeviceMatrixView<float const>, Op, DeviceMatrixView<float const>, Op,
                               float, DeviceMatrixView<float>) const;
template void Gpu::gemm_each<float>(index_t, float, DeviceMatrixView<float const>, Op,
                                    DeviceMatrixView<float const>, Op, float, DeviceMatrixView<float>) const;
template void Gpu::gram<float>(DeviceMatrixView<float const>, DeviceMatrixView<double>) const;
template void Gpu::gemm<double>(double, DeviceMatrixView<double const>, Op, DeviceMatrixView<double const>,
                                Op, double, DeviceMatrixView<double>) const;
template void Gpu::gemm_each<double>(index_t, double, DeviceMatrixView<double const>, Op,
                                     DeviceMatrixView<double const>, Op, double,
                                     DeviceMatrixView<double>) const;
template void Gpu::gram<double>(DeviceMatrixView<double const>, DeviceMatrixView<double>) const;

}  // namespace dartquant::cuda
