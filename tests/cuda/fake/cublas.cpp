// SPDX-License-Identifier: Apache-2.0
// The calls of cuBLAS that DartQuant::cuda makes, in plain column-major loops. Only the cases it uses.
#include <bit>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/fake/device.hpp"

#include <cublas_v2.h>

struct cublasContext {
  cudaStream_t stream = nullptr;
};

namespace {

namespace fake = dartquant::test::fake;

template <class T>
struct Columns {
  T* data;
  int ld;
  T& operator()(int i, int j) const { return data[i + static_cast<std::ptrdiff_t>(j) * ld]; }
};

void demand(bool condition, char const* what) {
  if (!condition) throw std::logic_error(std::string("[fake cublas] ") + what);
}
template <class T>
void demand_matrix(char const* who, T const* data, int rows, int cols, int ld) {
  demand(ld >= (rows > 1 ? rows : 1), "a leading dimension is below the rows");
  if (rows > 0 && cols > 0)
    fake::require_device_memory(
        who, data,
        (static_cast<std::size_t>(cols - 1) * static_cast<std::size_t>(ld) + static_cast<std::size_t>(rows)) *
            sizeof(T));
}

/// What the tensor cores are given of a float: the largest become infinite.
[[nodiscard]] double tf32(float x) {
  return std::bit_cast<float>((std::bit_cast<std::uint32_t>(x) + 0x1000u) & 0xFFFFE000u);
}

template <class T>
cublasStatus_t gemm(cublasHandle_t blas, bool narrow, cublasOperation_t op_a, cublasOperation_t op_b, int m,
                    int n, int k, T alpha, T const* a, int lda, T const* b, int ldb, T beta, T* c, int ldc) {
  demand_matrix("gemm A", a, op_a == CUBLAS_OP_N ? m : k, op_a == CUBLAS_OP_N ? k : m, lda);
  demand_matrix("gemm B", b, op_b == CUBLAS_OP_N ? k : n, op_b == CUBLAS_OP_N ? n : k, ldb);
  demand_matrix("gemm C", c, m, n, ldc);
  fake::enqueue(blas->stream, [=] {
    Columns<T const> const A{a, lda}, B{b, ldb};
    Columns<T> const C{c, ldc};
    for (int j = 0; j < n; ++j)
      for (int i = 0; i < m; ++i) {
        double sum = 0;
        for (int p = 0; p < k; ++p) {
          T const left = op_a == CUBLAS_OP_N ? A(i, p) : A(p, i),
                  right = op_b == CUBLAS_OP_N ? B(p, j) : B(j, p);
          sum += narrow ? tf32(static_cast<float>(left)) * tf32(static_cast<float>(right))
                        : static_cast<double>(left) * static_cast<double>(right);
        }
        T const product = static_cast<T>(static_cast<double>(alpha) * sum);
        C(i, j) = beta == T(0) ? product : product + beta * C(i, j);
      }
  });
  return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t syrk(cublasHandle_t blas, cublasFillMode_t uplo, cublasOperation_t op, int n, int k,
                    T const* alpha, T const* a, int lda, T const* beta, T* c, int ldc) {
  demand(uplo == CUBLAS_FILL_MODE_UPPER, "syrk: a case that is not imitated");
  bool const transposed = op == CUBLAS_OP_T;
  demand_matrix("syrk A", a, transposed ? k : n, transposed ? n : k, lda);
  demand_matrix("syrk C", c, n, n, ldc);
  fake::enqueue(blas->stream, [=, alpha = *alpha, beta = *beta] {
    Columns<T const> const A{a, lda};
    Columns<T> const C{c, ldc};
    for (int j = 0; j < n; ++j)
      for (int i = 0; i <= j; ++i) {
        double sum = 0;
        for (int p = 0; p < k; ++p)
          sum += static_cast<double>(transposed ? A(p, i) : A(i, p)) *
                 static_cast<double>(transposed ? A(p, j) : A(j, p));
        T const product = static_cast<T>(static_cast<double>(alpha) * sum);
        C(i, j) = beta == T(0) ? product : product + beta * C(i, j);
      }
  });
  return CUBLAS_STATUS_SUCCESS;
}

template <class T>
T number(void const* pointer) {
  return *static_cast<T const*>(pointer);
}

}  // namespace

extern "C" {

char const* cublasGetStatusName(cublasStatus_t) { return "CUBLAS_STATUS"; }
char const* cublasGetStatusString(cublasStatus_t) { return "an error of the fake device"; }
cublasStatus_t cublasCreate(cublasHandle_t* blas) {
  *blas = new cublasContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t blas) {
  delete blas;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream(cublasHandle_t blas, cudaStream_t stream) {
  blas->stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void* workspace, std::size_t bytes) {
  fake::require_device_memory("the workspace of cublas", workspace, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGemmEx(cublasHandle_t blas, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n,
                            int k, void const* alpha, void const* a, cudaDataType type_a, int lda,
                            void const* b, cudaDataType type_b, int ldb, void const* beta, void* c,
                            cudaDataType type_c, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t) {
  demand(type_a == type_b && type_a == type_c, "gemm: one type");
  if (compute == CUBLAS_COMPUTE_64F) {
    demand(type_a == CUDA_R_64F, "gemm: doubles");
    return gemm<double>(blas, false, op_a, op_b, m, n, k, number<double>(alpha),
                        static_cast<double const*>(a), lda, static_cast<double const*>(b), ldb,
                        number<double>(beta), static_cast<double*>(c), ldc);
  }
  demand(type_a == CUDA_R_32F, "gemm: floats");
  return gemm<float>(blas, compute == CUBLAS_COMPUTE_32F_FAST_TF32, op_a, op_b, m, n, k, number<float>(alpha),
                     static_cast<float const*>(a), lda, static_cast<float const*>(b), ldb,
                     number<float>(beta), static_cast<float*>(c), ldc);
}
cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t blas, cublasOperation_t op_a, cublasOperation_t op_b,
                                          int m, int n, int k, void const* alpha, void const* a,
                                          cudaDataType type_a, int lda, long long step_a, void const* b,
                                          cudaDataType type_b, int ldb, long long step_b, void const* beta,
                                          void* c, cudaDataType type_c, int ldc, long long step_c, int count,
                                          cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
  long long const size = type_a == CUDA_R_64F ? 8 : 4;
  for (int i = 0; i < count; ++i)
    cublasGemmEx(blas, op_a, op_b, m, n, k, alpha, static_cast<char const*>(a) + i * step_a * size, type_a,
                 lda, static_cast<char const*>(b) + i * step_b * size, type_b, ldb, beta,
                 static_cast<char*>(c) + i * step_c * size, type_c, ldc, compute, algorithm);
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"

extern "C" {

cublasStatus_t cublasSsyrk(cublasHandle_t blas, cublasFillMode_t uplo, cublasOperation_t op, int n, int k,
                           float const* alpha, float const* a, int lda, float const* beta, float* c,
                           int ldc) {
  return syrk(blas, uplo, op, n, k, alpha, a, lda, beta, c, ldc);
}
cublasStatus_t cublasDsyrk(cublasHandle_t blas, cublasFillMode_t uplo, cublasOperation_t op, int n, int k,
                           double const* alpha, double const* a, int lda, double const* beta, double* c,
                           int ldc) {
  return syrk(blas, uplo, op, n, k, alpha, a, lda, beta, c, ldc);
}

}  // extern "C"
