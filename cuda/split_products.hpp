// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "blas.hpp"
#include "machine.hpp"
#include "passes.hpp"

/// Products of float matrices on the tensor cores that are as exact as in FP32 (Products::tf32x3; Markidis et
/// al. 2018, Ootomo and Yokota 2022). A factor is the sum of two matrices that TF32 holds, and
///
///     A B = A_low B_high + A_high B_low + A_high B_high,
///
/// what is left out being 2^-22 of it. Tensor cores truncate their sums, which all errs to one side: those of
/// the last product, the only large one, begin anew every 512 terms and are added in FP32.
namespace dartquant::cuda {

[[nodiscard]] inline bool splits(Machine const& m, index_t rows, index_t cols, index_t depth) {
  return static_cast<double>(rows) * static_cast<double>(cols) * static_cast<double>(depth) >= m.least_split;
}

/// The two parts of a factor, or of a block of it.
struct Halves {
  DeviceMatrixView<float const> high, low;
  [[nodiscard]] Halves block(index_t row, index_t col, index_t rows, index_t cols) const {
    return {high.block(row, col, rows, cols), low.block(row, col, rows, cols)};
  }
};

class SplitMatrix {
 public:
  SplitMatrix(Machine const& m, DeviceMatrixView<float const> A)
      : high_(m.matrix<float>(A.rows(), A.cols())), low_(m.matrix<float>(A.rows(), A.cols())) {
    split(m.stream, A, high_.view(), low_.view());
  }
  [[nodiscard]] Halves halves() const { return {high_.view(), low_.view()}; }

 private:
  DeviceMatrix<float> high_, low_;
};

/// C <- alpha op(A) op(B) + beta C.
inline void multiply_split(cublasHandle_t blas, float alpha, Halves const& A, Op op_a, Halves const& B,
                           Op op_b, float beta, DeviceMatrixView<float> C) {
  constexpr index_t terms = 512;
  constexpr cublasComputeType_t tf32 = CUBLAS_COMPUTE_32F_FAST_TF32;
  index_t const depth = op_a == Op::none ? A.high.cols() : A.high.rows();
  multiply<float>(blas, alpha, A.low, op_a, B.high, op_b, beta, C, tf32);
  multiply<float>(blas, alpha, A.high, op_a, B.low, op_b, 1, C, tf32);
  for (index_t first = 0; first < depth; first += terms) {
    index_t const count = std::min(terms, depth - first);
    auto const left = op_a == Op::none ? A.high.columns(first, count) : A.high.rows(first, count);
    auto const right = op_b == Op::none ? B.high.rows(first, count) : B.high.columns(first, count);
    multiply<float>(blas, alpha, left, op_a, right, op_b, 1, C, tf32);
  }
}

}  // namespace dartquant::cuda
