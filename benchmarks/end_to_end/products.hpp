// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>

#include "model/attention.hpp"

// Products and element-wise maps of OutputDivergence, forward and backward.
namespace dartquant::end_to_end {

/// C <- op_a(A) op_b(B).
template <class T>
void product(Cpu const& cpu, RowMatrix<T> const& A, Op op_a, RowMatrix<T> const& B, Op op_b,
             RowMatrix<T>& C) {
  C.resize(op_a == Op::none ? A.rows() : A.cols(), op_b == Op::none ? B.cols() : B.rows());
  cpu.gemm<T>(T(1), A, op_a, B, op_b, T(0), C);
}
template <class T>
void product(Cpu const& cpu, RowMatrix<T> const& A, RowMatrix<T> const& B, RowMatrix<T>& C) {
  product(cpu, A, Op::none, B, Op::none, C);
}
/// C <- C + op_a(A) op_b(B).
template <class T>
void add_product(Cpu const& cpu, RowMatrix<T> const& A, Op op_a, RowMatrix<T> const& B, Op op_b,
                 RowMatrix<T>& C) {
  cpu.gemm<T>(T(1), A, op_a, B, op_b, T(1), C);
}

/// Y <- X W^T + bias, an empty bias being none.
template <class T>
void linear(Cpu const& cpu, RowMatrix<T> const& X, RowMatrix<T> const& W, RowMatrix<T> const& bias,
            RowMatrix<T>& Y) {
  product(cpu, X, Op::none, W, Op::transpose, Y);
  if (bias.size() != 0) Y.rowwise() += bias.row(0);
}

/// Turns the pairs (i, i + head_dim / 2) of every head by the table's angles; `direction` -1 turns back.
template <class T>
void turn_pairs(Cpu const& cpu, detail::RopeTable const& table, index_t head_dim, T direction,
                RowMatrix<T>& X) {
  index_t const tokens = table.cosine.rows(), half = head_dim / 2;
  cpu.parallel_for(X.rows(), 128, [&](index_t first, index_t last) {
    for (index_t row = first; row < last; ++row) {
      auto const c = table.cosine.row(row % tokens).array().template cast<T>().eval();
      auto const s = (direction * table.sine.row(row % tokens).array().template cast<T>()).eval();
      for (index_t head = 0; head < X.cols(); head += head_dim) {
        auto low = X.row(row).segment(head, half).array(),
             high = X.row(row).segment(head + half, half).array();
        auto const a = low.eval(), b = high.eval();
        low = a * c - b * s;
        high = b * c + a * s;
      }
    }
  });
}

/// dX of Y = X / RMS(X) from dY: (dY - Y mean(Y dY)) / RMS, row by row; `inverse` [rows, 1] is 1 / RMS.
template <class T>
[[nodiscard]] RowMatrix<T> norm_back(RowMatrix<T> const& Y, RowMatrix<T> const& inverse,
                                     RowMatrix<T> const& dY) {
  RowMatrix<T> const along = Y.cwiseProduct(dY).rowwise().mean();
  RowMatrix<T> dX = dY.array() - Y.array().colwise() * along.col(0).array();
  dX.array().colwise() *= inverse.col(0).array();
  return dX;
}

/// z <- log softmax(z), one row.
template <class Row>
void log_softmax(Row&& z) {
  auto const largest = z.maxCoeff();
  auto const sum = (z.array() - largest).exp().sum();
  z.array() -= largest + std::log(sum);
}

}  // namespace dartquant::end_to_end
