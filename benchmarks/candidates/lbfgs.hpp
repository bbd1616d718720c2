// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <deque>
#include <utility>
#include <vector>

#include <dartquant/calibrate/calibrate.hpp>

namespace dartquant {

namespace candidates {

/// L-BFGS on the orthogonal group (Nocedal 1980; on manifolds Huang, Gallivan and Absil 2015), for one batch:
///
///     R(A) = qr(R (I + A)).Q, A skew;   g = skew(R^T dL/dR) is the gradient at A = 0
///     A <- -t H g, H from the last `memory` pairs (step, change of g) by the two loops, t by backtracking
///
/// Pairs of earlier steps are used as they are, in the frame of the current R. Cost per step: 4 rows
/// channels^2 + 6 channels^3 operations and 8 memory channels^2; memory: 2 `memory` + 6 matrices.
struct Lbfgs {
  int memory = 8;
  double first_step = 0.2;   ///< of the first direction, as a share of |R|
  double sufficient = 1e-4;  ///< of the decrease that the slope promises
  static constexpr index_t default_steps = 160;
  static constexpr bool takes_learning_rate = false;
  void validate() const {
    dartquant::detail::require(memory >= 1 && first_step > 0, "[Lbfgs] memory ", memory, ", first step ",
                               first_step, ": must be positive");
  }
};

}  // namespace candidates

namespace detail {

/// On the CPU and for one batch only.
template <class T, class Objective>
class Descent<T, Cpu, Objective, candidates::Lbfgs> {
 public:
  using Matrix = RowMatrix<T>;
  using ConstView = MatrixView<T const>;

  Descent(Cpu const& cpu, CalibrationOptions<Objective, candidates::Lbfgs> const& options, ConstView start,
          DescentPlan const& plan)
      : cpu_(cpu), options_(options), batch_(cpu, options.objective, plan.batch_rows, start.rows()) {
    require(plan.batches == 1, "[Lbfgs] ", plan.batches, " batches: L-BFGS takes all rows as one");
    R_ = qr_orth<T>(cpu_, start).rotation;
  }

  [[nodiscard]] double forward(ConstView X) {
    double loss = batch_.loss(cpu_, X, R_);
    if (proposed_) {
      for (int tries = 0; !(loss <= loss_ + options_.optimizer.sufficient * step_ * slope_); ++tries) {
        ++shortened_;
        if (tries == 12) {  // what is left to gain is below rounding
          R_ = base_;
          pairs_.clear();
          step_ = 0;
          loss = batch_.loss(cpu_, X, R_);
          break;
        }
        step_ *= 0.3;
        retract();
        loss = batch_.loss(cpu_, X, R_);
      }
    }
    loss_ = loss;
    return loss;
  }

  [[nodiscard]] bool backward() {
    index_t const n = R_.rows();
    Matrix G(n, n), A(n, n);
    batch_.gradient(cpu_, T(1), T(0), G);
    cpu_.template gemm<T>(T(1), R_, Op::transpose, G, Op::none, T(0), A);
    Matrix const g = (A - A.transpose()) / T(2);
    finite_ = std::isfinite(g.norm());
    if (!finite_ || g.norm() == T(0)) return false;
    if (proposed_ && step_ > 0) {
      Matrix const s = static_cast<T>(step_) * direction_, y = g - gradient_;
      double const curvature = dot(s, y);
      if (curvature > 1e-10 * dot(y, y)) pairs_.push_back({s, y, curvature});
      if (pairs_.size() > static_cast<std::size_t>(options_.optimizer.memory)) pairs_.pop_front();
    }
    gradient_ = g;
    direction_ = -two_loops(g);
    slope_ = dot(direction_, g);  // dL = <dL/dR, R A> = <R^T dL/dR, A> = <g, A>
    if (!(slope_ < 0)) {
      pairs_.clear();
      direction_ = -g;
      slope_ = -dot(g, g);
    }
    step_ = pairs_.empty() ? options_.optimizer.first_step * std::sqrt(static_cast<double>(n)) /
                                 static_cast<double>(direction_.norm())
                           : 1;
    base_ = R_;
    retract();
    proposed_ = true;
    ++taken_;
    return true;
  }

  [[nodiscard]] bool finite() const { return finite_; }
  [[nodiscard]] Matrix const& rotation() const { return R_; }
  [[nodiscard]] index_t taken() const { return taken_; }
  [[nodiscard]] bool settled(Calibration const& /*so_far*/) const { return proposed_ && step_ == 0; }
  void report(Calibration& found) const { found.shortened = shortened_; }

 private:
  struct Pair {
    Matrix s, y;
    double curvature;
  };
  [[nodiscard]] static double dot(Matrix const& a, Matrix const& b) {
    return static_cast<double>(a.cwiseProduct(b).sum());
  }
  [[nodiscard]] Matrix two_loops(Matrix q) const {
    std::vector<double> along(pairs_.size());
    for (std::size_t i = pairs_.size(); i-- > 0;) {
      along[i] = dot(pairs_[i].s, q) / pairs_[i].curvature;
      q -= static_cast<T>(along[i]) * pairs_[i].y;
    }
    if (!pairs_.empty()) q *= static_cast<T>(pairs_.back().curvature / dot(pairs_.back().y, pairs_.back().y));
    for (std::size_t i = 0; i < pairs_.size(); ++i)
      q += static_cast<T>(along[i] - dot(pairs_[i].y, q) / pairs_[i].curvature) * pairs_[i].s;
    return q;
  }
  void retract() {
    Matrix Z = base_;
    cpu_.template gemm<T>(static_cast<T>(step_), base_, Op::none, direction_, Op::none, T(1), Z);
    R_ = qr_orth<T>(cpu_, Z).rotation;
  }

  Cpu const& cpu_;
  CalibrationOptions<Objective, candidates::Lbfgs> const& options_;
  RotatedBatch<T, Cpu, Objective> batch_;
  Matrix R_, base_, direction_, gradient_;
  std::deque<Pair> pairs_;
  double loss_ = 0, slope_ = 0, step_ = 0;
  index_t taken_ = 0, shortened_ = 0;
  bool proposed_ = false, finite_ = true;
};

}  // namespace detail
}  // namespace dartquant
