// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include <dartquant/calibrate/objective.hpp>
#include <dartquant/calibrate/optimizer.hpp>
#include <dartquant/calibrate/qr_orth.hpp>
#include <dartquant/core/backend.hpp>
#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/random.hpp>

namespace dartquant {

/// Where a calibration begins.
enum class InitialRotation {
  random_hadamard,  ///< H diag(+-1) / sqrt(channels), from the seed (the paper's)
  haar,             ///< a uniformly random rotation, from the seed
  identity,
  given  ///< CalibrationOptions::given
};

/// Whether rows are used as they are.
enum class RowScale {
  as_given,
  unit_rms  ///< every row divided by its RMS first (all-zero rows stay)
};

/// How a calibration ended. A field of the result, never an exception: the best rotation found is kept.
enum class CalibrationStatus {
  converged,   ///< the last epoch gained less than `tolerance` of all that was gained
  max_epochs,  ///< all epochs were run and the loss was still falling
  stalled,     ///< no epoch was better than the beginning, or the gradient vanished
  not_finite   ///< a loss or gradient stopped being finite: lower the learning rate
};

/// Told after every epoch: its number from 1, how many there are, and the loss.
struct CalibrationProgress {
  index_t epoch, epochs;
  double loss;
};

template <class Objective = Whip, class Optimizer = Sgd>
struct CalibrationOptions {
  Objective objective{};
  Optimizer optimizer{};
  index_t epochs = 0;         ///< passes over the rows; 0: as many as make about 160 steps
  index_t batch_rows = 4096;  ///< rows per step; each epoch cuts a fresh random order of all rows
  /// The step as the paper states it: Z <- Z - rate dL/dZ, with L the mean over tokens. Unset: taken from the first
  /// gradient, so that `relative_step` has the same effect for any channels, objective and scale of the rows.
  std::optional<float> learning_rate{};
  double relative_step = 0.05;  ///< used when learning_rate is unset: see Sgd::rate_for
  Schedule schedule = Schedule::cosine;
  InitialRotation initial = InitialRotation::random_hadamard;
  RowMatrix<double> given{};  ///< [channels, channels], orthogonal; read when initial == given
  RowScale row_scale = RowScale::as_given;
  QrPath qr_path = QrPath::automatic;
  double tolerance = 0.01;  ///< see CalibrationStatus::converged
  std::uint64_t seed = 0;
  std::function<void(CalibrationProgress const&)> progress{};

  void validate() const;
};

/// What a calibration found.
struct [[nodiscard]] Calibration {
  RowMatrix<double> rotation;  ///< the best one, max|R^T R - I| <= 1e-12
  double initial_loss = 0;     ///< mean over tokens of the sum over channels, before the first step
  std::vector<double> loss;    ///< the same after each epoch
  double best_loss = 0;        ///< that of `rotation`
  double initial_per_channel = 0, best_per_channel = 0;  ///< the two divided by the channels
  CalibrationStatus status = CalibrationStatus::max_epochs;
  double orthogonality = 0;  ///< |I - R^T R|_1 / (n eps of double) of `rotation`: LAPACK's test, good below 30
  QrPath qr_path = QrPath::cholesky;  ///< householder when any step had to take it
  double largest_condition = 1;       ///< of the latent, over all steps
  double learning_rate = 0;           ///< the one used
};

/// One rotation per KV head.
struct [[nodiscard]] HeadCalibration {
  std::vector<Calibration> heads;
};

/// Learns the rotation R [channels, channels] that minimises the objective of X R, by descent on a free latent Z with
/// R = qr(Z).Q (QR-Orth; Shao et al. 2025, arXiv 2511.04063, algorithm 1).
///
///     auto found = calibrate_rotation(cpu, X, {.epochs = 10, .learning_rate = 1.5e-3f, .seed = 1});
///     auto other = calibrate_rotation(cpu, X, CalibrationOptions<Uniformity>{.seed = 1});
///
/// X: [tokens, channels], pooled over all layers for R1; values of RMS about 1 (the input of a projection with the
/// norm's gain folded away). The losses reported are of one fixed random subset of batch_rows rows (all of them when
/// there are no more), so they compare from epoch to epoch. Differences from the authors' code: every epoch sees all
/// rows in a fresh order, the best rotation is kept rather than the last but one, and everything is seeded.
/// Errors: InvalidArgument for options out of range, no rows, or a value of X that is not finite; the sentence names
/// it. Cost per step: 4 batch_rows channels^2 + about 7 channels^3 operations; memory: X, 3 batches, 8 matrices.
template <class Objective = Whip, class Optimizer = Sgd, Backend B>
Calibration calibrate_rotation(B const& backend, std::type_identity_t<MatrixView<float const, B::space>> X,
                               CalibrationOptions<Objective, Optimizer> const& options = {});
template <class Objective = Whip, class Optimizer = Sgd, Backend B>
Calibration calibrate_rotation(B const& backend, std::type_identity_t<MatrixView<double const, B::space>> X,
                               CalibrationOptions<Objective, Optimizer> const& options = {});

/// Learns one rotation [head_dim, head_dim] per KV head from the o_proj inputs X [tokens, query_heads * head_dim] of
/// one layer (R2). The query heads that share a KV head share its rotation: their rows are stacked. All heads start
/// from the same rotation; they run side by side.
template <class Objective = Whip, class Optimizer = Sgd, Backend B>
HeadCalibration calibrate_heads(B const& backend, std::type_identity_t<MatrixView<float const, B::space>> X,
                                index_t query_heads, index_t kv_heads,
                                CalibrationOptions<Objective, Optimizer> const& options = {});
template <class Objective = Whip, class Optimizer = Sgd, Backend B>
HeadCalibration calibrate_heads(B const& backend, std::type_identity_t<MatrixView<double const, B::space>> X,
                                index_t query_heads, index_t kv_heads,
                                CalibrationOptions<Objective, Optimizer> const& options = {});

/// Mean over the rows of X, divided by the channels, of an objective: Whip per channel and the like.
template <class Objective = Whip, Backend B>
[[nodiscard]] double loss_per_channel(B const& backend, std::type_identity_t<MatrixView<float const, B::space>> X,
                                      Objective const& objective = {});

}  // namespace dartquant
