// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include <dartquant/core/backend.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// M = Q H with Q orthogonal and H symmetric positive definite: Q is the orthogonal matrix nearest to M, and
/// the one of largest trace(Q^T M).
template <class B, class T>
struct [[nodiscard]] PolarFactor {
  typename B::template Matrix<T> rotation;  ///< Q [n, n]; not orthogonal unless `converged`
  bool converged = false;  ///< |I - Q^T Q|_F is down to rounding; false: M is (nearly) singular or not finite
  int iterations = 0;      ///< of two products of n^3 multiply-adds each
};

/// The polar factor of M [n, n] in T = float or double by the Newton-Schulz iteration Q <- Q (3 I - Q^T Q) /
/// 2, in matrix products only. Each step is scaled so that the singular values, known to lie in [l, 1], come
/// as near to 1 as a cubic can bring them (Chen and Chow 2014, "A stable scaling of Newton-Schulz"): small
/// ones grow by 2.6 per step instead of 1.5. `smallest` is a guess of the smallest singular value of M; a
/// wrong one costs steps, not accuracy (below 1e-4 of the largest, unscaled steps do the rest). The largest
/// one is bounded by |M^T M|_F^(1/2). A singular M has no unique factor and does not converge. Errors:
/// InvalidArgument when M is empty or not square, smallest is below 0, or iterations is below 1. Cost: about
/// 4 + ln(largest / smallest) steps, 4 n^3 operations each.
template <class T, Backend B>
PolarFactor<B, T> polar_factor(B const& backend, std::type_identity_t<MatrixView<T const, B::space>> M,
                               double smallest = 0, int most_iterations = 40) {
  using View = MatrixView<T, B::space>;
  index_t const n = M.rows();
  detail::require(n >= 1 && M.cols() == n, "[polar_factor] ", n, " x ", M.cols(),
                  ": a square matrix is needed");
  detail::require(smallest >= 0, "[polar_factor] smallest singular value ", smallest,
                  ": must not be negative");
  detail::require(most_iterations >= 1, "[polar_factor] ", most_iterations,
                  " iterations: at least one is needed");
  PolarFactor<B, T> factor{backend.template matrix<T>(n, n)};
  auto next = backend.template matrix<T>(n, n), E = backend.template matrix<T>(n, n);
  auto& Q = factor.rotation;
  backend.template gemm<T>(T(1), M, Op::transpose, M, Op::none, T(0), E);
  double const size = std::sqrt(backend.template frobenius_norm<T>(E));  // at least the 2-norm of M
  if (!(size > 0) || !std::isfinite(size)) {
    backend.copy(M, View(Q));
    return factor;
  }
  RowMatrix<T> const ones = RowMatrix<T>::Identity(n, n);
  auto identity = backend.template matrix<T>(n, n);
  backend.copy(MatrixView<T const>(ones), View(identity));
  double const nearly = 3 * std::sqrt(static_cast<double>(std::numeric_limits<T>::epsilon()));
  double low = std::clamp(smallest / size, 1e-4, 1.0);

  // The first step divides by `size` on the way: Q = M / size is never formed.
  double rho = std::sqrt(3 / (1 + low + low * low));
  backend.copy(M, View(Q));
  backend.template gemm<T>(static_cast<T>(-rho * rho * rho / (2 * size * size * size)), M, Op::none, E,
                           Op::none, static_cast<T>(1.5 * rho / size), Q);
  while (++factor.iterations < most_iterations) {
    low = std::min(1.0, rho * low * (3 - rho * rho * low * low) / 2);
    backend.copy(MatrixView<T const, B::space>(identity), View(E));
    backend.template gemm<T>(T(1), Q, Op::transpose, Q, Op::none, T(-1), E);
    double const error = backend.template frobenius_norm<T>(E);
    if (!std::isfinite(error)) return factor;
    factor.converged = error <= nearly;  // one more step squares it
    if (error < 1) low = std::max(low, std::sqrt(1 - error));
    rho = factor.converged ? 1 : std::sqrt(3 / (1 + low + low * low));
    backend.copy(MatrixView<T const, B::space>(Q), View(next));  // rho Q (3 I - rho^2 (I + E)) / 2
    backend.template gemm<T>(static_cast<T>(-rho * rho * rho / 2), Q, Op::none, E, Op::none,
                             static_cast<T>(rho * (3 - rho * rho) / 2), next);
    std::swap(Q, next);
    if (factor.converged) {
      ++factor.iterations;
      return factor;
    }
  }
  return factor;
}

}  // namespace dartquant
