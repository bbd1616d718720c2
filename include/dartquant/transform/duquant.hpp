// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/transform/block_rotation.hpp>
#include <dartquant/transform/greedy_rotation.hpp>
#include <dartquant/transform/hadamard.hpp>
#include <dartquant/transform/permutation.hpp>
#include <dartquant/transform/smoothing.hpp>
#include <dartquant/transform/transform.hpp>

namespace dartquant {

/// What turns the channels of a block.
enum class BlockStep {
  none,
  greedy,   ///< greedy_rotation, found on the activations
  hadamard  ///< the Hadamard matrix of the block size: no calibration, and online only block log(block)
};

/// Whether all blocks share one greedy rotation (as DuQuant does; the block with the largest outlier then
/// decides it) or each has its own.
enum class BlockSharing { shared, per_block };

/// How channels move between the blocks. `zigzag`: by their largest magnitude after the rotation before.
enum class BlockPermutation { none, random, zigzag };

/// A chain (first, permutation) * permutation_times, last. The defaults are DuQuant's.
struct DuQuantOptions {
  index_t block = 128;                  ///< must divide the channels
  BlockStep first = BlockStep::greedy;  ///< before every permutation
  BlockPermutation permutation = BlockPermutation::zigzag;
  index_t permutation_times = 1;       ///< 0: only `last`
  BlockStep last = BlockStep::greedy;  ///< after the last permutation
  BlockSharing sharing = BlockSharing::shared;
  index_t steps = 256;  ///< of each greedy search, see GreedyOptions
  GreedyIndex index = GreedyIndex::column;
  GreedyPeak peak = GreedyPeak::magnitude;
  std::uint64_t seed = 0;

  /// Errors: InvalidArgument.
  void validate() const {
    detail::require(block >= 1, "[DuQuantOptions] block ", block, ": must be at least 1");
    detail::require(permutation_times >= 0, "[DuQuantOptions] ", permutation_times,
                    " permutations: must not be negative");
    detail::require(steps >= 0, "[DuQuantOptions] ", steps, " greedy steps: must not be negative");
  }
};

/// The paper: greedy rotation, zigzag, greedy rotation, in blocks of 128.
[[nodiscard]] inline DuQuantOptions duquant() { return {}; }

/// What the released code computes: the row number as target and the range as peak.
[[nodiscard]] inline DuQuantOptions duquant_as_released() {
  DuQuantOptions options;
  options.index = GreedyIndex::row;
  options.peak = GreedyPeak::range;
  return options;
}

/// Zigzag, then one Hadamard transform per block: a gather and a butterfly online, no search.
[[nodiscard]] inline DuQuantOptions zigzag_hadamard(index_t block = 128) {
  DuQuantOptions options;
  options.block = block;
  options.first = BlockStep::none;
  options.last = BlockStep::hadamard;
  return options;
}

/// The activations after one step of the chain.
struct DuQuantStage {
  enum class Kind { input, rotation, hadamard, permutation };

  Kind kind = Kind::input;
  double largest = 0;  ///< max |x|
  /// The variance of the blocks' means of their channels' largest magnitudes: what the zigzag evens out.
  double block_mean_variance = 0;
  std::vector<index_t> greedy_steps{};  ///< factors of each greedy rotation of the step
};

struct DuQuantResult {
  Transform transform;
  std::vector<DuQuantStage> stages;  ///< the input first, then one per step of the transform
};

/// The variance over the K blocks of the mean of `peaks` (one per channel) inside a block: DuQuant's measure
/// of how unevenly outliers lie. Errors: InvalidArgument unless block divides the channels.
[[nodiscard]] inline double block_mean_variance(VectorView<double const> peaks, index_t block) {
  detail::require(block >= 1 && peaks.size() >= 1 && peaks.size() % block == 0,
                  "[block_mean_variance] block ", block, " does not divide ", peaks.size(), " channels");
  index_t const blocks = peaks.size() / block;
  std::vector<double> means(static_cast<std::size_t>(blocks), 0.0);
  for (index_t i = 0; i < peaks.size(); ++i)
    means[static_cast<std::size_t>(i / block)] += peaks[i] / static_cast<double>(block);
  double mean = 0, squares = 0;
  for (double const value : means) mean += value / static_cast<double>(blocks);
  for (double const value : means) squares += (value - mean) * (value - mean);
  return squares / static_cast<double>(blocks);
}

namespace detail {

/// Grows the chain step by step, the activations with it.
template <class = void>
class DuQuantSearch {
 public:
  DuQuantSearch(Cpu const& cpu, RowMatrix<double> X, DuQuantOptions const& options)
      : cpu_(cpu), options_(options), X_(std::move(X)), result_{Transform(X_.cols()), {}} {
    record({}, {});
  }

  void turn(BlockStep step) {
    if (step == BlockStep::none) return;
    if (step == BlockStep::hadamard) {
      add(Hadamard(X_.cols(), options_.block), DuQuantStage::Kind::hadamard);
      return;
    }
    GreedyOptions const greedy{options_.steps, options_.index, options_.peak, next_seed()};
    index_t const blocks = options_.sharing == BlockSharing::shared ? 1 : X_.cols() / options_.block;
    index_t const width = X_.cols() / blocks;
    std::vector<GreedyRotation> found(static_cast<std::size_t>(blocks));
    auto const search = [&](Cpu const& machine, index_t i) {
      GreedyOptions own = greedy;
      own.seed = Philox(greedy.seed).bits(static_cast<std::uint64_t>(i));
      found[static_cast<std::size_t>(i)] = greedy_rotation(
          machine, MatrixView<double const>(X_).columns(i * width, width), options_.block, own);
    };
    if (blocks == 1) search(cpu_, 0);
    else cpu_.for_each(blocks, search);
    std::vector<index_t> steps;
    std::vector<RowMatrix<double>> rotations;
    for (GreedyRotation& each : found) {
      steps.push_back(each.steps);
      rotations.push_back(std::move(each.rotation));
    }
    add(blocks == 1 ? BlockRotation(X_.cols(), std::move(rotations.front()))
                    : BlockRotation(std::move(rotations)),
        DuQuantStage::Kind::rotation, std::move(steps));
  }

  void permute() {
    if (options_.permutation == BlockPermutation::none) return;
    auto const kind = DuQuantStage::Kind::permutation;
    if (options_.permutation == BlockPermutation::zigzag)
      add(zigzag_permutation(peaks_, options_.block), kind);
    else add(Permutation(sample_without_replacement(X_.cols(), X_.cols(), Philox(next_seed()))), kind);
  }

  [[nodiscard]] DuQuantResult finish() && { return std::move(result_); }

 private:
  [[nodiscard]] std::uint64_t next_seed() { return Philox(options_.seed).bits(drawn_++); }

  template <class Step>
  void add(Step step, DuQuantStage::Kind kind, std::vector<index_t> greedy_steps = {}) {
    step.apply(cpu_, MatrixView<double>(X_));
    result_.transform = result_.transform.then(std::move(step));
    record(kind, std::move(greedy_steps));
  }

  void record(DuQuantStage::Kind kind, std::vector<index_t> greedy_steps) {
    peaks_.assign(static_cast<std::size_t>(X_.cols()), 0.0);
    raise_channel_peaks(cpu_, X_, peaks_);
    result_.stages.push_back({kind, *std::max_element(peaks_.begin(), peaks_.end()),
                              block_mean_variance(peaks_, options_.block), std::move(greedy_steps)});
  }

  Cpu const& cpu_;
  DuQuantOptions const& options_;
  RowMatrix<double> X_;
  std::vector<double> peaks_;
  std::uint64_t drawn_ = 0;
  DuQuantResult result_;
};

template <class T>
[[nodiscard]] DuQuantResult duquant_transform(Cpu const& cpu, MatrixView<T const> X,
                                              DuQuantOptions const& options) {
  options.validate();
  require(X.rows() >= 1 && X.cols() >= 1, "[duquant_transform] activations of ", X.rows(), " x ", X.cols(),
          ": at least one value is needed");
  index_t divisor = std::min(options.block, X.cols());
  while (X.cols() % divisor != 0) --divisor;
  require(divisor == options.block, "[duquant_transform] block ", options.block, " does not divide ",
          X.cols(), " channels; use block ", divisor);
  DuQuantSearch<> search(cpu, as_eigen(X).template cast<double>(), options);
  for (index_t time = 0; time < options.permutation_times; ++time) {
    search.turn(options.first);
    search.permute();
  }
  search.turn(options.last);
  return std::move(search).finish();
}

}  // namespace detail

/// Finds DuQuant's transform for a linear layer's input X [tokens, channels] (calibration tokens, already
/// smoothed if a smoothing is wanted):
///   X <- X blockdiag(R1, ..., R1),  X <- X P,  X <- X blockdiag(R2, ..., R2)
/// with greedy rotations R and a zigzag permutation P, everything in FP64. Apply it to activations, fold it
/// into the weights that read them:
///   DuQuantResult found = duquant_transform(cpu, X, duquant());
///   Transform chain = Transform(channels).then(smoothing).then(found.transform);
///   chain.fold(cpu, W);  chain.apply(cpu, X);                    // X W^T is unchanged
/// DuQuant's code averages its 128 calibration sequences into one before this. A function of (X, options)
/// alone, the same bytes for any number of threads. Errors: InvalidArgument for bad options, an empty X, a
/// block that does not divide the channels or has no Hadamard matrix where one is asked for, or with the
/// place of a value that is not finite. Constant activations and a single token are fine. Memory: 8 bytes per
/// value of X. Cost: see greedy_rotation. Source: DuQuant (arXiv 2406.01721).
template <class = void>
[[nodiscard]] DuQuantResult duquant_transform(Cpu const& cpu, MatrixView<float const> X,
                                              DuQuantOptions const& options = {}) {
  return detail::duquant_transform(cpu, X, options);
}
template <class = void>
[[nodiscard]] DuQuantResult duquant_transform(Cpu const& cpu, MatrixView<double const> X,
                                              DuQuantOptions const& options = {}) {
  return detail::duquant_transform(cpu, X, options);
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template DuQuantResult detail::duquant_transform<float>(Cpu const&,
                                                                           MatrixView<float const>,
                                                                           DuQuantOptions const&);
DARTQUANT_COMPILED template DuQuantResult detail::duquant_transform<double>(Cpu const&,
                                                                            MatrixView<double const>,
                                                                            DuQuantOptions const&);
}  // namespace dartquant
#endif
