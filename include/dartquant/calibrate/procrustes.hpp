// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <dartquant/calibrate/blend.hpp>
#include <dartquant/calibrate/descent.hpp>
#include <dartquant/calibrate/options.hpp>
#include <dartquant/calibrate/polar_factor.hpp>
#include <dartquant/calibrate/qr_orth.hpp>
#include <dartquant/core/backend.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// An optimizer without a learning rate: each step solves the orthogonal Procrustes problem of the linearised
/// loss,
///
///     G = -X^T dL/dO,   R <- polar(G + proximity |G|_F / sqrt(n) R),   O = X R,
///
/// for Whip polar(X^T (sign(O) exp(-|O|)) / rows + ...). Any objective will do.
///
///     auto found = calibrate_rotation(cpu, X, CalibrationOptions<Whip, Procrustes>{.seed = 1});
///
/// The term in R keeps the step near R in the directions that the activations hardly excite. It bounds the
/// condition number of the polar factor, makes an X of any rank harmless, and grows (fourfold) when a step
/// would raise the loss or the matrix is nearly singular: for an objective of upper curvature c (Whip: 1) a
/// weight on R of c times the largest eigenvalue of X^T X / rows never raises the loss (docs/math.md). The
/// loss is watched where every step sees the same rows, i.e. when X fits in one batch: it then never rises
/// from epoch to epoch. On changing batches the schedule makes the steps shorter towards the end, which
/// averages over them: the weight is proximity / schedule_factor. Cost per step: 4 rows channels^2 operations
/// and a polar factor (about 30 channels^3); memory: 4 batches and 8 matrices.
struct Procrustes {
  /// The weight of R, in units of the RMS singular value of G. 0: the plain fixed point, where G allows it.
  double proximity = 0.02;
  /// Where X fits in one batch: ends the calibration after an epoch that lowered the loss by less than this
  /// share of all that was gained.
  double stop = 5e-4;

  static constexpr index_t default_steps = 40;
  static constexpr bool takes_learning_rate = false;

  void validate() const {
    detail::require(proximity >= 0 && std::isfinite(proximity), "[Procrustes] proximity ", proximity,
                    ": must be finite and not negative");
    detail::require(stop >= 0 && stop < 1, "[Procrustes] stop ", stop, ": must be in [0, 1)");
  }
};

namespace detail {

template <class T, class B, class Objective>
class Descent<T, B, Objective, Procrustes> {
 public:
  using Matrix = typename B::template Matrix<T>;
  using View = MatrixView<T, B::space>;
  using ConstView = MatrixView<T const, B::space>;

  Descent(B const& backend, CalibrationOptions<Objective, Procrustes> const& options, ConstView start,
          DescentPlan const& plan)
      : backend_(backend),
        options_(options),
        same_rows_(plan.batches == 1),
        steps_(plan.steps()),
        channels_(start.rows()),
        scale_(std::sqrt(static_cast<double>(channels_))),
        proximity_(options.optimizer.proximity),
        previous_(backend.template matrix<T>(channels_, channels_)),
        G_(backend.template matrix<T>(channels_, channels_)),
        M_(backend.template matrix<T>(channels_, channels_)),
        batch_(backend, options.objective, plan.batch_rows, channels_) {
    auto factor = qr_orth<T>(backend_, start, options.qr_path);
    used_householder_ = factor.path == QrPath::householder;
    R_ = std::move(factor.rotation);
  }

  /// With one batch, this is also where a step that raised the loss is replaced by a shorter one.
  [[nodiscard]] double forward(ConstView X) {
    double loss = batch_.loss(backend_, X, R_);
    if (proposed_ && !(loss <= loss_)) {
      ++shortened_;
      while (!(loss <= loss_) && change_ > std::numeric_limits<T>::epsilon()) {
        proximity_ = std::max(4 * proximity_, 0.01);
        propose();
        loss = batch_.loss(backend_, X, R_);
      }
      if (!(loss <= loss_)) {  // what is left to gain is below rounding
        std::swap(R_, previous_);
        loss = batch_.loss(backend_, X, R_);
        change_ = 0;
      }
    }
    proposed_ = false;
    loss_ = loss;
    return loss;
  }

  [[nodiscard]] bool backward() {
    batch_.gradient(backend_, T(-1), T(0), G_);
    double const norm = backend_.template frobenius_norm<T>(G_);
    finite_ = std::isfinite(norm);
    bool const empty = !same_rows_ && norm == 0;  // a batch of zeros among others: no step
    if (!finite_ || (taken_ == 0 && !empty && vanished(norm))) return false;
    double const factor = same_rows_ ? 1 : schedule_factor(options_.schedule, taken_, steps_);
    proximity_ = std::max(options_.optimizer.proximity / factor, taken_ > 0 ? proximity_ / 2 : 0);
    ++taken_;
    proposed_ = same_rows_;
    size_ = norm / scale_;
    std::swap(R_, previous_);
    propose();
    return true;
  }

  [[nodiscard]] bool finite() const { return finite_; }
  [[nodiscard]] Matrix const& rotation() const { return R_; }
  [[nodiscard]] index_t taken() const { return taken_; }
  [[nodiscard]] bool settled(Calibration const& so_far) const {
    std::size_t const epochs = so_far.loss.size();
    double const before = epochs > 1 ? so_far.loss[epochs - 2] : so_far.initial_loss;
    double const gained = so_far.initial_loss - so_far.best_loss;
    return same_rows_ && (change_ <= std::numeric_limits<T>::epsilon() ||
                          before - so_far.loss.back() < options_.optimizer.stop * gained);
  }
  void report(Calibration& found) const {
    found.qr_path = used_householder_ ? QrPath::householder : QrPath::cholesky;
    found.shortened = shortened_;
  }

 private:
  /// Whether R^T G is symmetric to rounding: no rotation near R is better or worse.
  [[nodiscard]] bool vanished(double norm) {
    backend_.template gemm<T>(T(1), R_, Op::transpose, G_, Op::none, T(0), M_);
    backend_.template skew_lower<T>(M_);
    return backend_.template frobenius_norm<T>(M_) <=
           100 * static_cast<double>(std::numeric_limits<T>::epsilon()) * norm;
  }

  /// R <- polar(G / size + proximity previous), proximity raised until the factor converges. From a weight of
  /// twice the largest singular value of G / size on, which is at most sqrt(n), it does.
  void propose() {
    while (size_ > 0) {
      backend_.copy(ConstView(previous_), View(M_));
      backend_.template update<T>(Blend<T>{static_cast<T>(proximity_)}, static_cast<T>(1 / size_), G_, View(),
                                  View(), M_);
      auto factor = polar_factor<T>(backend_, M_, proximity_);
      if (factor.converged) {
        R_ = std::move(factor.rotation);
        break;
      }
      if (proximity_ > 8 * scale_) {
        size_ = 0;
        break;
      }
      proximity_ = std::max(4 * proximity_, 0.01);
    }
    if (!(size_ > 0)) backend_.copy(ConstView(previous_), View(R_));
    backend_.copy(ConstView(previous_), View(M_));
    backend_.template update<T>(Blend<T>{T(-1)}, T(1), R_, View(), View(), M_);
    change_ = backend_.template frobenius_norm<T>(M_) / scale_;
  }

  B const& backend_;
  CalibrationOptions<Objective, Procrustes> const& options_;
  bool same_rows_;
  index_t steps_, channels_, taken_ = 0, shortened_ = 0;
  double scale_;  ///< |R|_F
  double proximity_, size_ = 0, change_ = 1, loss_ = 0;
  Matrix R_, previous_, G_, M_;
  RotatedBatch<T, B, Objective> batch_;
  bool finite_ = true, proposed_ = false, used_householder_ = false;
};

}  // namespace detail
}  // namespace dartquant
