// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/backend.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant::detail {

/// A batch X under a rotation: O = X R, the loss and its derivatives. X must outlive its use. An objective
/// that is more than a function of each row of O specialises this (output_error.hpp).
template <class T, class B, class Objective>
class RotatedBatch {
 public:
  using View = MatrixView<T, B::space>;
  using ConstView = MatrixView<T const, B::space>;

  /// `objective` must outlive this. At most `rows` rows at once.
  RotatedBatch(B const& backend, Objective const& objective, index_t rows, index_t channels)
      : objective_(objective),
        O_(backend.template matrix<T>(rows, channels)),
        slope_(backend.template matrix<T>(rows, channels)) {}

  [[nodiscard]] double loss(B const& backend, ConstView X, ConstView R) {
    X_ = X;
    backend.template gemm<T>(T(1), X, Op::none, R, Op::none, T(0), View(O_).rows(0, X.rows()));
    return backend.template objective<T>(objective_, values(), View(slope_).rows(0, X.rows()));
  }
  /// O, and dL/dO, of the last loss.
  [[nodiscard]] ConstView values() const { return ConstView(O_).rows(0, X_.rows()); }
  [[nodiscard]] ConstView slope() const { return ConstView(slope_).rows(0, X_.rows()); }
  /// G <- alpha dL/dR + beta G, of the last loss: dL/dR = X^T dL/dO.
  void gradient(B const& backend, T alpha, T beta, View G) const {
    backend.template gemm<T>(alpha, X_, Op::transpose, slope(), Op::none, beta, G);
  }

 private:
  Objective const& objective_;
  typename B::template Matrix<T> O_, slope_;
  ConstView X_{};
};

}  // namespace dartquant::detail
