// SPDX-License-Identifier: Apache-2.0
// Products and triangular solves on cuBLAS. cuBLAS is column-major: it sees our row-major matrix A as A^T, a
// lower triangle as an upper one, and is asked for the transpose of what we want.
#include <limits>

#include <dartquant/cuda/gpu.hpp>

#include "machine.hpp"
#include "passes.hpp"

namespace dartquant::cuda {
namespace {

template <class T>
constexpr cudaDataType_t data_type = sizeof(T) == sizeof(double) ? CUDA_R_64F : CUDA_R_32F;

template <class T>
[[nodiscard]] cublasComputeType_t compute_type(Products products) {
  if (sizeof(T) == sizeof(double)) return CUBLAS_COMPUTE_64F;
  switch (products) {
    case Products::float32:
      return CUBLAS_COMPUTE_32F;
    case Products::tf32:
      return CUBLAS_COMPUTE_32F_FAST_TF32;
    case Products::bfloat16:
      return CUBLAS_COMPUTE_32F_FAST_16BF;
  }
  return CUBLAS_COMPUTE_32F;
}

[[nodiscard]] int as_int(index_t size) {
  detail::require(size <= std::numeric_limits<int>::max(), "[Gpu] a size of ", size,
                  ": cuBLAS takes at most ", std::numeric_limits<int>::max(), "; use smaller batches");
  return static_cast<int>(size);
}

[[nodiscard]] cublasOperation_t operation(Op op) { return op == Op::none ? CUBLAS_OP_N : CUBLAS_OP_T; }

cublasStatus_t trsm(cublasHandle_t blas, cublasOperation_t op, int rows, int cols, float const* L, int ldl,
                    float* B, int ldb) {
  float const one = 1;
  return cublasStrsm(blas, CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_UPPER, op, CUBLAS_DIAG_NON_UNIT, rows, cols,
                     &one, L, ldl, B, ldb);
}
cublasStatus_t trsm(cublasHandle_t blas, cublasOperation_t op, int rows, int cols, double const* L, int ldl,
                    double* B, int ldb) {
  double const one = 1;
  return cublasDtrsm(blas, CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_UPPER, op, CUBLAS_DIAG_NON_UNIT, rows, cols,
                     &one, L, ldl, B, ldb);
}
cublasStatus_t trmm(cublasHandle_t blas, int rows, int cols, float const* L, int ldl, float const* A, int lda,
                    float* C, int ldc) {
  float const one = 1;
  return cublasStrmm(blas, CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_UPPER, CUBLAS_OP_N, CUBLAS_DIAG_NON_UNIT, rows,
                     cols, &one, L, ldl, A, lda, C, ldc);
}
cublasStatus_t trmm(cublasHandle_t blas, int rows, int cols, double const* L, int ldl, double const* A,
                    int lda, double* C, int ldc) {
  double const one = 1;
  return cublasDtrmm(blas, CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_UPPER, CUBLAS_OP_N, CUBLAS_DIAG_NON_UNIT, rows,
                     cols, &one, L, ldl, A, lda, C, ldc);
}

/// B <- B op(L)^-1.
template <class T>
void solve(cublasHandle_t blas, DeviceMatrixView<T const> L, Op op, DeviceMatrixView<T> B) {
  check(trsm(blas, operation(op), as_int(B.cols()), as_int(B.rows()), L.data(), as_int(L.stride()), B.data(),
             as_int(B.stride())));
}

/// B <- B L^-1 for B lower triangular, which trsm does not know of, by halves: from X L = B
///
///     X22 = B22 L22^-1,   X21 = (B21 - X22 L21) L11^-1,   X11 = B11 L11^-1.
///
/// From order 4096 on about half of trsm's n^3 operations, and most of them in a product.
template <class T>
void solve_triangle(cublasHandle_t blas, DeviceMatrixView<T const> L, DeviceMatrixView<T> B) {
  constexpr index_t leaf = 512;
  index_t const n = B.rows();
  if (n <= leaf) return solve(blas, L, Op::none, B);
  index_t const half = n / 2, rest = n - half;
  DeviceMatrixView<T const> const L21 = L.block(half, 0, rest, half);
  DeviceMatrixView<T> const X22 = B.block(half, half, rest, rest), X21 = B.block(half, 0, rest, half);
  solve_triangle(blas, L.block(half, half, rest, rest), X22);
  T const minus = -1, one = 1;
  check(cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, as_int(half), as_int(rest), as_int(rest), &minus,
                     L21.data(), data_type<T>, as_int(L21.stride()), X22.data(), data_type<T>,
                     as_int(X22.stride()), &one, X21.data(), data_type<T>, as_int(X21.stride()),
                     compute_type<T>(Products::float32), CUBLAS_GEMM_DEFAULT));
  solve(blas, L.block(0, 0, half, half), Op::none, X21);
  solve_triangle(blas, L.block(0, 0, half, half), B.block(0, 0, half, half));
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
  if (groups == 1) {
    check(cublasGemmEx(machine_->blas, operation(op_b), operation(op_a), as_int(cols), as_int(rows),
                       as_int(depth), &alpha, B.data(), data_type<T>, as_int(B.stride()), A.data(),
                       data_type<T>, as_int(A.stride()), &beta, C.data(), data_type<T>, as_int(C.stride()),
                       compute_type<T>(machine_->options.products), CUBLAS_GEMM_DEFAULT));
    return;
  }
  check(cublasGemmStridedBatchedEx(
      machine_->blas, operation(op_b), operation(op_a), as_int(cols), as_int(rows), as_int(depth), &alpha,
      B.data(), data_type<T>, as_int(B.stride()), b_rows * B.stride(), A.data(), data_type<T>,
      as_int(A.stride()), a_rows * A.stride(), &beta, C.data(), data_type<T>, as_int(C.stride()),
      c_rows * C.stride(), as_int(groups), compute_type<T>(machine_->options.products), CUBLAS_GEMM_DEFAULT));
}

template <class T>
void Gpu::solve_lower(std::type_identity_t<DeviceMatrixView<T const>> L, Op op,
                      std::type_identity_t<DeviceMatrixView<T>> B, Fill fill) const {
  detail::require(L.rows() == L.cols() && B.cols() == L.rows(), "[solve_lower] ", B.rows(), " x ", B.cols(),
                  " by the inverse of ", L.rows(), " x ", L.cols(), ": the shapes do not fit");
  detail::require(fill == Fill::full || (op == Op::none && B.rows() == B.cols()), "[solve_lower] ", B.rows(),
                  " x ", B.cols(), " with Fill::lower: only a square B with Op::none stays lower triangular");
  auto const scope = enter();
  if (fill == Fill::lower) solve_triangle<T>(machine_->blas, L, B);
  else solve<T>(machine_->blas, L, op, B);
}

template <class T>
void Gpu::multiply_lower(std::type_identity_t<DeviceMatrixView<T const>> A,
                         std::type_identity_t<DeviceMatrixView<T const>> L,
                         std::type_identity_t<DeviceMatrixView<T>> C) const {
  detail::require(
      A.cols() == L.rows() && L.rows() == L.cols() && C.rows() == A.rows() && C.cols() == L.cols(),
      "[multiply_lower] ", A.rows(), " x ", A.cols(), " times ", L.rows(), " x ", L.cols(), " into ",
      C.rows(), " x ", C.cols(), ": the shapes do not fit");
  auto const scope = enter();
  check(trmm(machine_->blas, as_int(C.cols()), as_int(C.rows()), L.data(), as_int(L.stride()), A.data(),
             as_int(A.stride()), C.data(), as_int(C.stride())));
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
template void Gpu::solve_lower<float>(DeviceMatrixView<float const>, Op, DeviceMatrixView<float>, Fill) const;
template void Gpu::multiply_lower<float>(DeviceMatrixView<float const>, DeviceMatrixView<float const>,
                                         DeviceMatrixView<float>) const;
template void Gpu::gram<float>(DeviceMatrixView<float const>, DeviceMatrixView<double>) const;
template void Gpu::gemm<double>(double, DeviceMatrixView<double const>, Op, DeviceMatrixView<double const>,
                                Op, double, DeviceMatrixView<double>) const;
template void Gpu::gemm_each<double>(index_t, double, DeviceMatrixView<double const>, Op,
                                     DeviceMatrixView<double const>, Op, double,
                                     DeviceMatrixView<double>) const;
template void Gpu::solve_lower<double>(DeviceMatrixView<double const>, Op, DeviceMatrixView<double>,
                                       Fill) const;
template void Gpu::multiply_lower<double>(DeviceMatrixView<double const>, DeviceMatrixView<double const>,
                                          DeviceMatrixView<double>) const;
template void Gpu::gram<double>(DeviceMatrixView<double const>, DeviceMatrixView<double>) const;

}  // namespace dartquant::cuda
