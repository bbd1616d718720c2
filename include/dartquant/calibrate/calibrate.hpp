// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <mutex>
#include <type_traits>
#include <utility>
#include <vector>

#include <dartquant/calibrate/descent.hpp>
#include <dartquant/calibrate/epochs.hpp>
#include <dartquant/calibrate/head_batch.hpp>
#include <dartquant/calibrate/options.hpp>
#include <dartquant/calibrate/polish.hpp>
#include <dartquant/core/backend.hpp>
#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/transform/hadamard.hpp>
#include <dartquant/transform/rotation.hpp>

namespace dartquant {
namespace detail {

/// Throws InvalidArgument with the place of the first value of X that is not finite.
template <class T, Backend B>
void require_finite(B const& backend, char const* who, MatrixView<T const, B::space> X) {
  if (std::isfinite(backend.template frobenius_norm<T>(X))) return;
  RowMatrix<T> host(1, X.cols());
  for (index_t row = 0; row < X.rows(); ++row) {
    backend.copy(X.rows(row, 1), MatrixView<T>(host));
    for (index_t channel = 0; channel < X.cols(); ++channel)
      require(std::isfinite(host(0, channel)), "[", who, "] X holds ", host(0, channel), " at row ", row,
              ", channel ", channel, ": all activations must be finite");
  }
  throw InvalidArgument(
      sentence("[", who, "] the values of X overflow when squared: scale them to RMS about 1"));
}

/// Where a calibration of this many channels begins.
template <class Options>
[[nodiscard]] RowMatrix<double> initial_rotation(char const* who, index_t channels, Options const& options) {
  switch (options.initial) {
    case InitialRotation::random_hadamard:
      return random_hadamard(channels, options.seed);
    case InitialRotation::haar:
      return haar_rotation(channels, options.seed);
    case InitialRotation::identity:
      return RowMatrix<double>::Identity(channels, channels);
    case InitialRotation::given:
      break;
  }
  require(options.given.rows() == channels && options.given.cols() == channels, "[", who,
          "] the given rotation is ", options.given.rows(), " x ", options.given.cols(), " but X has ",
          channels, " channels");
  require(options.given.allFinite(), "[", who, "] the given rotation holds a value that is not finite");
  return options.given;
}

/// The machine that finishes in FP64: the backend itself when it works in host memory, else the CPU.
template <Backend B>
[[nodiscard]] auto host_of(B const& backend) {
  if constexpr (std::is_same_v<B, Cpu>) return backend;
  else return Cpu();
}

/// The rows of X with these numbers, scaled as the options say, in the first rows of `space`.
template <class T, Backend B>
[[nodiscard]] MatrixView<T const, B::space> take_rows(B const& backend, MatrixView<T const, B::space> X,
                                                      VectorView<index_t const> rows, RowScale scale,
                                                      MatrixView<T, B::space> space) {
  MatrixView<T, B::space> const taken = space.rows(0, rows.size());
  backend.template gather_rows<T>(X, rows, taken);
  if (scale == RowScale::unit_rms) backend.template normalize_rows<T>(taken);
  return taken;
}

/// The loop behind calibrate_rotation, on checked arguments.
template <class T, class Objective, class Optimizer, Backend B>
Calibration calibrate_from(B const& backend, MatrixView<T const, B::space> X,
                           CalibrationOptions<Objective, Optimizer> const& options, RowMatrix<double> start) {
  using View = MatrixView<T, B::space>;
  using ConstView = MatrixView<T const, B::space>;
  index_t const rows = X.rows(), channels = X.cols();
  EpochPlan const plan = plan_epochs(options, rows);
  index_t const batches = plan.batches, batch_rows = plan.batch_rows, epochs = plan.epochs;

  auto best = backend.template matrix<T>(channels, channels);
  backend.copy(MatrixView<double const>(start), View(best));
  Descent<T, B, Objective, Optimizer> descent(backend, options, best, {batch_rows, batches, epochs});
  auto judged_space = backend.template matrix<T>(batch_rows, channels);
  auto batch_space = backend.template matrix<T>(batches > 1 ? batch_rows : 0, channels);
  auto const sample = sample_without_replacement(rows, batch_rows, row_order(options.seed, 0));
  ConstView const judged = take_rows<T>(backend, X, sample, options.row_scale, View(judged_space));

  Calibration found;
  found.initial_loss = found.best_loss = descent.forward(judged);
  backend.copy(ConstView(descent.rotation()), View(best));
  auto const started = std::chrono::steady_clock::now();
  bool going = std::isfinite(found.initial_loss);
  for (index_t epoch = 1; epoch <= epochs && going; ++epoch) {
    if (batches == 1) {
      going = descent.backward();  // of the forward that judged the epoch before: the same rows
    } else {
      auto const order = sample_without_replacement(rows, rows, row_order(options.seed, epoch));
      for (index_t batch = 0; batch < batches && going; ++batch) {
        index_t const first = plan.first_of(batch), last = plan.first_of(batch + 1);
        VectorView<index_t const> const numbers(order.data() + first, last - first);
        going = std::isfinite(descent.forward(
                    take_rows<T>(backend, X, numbers, options.row_scale, View(batch_space)))) &&
                descent.backward();
      }
    }
    if (!going) break;
    double const loss = descent.forward(judged);
    found.loss.push_back(loss);
    found.seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
    going = std::isfinite(loss);
    if (loss < found.best_loss) {
      found.best_loss = loss;
      backend.copy(ConstView(descent.rotation()), View(best));
    }
    if (options.progress) options.progress({epoch, epochs, loss});
    if (going && descent.settled(found)) break;
  }

  bool const vanished =
      !going && descent.finite() && descent.taken() == 0 && std::isfinite(found.initial_loss);
  found.status = going      ? judge(found, options.tolerance)
                 : vanished ? CalibrationStatus::stalled
                            : CalibrationStatus::not_finite;
  RowMatrix<T> narrow(channels, channels);
  backend.copy(ConstView(best), MatrixView<T>(narrow));
  found.rotation =
      found.best_loss < found.initial_loss ? RowMatrix<double>(narrow.template cast<double>()) : start;
  if constexpr (BatchedBackend<B>) {
    found.orthogonality = polish(backend, 1, found.rotation)[0];
  } else {
    auto const host = host_of(backend);
    reorthonormalize(host, found.rotation);
    found.orthogonality = orthogonality_ratio(host, found.rotation);
  }
  found.steps = descent.taken();
  descent.report(found);
  return found;
}

template <class T, class Objective, class Optimizer, Backend B>
Calibration calibrate_rotation(B const& backend, MatrixView<T const, B::space> X,
                               CalibrationOptions<Objective, Optimizer> const& options) {
  char const* const who = "calibrate_rotation";
  options.validate();
  require(X.rows() >= 1 && X.cols() >= 1, "[", who, "] X is ", X.rows(), " x ", X.cols(),
          ": at least one row and one channel are needed");
  require_finite<T>(backend, who, X);
  return calibrate_from<T>(backend, X, options, initial_rotation(who, X.cols(), options));
}

template <class T, class Objective, class Optimizer, Backend B>
HeadCalibration calibrate_heads(B const& backend, MatrixView<T const, B::space> X, index_t query_heads,
                                index_t kv_heads, CalibrationOptions<Objective, Optimizer> const& options) {
  char const* const who = "calibrate_heads";
  options.validate();
  require(query_heads >= 1 && kv_heads >= 1 && query_heads % kv_heads == 0, "[", who, "] ", query_heads,
          " query heads and ", kv_heads, " KV heads: the second must divide the first");
  require(X.rows() >= 1 && X.cols() >= 1 && X.cols() % query_heads == 0, "[", who, "] X is ", X.rows(), " x ",
          X.cols(), " for ", query_heads, " heads: rows are needed, and the heads must divide the channels");
  require_finite<T>(backend, who, X);
  index_t const head_dim = X.cols() / query_heads, group = query_heads / kv_heads, tokens = X.rows();
  RowMatrix<double> const start = initial_rotation(who, head_dim, options);
  if constexpr (HeadsTogether<T, B, Objective, Optimizer>) {
    if (head_dim <= B::largest_head && options.qr_path != QrPath::cholesky) {
      HeadBatch<B, Objective, Optimizer> batch(backend, X, kv_heads, group, options, start);
      HeadCalibration found = batch.run(start);
      index_t told = 0;
      for (Calibration const& one : found.heads)
        if (options.progress) options.progress({++told, kv_heads, one.best_loss});
      return found;
    }
  }
  auto silent = options;
  silent.progress = nullptr;
  HeadCalibration found;
  found.heads.resize(static_cast<std::size_t>(kv_heads));
  std::mutex mutex;
  index_t done = 0;
  backend.for_each(kv_heads, [&](auto const& machine, index_t head) {
    auto stacked = machine.template matrix<T>(group * tokens, head_dim);
    MatrixView<T, B::space> const rows = stacked;
    for (index_t member = 0; member < group; ++member)
      machine.copy(X.columns((head * group + member) * head_dim, head_dim),
                   rows.rows(member * tokens, tokens));
    Calibration one = calibrate_from<T>(machine, MatrixView<T const, B::space>(rows), silent, start);
    std::lock_guard lock(mutex);
    if (options.progress) options.progress({++done, kv_heads, one.best_loss});
    found.heads[static_cast<std::size_t>(head)] = std::move(one);
  });
  return found;
}

}  // namespace detail

/// Learns the rotation R [channels, channels] that minimises the objective of X R. The type of the optimizer
/// chooses how: Sgd and Adam by descent on a free latent Z with R = qr(Z).Q (QR-Orth; Shao et al. 2025, arXiv
/// 2511.04063, algorithm 1), Procrustes (procrustes.hpp) and Cayley (cayley.hpp) on R itself.
///
///     auto found = calibrate_rotation(cpu, X, {.epochs = 10, .learning_rate = 1.5e-3f, .seed = 1});
///     auto other = calibrate_rotation(cpu, X, CalibrationOptions<Uniformity>{.seed = 1});
///     auto third = calibrate_rotation(cpu, X, CalibrationOptions<Whip, Procrustes>{.seed = 1});
///
/// X: [tokens, channels], pooled over all layers for R1; values of RMS about 1 (the input of a projection
/// with the norm's gain folded away). The losses reported are those of one fixed random subset of the rows,
/// as large as a batch (all of them when they fit in one), so they compare from epoch to epoch. Differences
/// from the authors' code: every epoch sees all rows in a fresh random order, the best rotation is kept
/// rather than the last but one, the step is chosen from the first gradient unless learning_rate is set, and
/// everything is seeded. Errors: InvalidArgument for options out of range, no rows, or a value of X that is
/// not finite; the sentence names it. Cost per step of QR-Orth: 4 rows channels^2 + about 9 channels^3 / 2
/// operations; memory: 4 batches and 8 matrices.
template <class Objective = Whip, class Optimizer = Sgd, Backend B>
Calibration calibrate_rotation(B const& backend, std::type_identity_t<MatrixView<float const, B::space>> X,
                               CalibrationOptions<Objective, Optimizer> const& options = {}) {
  return detail::calibrate_rotation<float>(backend, X, options);
}
template <class Objective = Whip, class Optimizer = Sgd, Backend B>
Calibration calibrate_rotation(B const& backend, std::type_identity_t<MatrixView<double const, B::space>> X,
                               CalibrationOptions<Objective, Optimizer> const& options = {}) {
  return detail::calibrate_rotation<double>(backend, X, options);
}

/// Learns one rotation [head_dim, head_dim] per KV head from the o_proj inputs X [tokens, query_heads *
/// head_dim] of one layer (R2). The query heads that share a KV head share its rotation: their rows are
/// stacked. All heads start from the same rotation, and run side by side, one thread each; on a
/// BatchedBackend Sgd and Adam take them together (head_batch.hpp). `progress` counts heads and may be called
/// from any thread, one at a time. Errors: as calibrate_rotation, or heads that do not divide each other or
/// the channels.
template <class Objective = Whip, class Optimizer = Sgd, Backend B>
HeadCalibration calibrate_heads(B const& backend, std::type_identity_t<MatrixView<float const, B::space>> X,
                                index_t query_heads, index_t kv_heads,
                                CalibrationOptions<Objective, Optimizer> const& options = {}) {
  return detail::calibrate_heads<float>(backend, X, query_heads, kv_heads, options);
}
template <class Objective = Whip, class Optimizer = Sgd, Backend B>
HeadCalibration calibrate_heads(B const& backend, std::type_identity_t<MatrixView<double const, B::space>> X,
                                index_t query_heads, index_t kv_heads,
                                CalibrationOptions<Objective, Optimizer> const& options = {}) {
  return detail::calibrate_heads<double>(backend, X, query_heads, kv_heads, options);
}

/// The mean over the rows of X of the sum over channels of an objective, divided by the channels: Whip per
/// channel and the like, of values as they are. Errors: InvalidArgument when X is empty. Memory: one copy of
/// X.
template <class Objective = Whip, Backend B>
[[nodiscard]] double loss_per_channel(B const& backend,
                                      std::type_identity_t<MatrixView<float const, B::space>> X,
                                      Objective const& objective = {}) {
  detail::require(X.rows() >= 1 && X.cols() >= 1, "[loss_per_channel] X is ", X.rows(), " x ", X.cols(),
                  ": at least one row and one channel are needed");
  auto slope = backend.template matrix<float>(X.rows(), X.cols());
  return backend.template objective<float>(objective, X, slope) / static_cast<double>(X.cols());
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED
#include <dartquant/calibrate/instantiations.hpp>
#endif
