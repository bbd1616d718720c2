// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include <dartquant/calibrate/descent.hpp>
#include <dartquant/calibrate/epochs.hpp>
#include <dartquant/calibrate/head_state.hpp>
#include <dartquant/calibrate/options.hpp>
#include <dartquant/calibrate/polish.hpp>
#include <dartquant/calibrate/qr_orth.hpp>
#include <dartquant/core/backend.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/core/view.hpp>

/// QR-Orth of all heads of a layer together: the steps of Descent (descent.hpp) for every head at once, on a
/// machine that works on stacks. Nothing is read back before the end. The losses and rotations are those of
/// the heads one by one, up to rounding.
namespace dartquant::detail {

template <class B, class Objective, class Optimizer>
class HeadBatch {
 public:
  using Matrix = typename B::template Matrix<float>;
  using View = MatrixView<float, B::space>;
  using ConstView = MatrixView<float const, B::space>;
  using States = MatrixView<double, B::space>;

  /// X [tokens, heads group n]; all heads begin at `start` [n, n].
  HeadBatch(B const& backend, ConstView X, index_t heads, index_t group,
            CalibrationOptions<Objective, Optimizer> const& options, RowMatrix<double> const& start)
      : backend_(backend),
        options_(options),
        X_(X),
        heads_(heads),
        group_(group),
        n_(start.rows()),
        plan_(plan_epochs(options, group * X.rows())),
        Z_(square()),
        R_(square()),
        L_(square()),
        A_(square()),
        gradient_(square()),
        best_(square()),
        first_(Optimizer::state_count >= 1 ? square() : Matrix{}),
        second_(Optimizer::state_count >= 2 ? square() : Matrix{}),
        judged_(rows_of(plan_.batch_rows)),
        batch_(rows_of(plan_.batches > 1 ? plan_.batch_rows : 0)),
        O_(rows_of(plan_.batch_rows)),
        slope_(rows_of(plan_.batch_rows)),
        state_(backend.template matrix<double>(head_state::count, heads)),
        losses_(backend.template matrix<double>(plan_.epochs + 1, heads)) {
    RowMatrix<double> const stacked = start.replicate(heads, 1);
    backend_.copy(MatrixView<double const>(stacked), View(Z_));
    backend_.copy(MatrixView<double const>(stacked), View(R_));
    RowMatrix<float> const zeros = RowMatrix<float>::Zero(heads * n_, n_);
    if (Optimizer::state_count >= 1) backend_.copy(MatrixView<float const>(zeros), View(first_));
    if (Optimizer::state_count >= 2) backend_.copy(MatrixView<float const>(zeros), View(second_));
    RowMatrix<double> state = RowMatrix<double>::Zero(head_state::count, heads);
    state.row(head_state::going).setOnes();
    state.row(head_state::finite).setOnes();
    state.row(head_state::epochs).setConstant(-1);  // the first loss closes no epoch
    state.row(head_state::best_loss).setConstant(std::numeric_limits<double>::infinity());
    state.row(head_state::largest_condition).setOnes();
    backend_.copy(MatrixView<double const>(state), States(state_));
  }

  [[nodiscard]] HeadCalibration run(RowMatrix<double> const& start) {
    auto const started = std::chrono::steady_clock::now();
    index_t const steps = plan_.batches * plan_.epochs;
    index_t step = 0;
    View const judged =
        take(sample_without_replacement(plan_.rows, plan_.batch_rows, row_order(options_.seed, 0)), judged_);
    close(judged, 0);
    for (index_t epoch = 1; epoch <= plan_.epochs; ++epoch) {
      if (plan_.batches == 1) {
        descend(judged, step++, steps);  // of the forward that judged the epoch before: the same rows
      } else {
        auto const order =
            sample_without_replacement(plan_.rows, plan_.rows, row_order(options_.seed, epoch));
        for (index_t batch = 0; batch < plan_.batches; ++batch) {
          index_t const first = plan_.first_of(batch), last = plan_.first_of(batch + 1);
          View const rows = take(VectorView<index_t const>(order.data() + first, last - first), batch_);
          forward(rows, States(state_).rows(head_state::loss, 1));
          descend(rows, step++, steps);
        }
      }
      close(judged, epoch);
    }
    HeadCalibration found = read(start);
    double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    for (Calibration& one : found.heads)
      for (std::size_t i = 0; i < one.loss.size(); ++i)
        one.seconds.push_back(seconds * static_cast<double>(i + 1) / static_cast<double>(plan_.epochs));
    return found;
  }

 private:
  [[nodiscard]] Matrix square() const { return backend_.template matrix<float>(heads_ * n_, n_); }
  [[nodiscard]] Matrix rows_of(index_t rows) const {
    return backend_.template matrix<float>(heads_ * rows, n_);
  }

  /// The rows of every head with these numbers, one head above the other.
  [[nodiscard]] View take(VectorView<index_t const> numbers, View space) const {
    View const taken = space.rows(0, heads_ * numbers.size());
    backend_.gather_heads(X_, numbers, group_, taken);
    if (options_.row_scale == RowScale::unit_rms) backend_.template normalize_rows<float>(taken);
    return taken;
  }

  /// O = X R and its losses, R of the latent as it is now.
  void forward(ConstView X, States losses) {
    if (!fresh_) {
      bool const householder = options_.qr_path == QrPath::householder;
      QrLimits const limits{wide_one_pass_condition, householder ? 0 : two_pass_condition, restart_condition};
      backend_.orthonormalize_heads(Z_, R_, L_, first_, second_, limits, state_);
      fresh_ = true;
    }
    View const O = View(O_).rows(0, X.rows());
    backend_.template gemm_each<float>(heads_, 1.0f, X, Op::none, R_, Op::none, 0.0f, O);
    backend_.template objective_each<float>(heads_, options_.objective, ConstView(O),
                                            View(slope_).rows(0, X.rows()), losses);
  }

  /// One step along the gradient of the last forward, which was on as many rows.
  void descend(ConstView X, index_t step, index_t steps) {
    View const O = View(O_).rows(0, X.rows()), slope = View(slope_).rows(0, X.rows());
    backend_.template gemm_each<float>(heads_, 1.0f, O, Op::transpose, slope, Op::none, 0.0f, A_);
    backend_.gradient_heads(L_, A_, state_);
    backend_.template gemm_each<float>(heads_, 1.0f, R_, Op::none, A_, Op::none, 0.0f, gradient_);
    StepRate const rate{options_.learning_rate ? static_cast<double>(*options_.learning_rate) : 0.0,
                        options_.relative_step, schedule_factor(options_.schedule, step, steps)};
    backend_.update_heads(options_.optimizer, rate, gradient_, first_, second_, Z_, state_);
    fresh_ = false;
  }

  void close(ConstView judged, index_t epoch) {
    States const losses = States(losses_).rows(epoch, 1);
    forward(judged, losses);
    backend_.close_epoch(losses, R_, best_, state_);
  }

  /// Waits for everything and tells what was found.
  [[nodiscard]] HeadCalibration read(RowMatrix<double> const& start) const {
    RowMatrix<double> state(head_state::count, heads_), losses(plan_.epochs + 1, heads_);
    RowMatrix<float> best(heads_ * n_, n_);
    backend_.copy(ConstView(best_), MatrixView<float>(best));
    backend_.copy(MatrixView<double const, B::space>(state_), MatrixView<double>(state));
    backend_.copy(MatrixView<double const, B::space>(losses_), MatrixView<double>(losses));
    HeadCalibration found;
    found.heads.resize(static_cast<std::size_t>(heads_));
    RowMatrix<double> rotations = best.template cast<double>();
    for (index_t head = 0; head < heads_; ++head) {
      Calibration& one = found.heads[static_cast<std::size_t>(head)];
      auto const field = [&](head_state::Field which) { return state(which, head); };
      one.initial_loss = losses(0, head);
      one.best_loss = std::min(field(head_state::best_loss), one.initial_loss);
      for (index_t epoch = 1; epoch <= static_cast<index_t>(field(head_state::epochs)); ++epoch)
        one.loss.push_back(losses(epoch, head));
      bool const going = field(head_state::going) != 0, vanished = field(head_state::taken) == 0;
      one.status = going                                        ? judge(one, options_.tolerance)
                   : vanished && field(head_state::finite) != 0 ? CalibrationStatus::stalled
                                                                : CalibrationStatus::not_finite;
      one.qr_path = field(head_state::householder) != 0 ? QrPath::householder : QrPath::cholesky;
      one.largest_condition = field(head_state::largest_condition);
      one.learning_rate = field(head_state::rate);
      one.steps = static_cast<index_t>(field(head_state::taken));
      if (!(one.best_loss < one.initial_loss)) rotations.middleRows(head * n_, n_) = start;
    }
    std::vector<double> const ratios = polish(backend_, heads_, rotations);
    for (index_t head = 0; head < heads_; ++head) {
      found.heads[static_cast<std::size_t>(head)].rotation = rotations.middleRows(head * n_, n_);
      found.heads[static_cast<std::size_t>(head)].orthogonality = ratios[static_cast<std::size_t>(head)];
    }
    return found;
  }

  B const& backend_;
  CalibrationOptions<Objective, Optimizer> const& options_;
  ConstView X_;
  index_t heads_, group_, n_;
  EpochPlan plan_;
  Matrix Z_, R_, L_, A_, gradient_, best_, first_, second_, judged_, batch_, O_, slope_;
  typename B::template Matrix<double> state_, losses_;
  bool fresh_ = false;
};

/// Whether HeadBatch can run these: an element-wise optimizer rule, an objective of the rotated values alone.
template <class T, class B, class Objective, class Optimizer>
concept HeadsTogether = BatchedBackend<B> && std::is_same_v<T, float> && dartquant::Optimizer<Optimizer> &&
    dartquant::Objective<Objective>;

}  // namespace dartquant::detail
