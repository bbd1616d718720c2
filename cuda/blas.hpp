// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include <dartquant/core/backend.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/error.hpp>

#include <cublas_v2.h>

/// Products of row-major matrices by cuBLAS. It is column-major: it sees our matrix A as A^T, a lower
/// triangle as an upper one, and is asked for the transpose of what we want.
namespace dartquant::cuda {

template <class T>
constexpr cudaDataType_t data_type = sizeof(T) == sizeof(double) ? CUDA_R_64F : CUDA_R_32F;

/// That of T itself.
template <class T>
constexpr cublasComputeType_t full_precision = sizeof(T) == sizeof(double) ? CUBLAS_COMPUTE_64F
                                                                           : CUBLAS_COMPUTE_32F;

[[nodiscard]] inline int as_int(index_t size) {
  detail::require(size <= std::numeric_limits<int>::max(), "[Gpu] a size of ", size,
                  ": cuBLAS takes at most ", std::numeric_limits<int>::max(), "; use smaller batches");
  return static_cast<int>(size);
}

[[nodiscard]] inline cublasOperation_t operation(Op op) { return op == Op::none ? CUBLAS_OP_N : CUBLAS_OP_T; }

/// How far the matrices of a batch lie apart, in elements.
struct BatchSteps {
  index_t a = 0, b = 0, c = 0;
};

/// C <- alpha op(A) op(B) + beta C for `count` matrices of these shapes.
template <class T>
void multiply(cublasHandle_t blas, T alpha, std::type_identity_t<DeviceMatrixView<T const>> A, Op op_a,
              std::type_identity_t<DeviceMatrixView<T const>> B, Op op_b, std::type_identity_t<T> beta,
              std::type_identity_t<DeviceMatrixView<T>> C, cublasComputeType_t compute = full_precision<T>,
              index_t count = 1, BatchSteps const& steps = {}) {
  index_t const depth = op_a == Op::none ? A.cols() : A.rows();
  if (C.rows() == 0 || C.cols() == 0 || count == 0) return;
  if (count == 1)
    check(cublasGemmEx(blas, operation(op_b), operation(op_a), as_int(C.cols()), as_int(C.rows()),
                       as_int(depth), &alpha, B.data(), data_type<T>, as_int(B.stride()), A.data(),
                       data_type<T>, as_int(A.stride()), &beta, C.data(), data_type<T>, as_int(C.stride()),
                       compute, CUBLAS_GEMM_DEFAULT));
  else
    check(cublasGemmStridedBatchedEx(blas, operation(op_b), operation(op_a), as_int(C.cols()),
                                     as_int(C.rows()), as_int(depth), &alpha, B.data(), data_type<T>,
                                     as_int(B.stride()), steps.b, A.data(), data_type<T>, as_int(A.stride()),
                                     steps.a, &beta, C.data(), data_type<T>, as_int(C.stride()), steps.c,
                                     as_int(count), compute, CUBLAS_GEMM_DEFAULT));
}

}  // namespace dartquant::cuda
