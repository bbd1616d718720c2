// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include <dartquant/calibrate/objective.hpp>
#include <dartquant/calibrate/optimizer.hpp>
#include <dartquant/calibrate/qr_orth.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>

namespace dartquant {

/// Where a calibration begins.
enum class InitialRotation {
  random_hadamard,  ///< from the seed (the paper's)
  haar,             ///< a uniformly random rotation, from the seed
  identity,
  given  ///< CalibrationOptions::given
};

/// Whether rows are used as they are. Whip is not scale invariant: on values well below 1 it becomes channels
/// minus the L1 norm and weighs large rows more. For o_proj inputs (RMS 0.1 to 0.6) that is the better
/// objective: the 4-bit error after R2 was 2 to 5 % lower on three small models than with rows, or the whole,
/// brought to unit RMS.
enum class RowScale {
  as_given,
  unit_rms  ///< every row divided by its RMS first; rows of zeros stay
};

/// How a calibration ended: a field of the result, never an exception, and the best rotation found is kept.
enum class CalibrationStatus {
  converged,   ///< the last epoch gained less than `tolerance` of all that was gained
  max_epochs,  ///< all epochs were run and the loss was still falling
  stalled,     ///< no epoch was better than the beginning, or the gradient vanished
  not_finite   ///< a loss or gradient stopped being finite: lower the learning rate
};

/// Told after every epoch (by calibrate_heads: after every head): its number from 1, how many there are, the
/// loss.
struct CalibrationProgress {
  index_t epoch, epochs;
  double loss;
};

namespace detail {

/// Steps of a calibration that names no epochs. An optimizer type may say otherwise.
template <class Optimizer>
[[nodiscard]] constexpr index_t default_steps() {
  if constexpr (requires { Optimizer::default_steps; }) return Optimizer::default_steps;
  else return 160;
}
template <class Optimizer>
[[nodiscard]] constexpr bool takes_learning_rate() {
  if constexpr (requires { Optimizer::takes_learning_rate; }) return Optimizer::takes_learning_rate;
  else return true;
}

}  // namespace detail

/// How to calibrate. Name the objective and the optimizer as template arguments where they are not the
/// defaults: `CalibrationOptions<Uniformity>{.seed = 1}`.
template <class Objective = Whip, class Optimizer = Sgd>
struct CalibrationOptions {
  Objective objective{};
  Optimizer optimizer{};
  index_t epochs = 0;         ///< passes over the rows; 0: about 160 steps (Procrustes: at most about 40)
  index_t batch_rows = 4096;  ///< rows per step at most; an epoch is cut into equal batches
  /// The step in the paper's meaning: Z <- Z - rate v, v the momentum sum of dL/dZ, L the mean over tokens of
  /// the sum over channels. Unset: derived from the first gradient, see relative_step. Cayley: the same of R.
  /// Procrustes has none.
  std::optional<float> learning_rate{};
  /// Used when learning_rate is unset. The rate is set so that a steady gradient of the first one's size
  /// would move the rotation by this fraction of its own Frobenius norm per step: one number for any
  /// channels, objective and size of the values.
  double relative_step = 0.2;
  Schedule schedule = Schedule::cosine;
  InitialRotation initial = InitialRotation::random_hadamard;
  RowMatrix<double> given{};  ///< [channels, channels], orthogonal; used when initial == given
  RowScale row_scale = RowScale::as_given;
  QrPath qr_path = QrPath::automatic;
  double tolerance = 0.01;  ///< see CalibrationStatus::converged
  std::uint64_t seed = 0;   ///< of the initial rotation and of the order of the rows
  std::function<void(CalibrationProgress const&)> progress{};

  /// Throws InvalidArgument with the first option that is out of range.
  void validate() const {
    detail::require(epochs >= 0, "[calibrate] epochs ", epochs, ": must be positive, or 0 for about ",
                    detail::default_steps<Optimizer>(), " steps");
    detail::require(batch_rows >= 1, "[calibrate] batch_rows ", batch_rows, ": at least one row is needed");
    detail::require(!learning_rate || (*learning_rate > 0 && std::isfinite(*learning_rate)),
                    "[calibrate] learning_rate ", learning_rate.value_or(0),
                    ": must be positive and finite; leave it unset to have it chosen");
    detail::require(!learning_rate || detail::takes_learning_rate<Optimizer>(), "[calibrate] learning_rate ",
                    learning_rate.value_or(0), ": this optimizer takes none; leave it unset");
    detail::require(relative_step > 0 && relative_step < 1, "[calibrate] relative_step ", relative_step,
                    ": must be above 0 and below 1");
    detail::require(tolerance >= 0 && tolerance < 1, "[calibrate] tolerance ", tolerance,
                    ": must be in [0, 1)");
    optimizer.validate();
    detail::validate_objective(objective);
  }
};

/// What a calibration found.
struct [[nodiscard]] Calibration {
  RowMatrix<double> rotation{};   ///< the best R [channels, channels], max|R^T R - I| <= 1e-12
  double initial_loss = 0;        ///< mean over tokens of the sum over channels, before the first step
  std::vector<double> loss{};     ///< the same after each epoch
  std::vector<double> seconds{};  ///< until each of `loss` was known, from the first step on
  double best_loss = 0;           ///< that of `rotation`
  CalibrationStatus status = CalibrationStatus::max_epochs;
  double orthogonality = 0;           ///< |I - R^T R|_1 / (n 2^-24): LAPACK's test, good below 30
  QrPath qr_path = QrPath::cholesky;  ///< householder when any QR factorisation had to take it
  double largest_condition = 1;       ///< QR-Orth: of the latent, estimated, over all steps
  double learning_rate = 0;           ///< the one used, before schedule; Procrustes: 0
  index_t steps = 0;                  ///< taken
  index_t shortened = 0;              ///< Procrustes: steps made shorter so that the loss would not rise

  /// The losses divided by the channels: comparable across models. Whip: Gaussian 0.523, uniform 0.475.
  [[nodiscard]] double initial_loss_per_channel() const { return per_channel(initial_loss); }
  [[nodiscard]] double best_loss_per_channel() const { return per_channel(best_loss); }

 private:
  [[nodiscard]] double per_channel(double sum) const { return sum / static_cast<double>(rotation.cols()); }
};

/// One calibration per KV head.
struct [[nodiscard]] HeadCalibration {
  std::vector<Calibration> heads{};
};

}  // namespace dartquant
