// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <dartquant/calibrate/blend.hpp>
#include <dartquant/calibrate/options.hpp>
#include <dartquant/calibrate/qr_orth.hpp>
#include <dartquant/calibrate/rotated_batch.hpp>
#include <dartquant/core/backend.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant::detail {

/// The latent's condition number above which it is replaced by its rotation, Z <- R. The loss stays;
/// gradients are bounded by 1 / sigma_min(U), so this keeps them tame. The optimizer's state refers to the
/// old latent and starts again from zero. Z can only drift apart slowly, so this is rare.
inline constexpr double restart_condition = 100;

/// How the rows are handed to a descent.
struct DescentPlan {
  index_t batch_rows = 0;  ///< rows of a batch at most
  index_t batches = 1;     ///< per epoch; with one, every forward sees the same rows
  index_t epochs = 1;

  [[nodiscard]] index_t steps() const { return batches * epochs; }
};

/// The state of a descent on a rotation: `forward` gives the loss of a batch [rows, channels], rows <=
/// batch_rows, under the current rotation, `backward` takes one step for that batch. This one moves the
/// latent Z [n, n] of R = qr(Z).Q by the element-wise rule of an Optimizer. A type of optimizer that moves R
/// otherwise specialises this template (procrustes.hpp, cayley.hpp); the loop around it stays.
template <class T, class B, class Objective, class Optimizer>
class Descent {
  static_assert(
      requires(RotatedBatch<T, B, Objective> const& batch) { batch.slope(); },
      "QR-Orth takes objectives of the rotated values alone: use Cayley or Procrustes");

 public:
  using Matrix = typename B::template Matrix<T>;
  using View = MatrixView<T, B::space>;
  using ConstView = MatrixView<T const, B::space>;

  Descent(B const& backend, CalibrationOptions<Objective, Optimizer> const& options, ConstView start,
          DescentPlan const& plan)
      : backend_(backend),
        options_(options),
        steps_(plan.steps()),
        channels_(start.rows()),
        Z_(backend.template matrix<T>(channels_, channels_)),
        batch_(backend, options.objective, plan.batch_rows, channels_) {
    backend_.copy(start, View(Z_));
    reset_optimizer();
  }

  [[nodiscard]] double forward(ConstView X) {
    if (!fresh_) orthonormalize();
    return batch_.loss(backend_, X, factor_.rotation);
  }

  /// One step along the gradient of the last forward. False, and nothing is changed, when the gradient is not
  /// finite or, at the first step, no more than rounding.
  [[nodiscard]] bool backward() {
    auto A = backend_.template matrix<T>(channels_, channels_);
    backend_.template gemm<T>(T(1), batch_.values(), Op::transpose, batch_.slope(), Op::none, T(0), A);
    double const whole = taken_ == 0 ? backend_.template frobenius_norm<T>(A) : 0;
    Matrix const gradient = qr_orth_gradient<T>(backend_, factor_, A);
    double const norm = backend_.template frobenius_norm<T>(A);  // that of the gradient
    if (!std::isfinite(norm)) {
      finite_ = false;
      return false;
    }
    if (taken_ == 0) {
      if (norm <= 100 * static_cast<double>(std::numeric_limits<T>::epsilon()) * whole) return false;
      rate_ = options_.learning_rate ? static_cast<double>(*options_.learning_rate)
                                     : options_.optimizer.rate_for(options_.relative_step, norm, channels_);
    }
    double const rate = rate_ * schedule_factor(options_.schedule, taken_, steps_);
    ++taken_;
    ++optimizer_step_;
    backend_.template update<T>(options_.optimizer,
                                static_cast<T>(options_.optimizer.rate_at(optimizer_step_, rate)), gradient,
                                first_, second_, Z_);
    fresh_ = false;
    finite_ = std::isfinite(backend_.template frobenius_norm<T>(Z_));
    return finite_;
  }

  [[nodiscard]] bool finite() const { return finite_; }
  [[nodiscard]] Matrix const& rotation() const { return factor_.rotation; }
  [[nodiscard]] index_t taken() const { return taken_; }
  /// Whether further steps are not worth taking, after an epoch.
  [[nodiscard]] bool settled(Calibration const& /*so_far*/) const { return false; }
  /// Writes what is particular to this descent.
  void report(Calibration& found) const {
    found.qr_path = used_householder_ ? QrPath::householder : QrPath::cholesky;
    found.largest_condition = largest_condition_;
    found.learning_rate = rate_;
  }

 private:
  void orthonormalize() {
    factor_ = qr_orth<T>(backend_, Z_, options_.qr_path);
    fresh_ = true;
    largest_condition_ = std::max(largest_condition_, factor_.condition);
    used_householder_ = used_householder_ || factor_.path == QrPath::householder;
    if (factor_.condition <= restart_condition) return;
    backend_.copy(ConstView(factor_.rotation), View(Z_));
    backend_.template set_diagonal<T>(T(1), factor_.lower);
    factor_.condition = 1;
    factor_.unit = true;
    reset_optimizer();
  }

  void reset_optimizer() {
    if (Optimizer::state_count >= 1) {
      first_ = backend_.template matrix<T>(channels_, channels_);
      backend_.template set_diagonal<T>(T(0), first_);
    }
    if (Optimizer::state_count >= 2) {
      second_ = backend_.template matrix<T>(channels_, channels_);
      backend_.template set_diagonal<T>(T(0), second_);
    }
    optimizer_step_ = 0;
  }

  B const& backend_;
  CalibrationOptions<Objective, Optimizer> const& options_;
  index_t steps_, channels_, taken_ = 0, optimizer_step_ = 0;
  Matrix Z_, first_, second_;
  RotatedBatch<T, B, Objective> batch_;
  QrOrth<B, T> factor_;
  double rate_ = 0, largest_condition_ = 1;
  bool fresh_ = false, finite_ = true, used_householder_ = false;
};

}  // namespace dartquant::detail
