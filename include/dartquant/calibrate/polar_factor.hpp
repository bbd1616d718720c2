// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include <dartquant/calibrate/blend.hpp>
#include <dartquant/core/backend.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// How small singular values are brought up.
enum class PolarPath {
  automatic,  ///< by two Cholesky factorisations, then products; any M down to 1e-7 of its norm
  products    ///< by products alone: at best as fast, the reference of the other
};

/// M = Q H with Q orthogonal and H symmetric positive definite: Q is the orthogonal matrix nearest to M, and
/// the one of largest trace(Q^T M).
template <class B, class T>
struct [[nodiscard]] PolarFactor {
  typename B::template Matrix<T> rotation;  ///< Q [n, n]; not orthogonal unless `converged`
  bool converged = false;  ///< |I - Q^T Q|_F is down to rounding; false: M is (nearly) singular or not finite
  int iterations = 0;      ///< of both kinds
  int factorisations = 0;  ///< those that took a Cholesky factor
};

namespace detail {

/// The iterate Q of a polar factor, its singular values known (or hoped) to lie in [low, 1].
template <class T, Backend B>
class PolarIterate {
 public:
  using Matrix = typename B::template Matrix<T>;
  using View = MatrixView<T, B::space>;
  using ConstView = MatrixView<T const, B::space>;

  /// Q = M / size. `size` is at least the 2-norm of M.
  PolarIterate(B const& backend, ConstView M, double size, double low)
      : backend_(backend),
        n_(M.rows()),
        low_(low),
        Q_(backend.template matrix<T>(n_, n_)),
        next_(backend.template matrix<T>(n_, n_)),
        E_(backend.template matrix<T>(n_, n_)),
        identity_(backend.template matrix<T>(n_, n_)) {
    backend_.template set_diagonal<T>(T(1), identity_);
    backend_.copy(M, View(Q_));
    scale(1 / size);
  }

  [[nodiscard]] double low() const { return low_; }
  [[nodiscard]] Matrix take() { return std::move(Q_); }

  /// Divides Q by (Q^T Q's Frobenius norm)^(1/2), a closer bound of the 2-norm.
  void tighten() {
    backend_.template gemm<T>(T(1), Q_, Op::transpose, Q_, Op::none, T(0), E_);
    double const size = std::sqrt(backend_.template frobenius_norm<T>(E_));
    if (!(size > 0) || !std::isfinite(size)) return;
    scale(1 / size);
    low_ = std::min(1.0, low_ / size);
  }

  /// Q <- b / c Q + (a - b / c) Q (I + c Q^T Q)^-1: the step of QDWH (Nakatsukasa, Bai and Gygi 2010), whose
  /// rational function of degree 3 lies nearest to 1 on [low, 1]. False, and nothing is changed, where the
  /// Cholesky factor fails.
  [[nodiscard]] bool factorise() {
    double const l2 = low_ * low_, d = std::cbrt(4 * (1 - l2) / (l2 * l2)), root = std::sqrt(1 + d);
    double const a = root + std::sqrt(8 - 4 * d + 8 * (2 - l2) / (l2 * root)) / 2, b = (a - 1) * (a - 1) / 4,
                 c = a + b - 1;
    auto factor = backend_.template matrix<double>(n_, n_), ones = backend_.template matrix<double>(n_, n_);
    backend_.copy(ConstView(identity_), MatrixView<double, B::space>(ones));
    MatrixView<double, B::space> const G = factor;
    backend_.copy(MatrixView<double const, B::space>(ones), G);  // all of it is read below
    backend_.template gram<T>(Q_, G);
    backend_.template update<double>(Blend<double>{c}, 1.0, ones, no<double>(), no<double>(), G);
    if (!backend_.cholesky(G).ok()) return false;
    backend_.copy(G, View(E_));
    backend_.copy(ConstView(Q_), View(next_));
    backend_.template solve_lower<T>(E_, Op::transpose, next_, Fill::full);
    backend_.template solve_lower<T>(E_, Op::none, next_, Fill::full);
    backend_.template update<T>(Blend<T>{static_cast<T>(a - b / c)}, static_cast<T>(b / c), Q_, no<T>(),
                                no<T>(), next_);
    std::swap(Q_, next_);
    low_ = std::min(1.0, low_ * (a + b * l2) / (1 + c * l2));
    return true;
  }

  /// |I - Q^T Q|_F, which also bounds the smallest singular value. Before every `multiply`.
  [[nodiscard]] double error() {
    backend_.copy(ConstView(identity_), View(E_));
    backend_.template gemm<T>(T(1), Q_, Op::transpose, Q_, Op::none, T(-1), E_);
    double const error = backend_.template frobenius_norm<T>(E_);
    if (error < 1) low_ = std::max(low_, std::sqrt(1 - error));
    return error;
  }

  /// Q <- rho Q (3 I - rho^2 Q^T Q) / 2, with the rho that suits [low, 1], or 1 for the last step.
  void multiply(bool last) {
    double const rho = last ? 1 : std::sqrt(3 / (1 + low_ + low_ * low_));
    backend_.copy(ConstView(Q_), View(next_));  // Q^T Q = I + E
    backend_.template gemm<T>(static_cast<T>(-rho * rho * rho / 2), Q_, Op::none, E_, Op::none,
                              static_cast<T>(rho * (3 - rho * rho) / 2), next_);
    std::swap(Q_, next_);
    low_ = std::min(1.0, rho * low_ * (3 - rho * rho * low_ * low_) / 2);
  }

 private:
  template <class U>
  [[nodiscard]] static MatrixView<U, B::space> no() {
    return {};
  }
  void scale(double factor) {
    backend_.template update<T>(Blend<T>{static_cast<T>(factor)}, T(0), identity_, no<T>(), no<T>(), Q_);
  }

  B const& backend_;
  index_t n_;
  double low_;
  Matrix Q_, next_, E_, identity_;
};

}  // namespace detail

/// The polar factor of M [n, n] in T = float or double. Two Cholesky-based steps (QDWH) bring singular values
/// from 1e-7 |M|_F up to half of the largest, whatever they are; then Newton-Schulz, Q <- Q (3 I - Q^T Q) /
/// 2, in matrix products only, finishes. Each of its steps is scaled so that the singular values, in [l, 1],
/// come as near to 1 as a cubic can bring them (Chen and Chow 2014, "A stable scaling of Newton-Schulz"):
/// small ones grow by 2.6 per step instead of 1.5. `smallest` is a guess of the smallest singular value of
/// M for PolarPath::products; a wrong one costs steps, not accuracy. A singular M has no unique factor: it
/// does not converge, or, where rounding has filled it up, to one of many. Errors:
/// InvalidArgument when M is empty or not square, smallest is below 0, or most_iterations is below 1. Cost: 4
/// n^3 operations per product step, n^3 (FP64) + n^3 / 3 (FP64) + 2 n^3 per Cholesky step.
template <class T, Backend B>
PolarFactor<B, T> polar_factor(B const& backend, std::type_identity_t<MatrixView<T const, B::space>> M,
                               double smallest = 0, int most_iterations = 40,
                               PolarPath path = PolarPath::automatic) {
  index_t const n = M.rows();
  detail::require(n >= 1 && M.cols() == n, "[polar_factor] ", n, " x ", M.cols(),
                  ": a square matrix is needed");
  detail::require(smallest >= 0, "[polar_factor] smallest singular value ", smallest,
                  ": must not be negative");
  detail::require(most_iterations >= 1, "[polar_factor] ", most_iterations,
                  " iterations: at least one is needed");
  PolarFactor<B, T> factor{backend.template matrix<T>(n, n)};
  double const size = backend.template frobenius_norm<T>(M);
  if (!(size > 0) || !std::isfinite(size)) {
    backend.copy(M, MatrixView<T, B::space>(factor.rotation));
    return factor;
  }
  // From here on the singular values are at most 1. Cholesky pays up to where products do as well.
  constexpr double pays_below = 0.3;
  bool products = path == PolarPath::products;
  double const low = products ? std::clamp(smallest / size, 1e-4, 1.0) : 1e-7;
  detail::PolarIterate<T, B> iterate(backend, M, size, low);
  if (products) iterate.tighten();
  double const nearly = 3 * std::sqrt(static_cast<double>(std::numeric_limits<T>::epsilon()));
  while (!factor.converged && factor.iterations < most_iterations) {
    ++factor.iterations;
    if (!products && iterate.low() < pays_below && iterate.factorise()) {
      ++factor.factorisations;
      continue;
    }
    products = true;
    double const error = iterate.error();
    if (!std::isfinite(error)) break;
    factor.converged = error <= nearly;  // one more step squares it
    iterate.multiply(factor.converged);
  }
  factor.rotation = iterate.take();
  return factor;
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
#include <dartquant/core/cpu.hpp>

namespace dartquant {
DARTQUANT_COMPILED template PolarFactor<Cpu, float> polar_factor<float, Cpu>(Cpu const&,
                                                                             MatrixView<float const>, double,
                                                                             int, PolarPath);
DARTQUANT_COMPILED template PolarFactor<Cpu, double> polar_factor<double, Cpu>(Cpu const&,
                                                                               MatrixView<double const>,
                                                                               double, int, PolarPath);
}  // namespace dartquant
#endif
