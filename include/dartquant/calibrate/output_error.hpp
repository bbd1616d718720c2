// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include <dartquant/calibrate/objective.hpp>
#include <dartquant/calibrate/range_share.hpp>
#include <dartquant/calibrate/rotated_batch.hpp>
#include <dartquant/core/backend.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// Error of the outputs of linear layers whose rotated inputs are rounded: with Y = X R and E = q(Y) - Y,
///
///     L = |q(Y) (W R)^T - X W^T|^2 / tokens = tr(E C E^T) / tokens,   C = R^T (W^T W) R,
///
/// q the per-token asymmetric fake quantization over the token's range times `clip`. QuantError is the case
/// W^T W = I. The gradient is straight-through: the residuals E / scale are held constant, while the scale
/// follows the ends of the token's range and C follows R (docs/math.md). For Cayley and Procrustes, which
/// move R itself; not for QR-Orth. Cost per step: twice that of an objective of single values.
struct OutputError {
  int bits = 4;
  double clip = 1;
  /// L [channels, k] with L L^T = W^T W: the Cholesky factor of a mean of such products over layers, or W^T.
  RowMatrix<double> factor{};

  void validate() const {
    QuantError{bits, clip}.validate();
    detail::require(factor.size() > 0 && factor.allFinite(), "[OutputError] factor is ", factor.rows(), " x ",
                    factor.cols(), ": one row per channel and finite values are needed");
  }
};

namespace detail {

template <class T, class B>
class RotatedBatch<T, B, OutputError> {
 public:
  using Matrix = typename B::template Matrix<T>;
  using View = MatrixView<T, B::space>;
  using ConstView = MatrixView<T const, B::space>;

  RotatedBatch(B const& backend, OutputError const& objective, index_t rows, index_t channels)
      : objective_(objective),
        channels_(channels),
        outputs_(objective.factor.cols()),
        L_(backend.template matrix<T>(channels, outputs_)),
        P_(backend.template matrix<T>(channels, outputs_)),
        K_(backend.template matrix<T>(outputs_, channels)),
        S_(backend.template matrix<T>(rows, channels)),
        YF_(backend.template matrix<T>(rows, channels + outputs_)),
        slope_(backend.template matrix<T>(rows, channels + outputs_)) {
    require(objective.factor.rows() == channels, "[OutputError] factor is ", objective.factor.rows(), " x ",
            objective.factor.cols(), " but there are ", channels, " channels");
    backend.copy(MatrixView<double const>(objective.factor), View(L_));
  }

  /// S = -2 E / rows, F = S R^T L, so |F|^2 rows^2 / 4 is the loss of a row.
  [[nodiscard]] double loss(B const& backend, ConstView X, ConstView R) {
    X_ = X;
    index_t const rows = X.rows();
    View const both = View(YF_).rows(0, rows), Y = both.columns(0, channels_),
               F = both.columns(channels_, outputs_), S = View(S_).rows(0, rows);
    backend.template gemm<T>(T(1), X, Op::none, R, Op::none, T(0), Y);
    static_cast<void>(backend.template objective<T>(QuantError{objective_.bits, objective_.clip}, Y, S));
    backend.template gemm<T>(T(1), R, Op::transpose, L_, Op::none, T(0), P_);
    backend.template gemm<T>(T(1), S, Op::none, P_, Op::none, T(0), F);
    double const count = static_cast<double>(rows);
    return backend.template objective<T>(RangeShare{channels_, count * count / 4}, both,
                                         View(slope_).rows(0, rows));
  }
  /// G <- alpha dL/dR + beta G, of the last loss: dL/dR = X^T dL/dY + rows / 2 L F^T S.
  void gradient(B const& backend, T alpha, T beta, View G) {
    index_t const rows = X_.rows();
    backend.template gemm<T>(alpha, X_, Op::transpose, ConstView(slope_).rows(0, rows).columns(0, channels_),
                             Op::none, beta, G);
    backend.template gemm<T>(T(1), ConstView(YF_).rows(0, rows).columns(channels_, outputs_), Op::transpose,
                             ConstView(S_).rows(0, rows), Op::none, T(0), K_);
    backend.template gemm<T>(alpha * static_cast<T>(rows) / T(2), L_, Op::none, K_, Op::none, T(1), G);
  }

 private:
  OutputError const& objective_;
  index_t channels_, outputs_;
  Matrix L_, P_, K_, S_, YF_, slope_;
  ConstView X_{};
};

}  // namespace detail
}  // namespace dartquant
