// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include <dartquant/calibrate/blend.hpp>
#include <dartquant/calibrate/descent.hpp>
#include <dartquant/calibrate/options.hpp>
#include <dartquant/calibrate/qr_orth.hpp>
#include <dartquant/core/backend.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// The norm of the skew matrix W by which Cayley limits its step to rate |W| <= 2 q.
enum class StepLimit {
  one_norm,  ///< largest column sum of magnitudes (Li et al. 2020): about sqrt(channels) / 2.5 times the
             ///< other
  spectral   ///< largest singular value, estimated: all that the fixed point needs to converge
};

/// Cayley SGD with momentum on R itself (Li, Fuxin and Todorovic 2020, "Efficient Riemannian optimization on
/// the Stiefel manifold via the Cayley transform", algorithm 1; the optimizer of SpinQuant, arXiv
/// 2405.16406):
///
///     V <- momentum V - dL/dR
///     W <- (V R^T - R V^T) / 2                        skew; what the paper's W is for a square orthogonal R
///     V <- W R                                        the momentum, made tangent
///     a <- min(rate, 2 q / |W|)
///     R <- (I - a W / 2)^-1 (I + a W / 2) R           by Y <- R + a W (R + Y) / 2, from Y = R + a V
///
///     auto found = calibrate_rotation(cpu, X, CalibrationOptions<Whip, Cayley>{.seed = 1});
///
/// learning_rate, relative_step and schedule mean what they mean for Sgd, of R in place of Z. The
/// fixed point is cut off, so R drifts from orthogonality; a probe checks it every step and R <- qr(R).Q
/// where it fails. Cost per step: 4 rows channels^2 + 2 (3 + iterations) channels^3 operations; memory: 4
/// batches and 7 matrices.
struct Cayley {
  double momentum = 0.9;
  int iterations = 5;  ///< of the fixed point (Li et al.: 2; SpinQuant: 5)
  double q = 0.5;      ///< see StepLimit; the error shrinks by q per iteration at worst
  StepLimit limit = StepLimit::one_norm;

  /// As Sgd::rate_for, of R.
  [[nodiscard]] double rate_for(double relative_step, double gradient_norm, index_t channels) const {
    return relative_step * (1 - momentum) * std::sqrt(static_cast<double>(channels)) / gradient_norm;
  }
  void validate() const {
    detail::require(momentum >= 0 && momentum < 1, "[Cayley] momentum ", momentum, ": must be in [0, 1)");
    detail::require(iterations >= 1, "[Cayley] ", iterations, " iterations: at least one is needed");
    detail::require(q > 0 && q < 1, "[Cayley] q ", q, ": must be above 0 and below 1");
  }
};

namespace detail {

template <class T, class B, class Objective>
class Descent<T, B, Objective, Cayley> {
 public:
  using Matrix = typename B::template Matrix<T>;
  using View = MatrixView<T, B::space>;
  using ConstView = MatrixView<T const, B::space>;

  Descent(B const& backend, CalibrationOptions<Objective, Cayley> const& options, ConstView start,
          DescentPlan const& plan)
      : backend_(backend),
        options_(options),
        steps_(plan.steps()),
        channels_(start.rows()),
        V_(backend.template matrix<T>(channels_, channels_)),
        W_(backend.template matrix<T>(channels_, channels_)),
        base_(backend.template matrix<T>(channels_, channels_)),
        Y_(backend.template matrix<T>(channels_, channels_)),
        batch_(backend, options.objective, plan.batch_rows, channels_) {
    backend_.copy(start, View(Y_));
    orthonormalize(Y_);
    backend_.template set_diagonal<T>(T(0), V_);
  }

  [[nodiscard]] double forward(ConstView X) { return batch_.loss(backend_, X, R_); }

  /// One step along the gradient of the last forward. False, and R is unchanged, when the gradient is not
  /// finite or, at the first step, no more than rounding.
  [[nodiscard]] bool backward() {
    batch_.gradient(backend_, T(-1), static_cast<T>(options_.optimizer.momentum), V_);
    double const whole = taken_ == 0 ? backend_.template frobenius_norm<T>(V_) : 0;
    backend_.template gemm<T>(T(0.5), V_, Op::none, R_, Op::transpose, T(0), W_);
    backend_.template gemm<T>(T(-0.5), R_, Op::none, V_, Op::transpose, T(1), W_);
    backend_.template gemm<T>(T(1), W_, Op::none, R_, Op::none, T(0), V_);
    double const norm = backend_.template frobenius_norm<T>(V_);
    finite_ = std::isfinite(norm);
    if (!finite_) return false;
    if (taken_ == 0) {
      if (norm <= 100 * static_cast<double>(std::numeric_limits<T>::epsilon()) * whole) return false;
      rate_ = options_.learning_rate ? static_cast<double>(*options_.learning_rate)
                                     : options_.optimizer.rate_for(options_.relative_step, norm, channels_);
    }
    double const size = options_.optimizer.limit == StepLimit::one_norm ? one_norm() : spectral_norm();
    double const wanted = rate_ * schedule_factor(options_.schedule, taken_, steps_);
    retract(size > 0 ? std::min(wanted, 2 * options_.optimizer.q / size) : wanted);
    ++taken_;
    return true;
  }

  [[nodiscard]] bool finite() const { return finite_; }
  [[nodiscard]] Matrix const& rotation() const { return R_; }
  [[nodiscard]] index_t taken() const { return taken_; }
  [[nodiscard]] bool settled(Calibration const& /*so_far*/) const { return false; }
  void report(Calibration& found) const {
    found.qr_path = used_householder_ ? QrPath::householder : QrPath::cholesky;
    found.learning_rate = rate_;
  }

 private:
  /// R <- Y, the fixed point of Y = R + rate / 2 (W R + W Y), with V = W R.
  void retract(double rate) {
    T const half = static_cast<T>(rate / 2);
    backend_.template update<T>(Blend<T>{T(1)}, half, V_, View(), View(), R_);
    backend_.copy(ConstView(R_), View(base_));
    backend_.copy(ConstView(R_), View(Y_));
    backend_.template update<T>(Blend<T>{T(1)}, half, V_, View(), View(), Y_);
    for (int iteration = 0; iteration < options_.optimizer.iterations; ++iteration) {
      backend_.copy(ConstView(base_), View(R_));
      backend_.template gemm<T>(half, W_, Op::none, Y_, Op::none, T(1), R_);
      std::swap(R_, Y_);
    }
    std::swap(R_, Y_);
    if (!passes_orthogonality_probe<T>(backend_, R_)) orthonormalize(R_);
  }

  void orthonormalize(ConstView R) {
    auto factor = qr_orth<T>(backend_, R, options_.qr_path);
    used_householder_ = used_householder_ || factor.path == QrPath::householder;
    R_ = std::move(factor.rotation);
  }

  /// |W|_1, on the host.
  [[nodiscard]] double one_norm() const {
    RowMatrix<T> host(channels_, channels_);
    backend_.copy(ConstView(W_), MatrixView<T>(host));
    double largest = 0;
    for (index_t i = 0; i < channels_; ++i) {  // by rows: W is skew
      double sum = 0;
      for (index_t j = 0; j < channels_; ++j) sum += std::abs(static_cast<double>(host(i, j)));
      largest = std::max(largest, sum);
    }
    return largest;
  }

  /// |W|_2 from below, by power iteration from fixed signs: within the margin that q leaves.
  [[nodiscard]] double spectral_norm() const {
    RowMatrix<T> signs(channels_, 1);
    for (index_t i = 0; i < channels_; ++i)
      signs(i, 0) = static_cast<T>(Philox(0).sign(static_cast<std::uint64_t>(i)));
    auto x = backend_.template matrix<T>(channels_, 1), y = backend_.template matrix<T>(channels_, 1);
    backend_.copy(MatrixView<T const>(signs), View(x));
    double norm = std::sqrt(static_cast<double>(channels_)), size = 0;
    for (int round = 0; round < 8 && norm > 0; ++round) {
      backend_.template gemm<T>(static_cast<T>(1 / norm), W_, Op::none, x, Op::none, T(0), y);
      norm = backend_.template frobenius_norm<T>(y);
      size = std::max(size, norm);
      std::swap(x, y);
    }
    return size;
  }

  B const& backend_;
  CalibrationOptions<Objective, Cayley> const& options_;
  index_t steps_, channels_, taken_ = 0;
  Matrix R_, V_, W_, base_, Y_;
  RotatedBatch<T, B, Objective> batch_;
  double rate_ = 0;
  bool finite_ = true, used_householder_ = false;
};

}  // namespace detail
}  // namespace dartquant
