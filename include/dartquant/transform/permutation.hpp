// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>

namespace dartquant {

/// A permutation of channels, stored as a gather: new channel i is old channel source[i], X_new[:, i] =
/// X_old[:, source[i]], that is X_new = X_old P with P[source[i], i] = 1. P is orthogonal, so weights take
/// the same gather: (X P) (W P)^T = X W^T.
class Permutation {
 public:
  /// Errors: InvalidArgument unless `source` holds each of 0, ..., size - 1 exactly once.
  explicit Permutation(std::vector<index_t> source) : source_(std::move(source)) {
    std::vector<bool> seen(source_.size(), false);
    for (std::size_t i = 0; i < source_.size(); ++i) {
      index_t const from = source_[i];
      detail::require(from >= 0 && from < channels(), "[Permutation] source ", from, " of channel ", i,
                      ": must be in [0, ", channels(), ")");
      detail::require(!seen[static_cast<std::size_t>(from)], "[Permutation] source ", from, " of channel ", i,
                      " occurs twice: each channel must be used once");
      seen[static_cast<std::size_t>(from)] = true;
    }
  }

  /// The permutation that changes nothing.
  [[nodiscard]] static Permutation identity(index_t channels) {
    detail::require(channels >= 0, "[Permutation] ", channels, " channels: must not be negative");
    std::vector<index_t> source(static_cast<std::size_t>(channels));
    std::iota(source.begin(), source.end(), index_t{0});
    return Permutation(std::move(source));
  }

  [[nodiscard]] index_t channels() const { return static_cast<index_t>(source_.size()); }
  /// The old channel that new channel i comes from.
  [[nodiscard]] index_t operator[](index_t i) const { return source_[static_cast<std::size_t>(i)]; }
  [[nodiscard]] std::vector<index_t> const& source() const { return source_; }
  friend bool operator==(Permutation const&, Permutation const&) = default;

  [[nodiscard]] Permutation inverse() const {
    std::vector<index_t> back(source_.size());
    for (std::size_t i = 0; i < source_.size(); ++i)
      back[static_cast<std::size_t>(source_[i])] = static_cast<index_t>(i);
    return Permutation(std::move(back));
  }

  /// This permutation followed by `next`: matrix() * next.matrix(). Errors: InvalidArgument when the sizes
  /// differ.
  [[nodiscard]] Permutation then(Permutation const& next) const {
    detail::require(next.channels() == channels(), "[Permutation::then] ", channels(), " channels then ",
                    next.channels(), ": the sizes must agree");
    std::vector<index_t> source(source_.size());
    for (std::size_t i = 0; i < source.size(); ++i) source[i] = (*this)[next.source_[i]];
    return Permutation(std::move(source));
  }

  /// X [tokens, channels] <- X P, in place, rows in parallel. Errors: InvalidArgument unless X has channels()
  /// columns.
  void apply(Cpu const& cpu, MatrixView<float> X) const { gather(cpu, X, source_); }
  void apply(Cpu const& cpu, MatrixView<double> X) const { gather(cpu, X, source_); }

  /// X <- X P^T: undoes apply.
  void apply_inverse(Cpu const& cpu, MatrixView<float> X) const { gather(cpu, X, inverse().source_); }
  void apply_inverse(Cpu const& cpu, MatrixView<double> X) const { gather(cpu, X, inverse().source_); }

  /// P [channels, channels].
  template <class = void>
  [[nodiscard]] RowMatrix<double> matrix() const {
    RowMatrix<double> P = RowMatrix<double>::Zero(channels(), channels());
    for (index_t i = 0; i < channels(); ++i) P((*this)[i], i) = 1;
    return P;
  }

 private:
  template <class T>
  static void gather(Cpu const& cpu, MatrixView<T> X, std::vector<index_t> const& source);

  std::vector<index_t> source_;
};

template <class T>
void Permutation::gather(Cpu const& cpu, MatrixView<T> X, std::vector<index_t> const& source) {
  index_t const channels = static_cast<index_t>(source.size());
  detail::require(X.cols() == channels, "[Permutation] activations of ", X.rows(), " x ", X.cols(),
                  ": the permutation is for ", channels, " channels");
  constexpr index_t values_per_range = 65536;
  index_t const grain = channels == 0 ? 1 : std::max<index_t>(1, values_per_range / channels);
  cpu.parallel_for(X.rows(), grain, [&](index_t first, index_t last) {
    std::vector<T> old(source.size());
    for (index_t row = first; row < last; ++row) {
      VectorView<T> const x = X.row(row);
      std::copy(x.begin(), x.end(), old.begin());
      for (index_t i = 0; i < channels; ++i)
        x[i] = old[static_cast<std::size_t>(source[static_cast<std::size_t>(i)])];
    }
  });
}

/// DuQuant's zigzag permutation: channels in descending order of `statistic` (per channel, for example the
/// largest magnitude over calibration tokens; ties by channel number) are dealt to the K = channels / block
/// blocks in snake order 0, 1, ..., K-1, K-1, ..., 1, 0, 0, 1, ..., so that the blocks' outliers balance.
/// Inside a block the order of dealing stays, largest first. Errors: InvalidArgument unless block divides the
/// channels and every statistic is finite. Cost: channels log(channels). Source: DuQuant (arXiv 2406.01721),
/// section 3.
[[nodiscard]] inline Permutation zigzag_permutation(VectorView<double const> statistic, index_t block) {
  index_t const channels = statistic.size();
  detail::require(block >= 1 && channels % block == 0, "[zigzag_permutation] block ", block,
                  " does not divide ", channels, " channels; use a block that does");
  for (index_t i = 0; i < channels; ++i)
    detail::require(std::isfinite(statistic[i]), "[zigzag_permutation] statistic of channel ", i, " is ",
                    statistic[i], ": must be finite");
  std::vector<index_t> order = Permutation::identity(channels).source();
  std::ranges::stable_sort(order, [&](index_t a, index_t b) { return statistic[a] > statistic[b]; });
  index_t const blocks = channels / block;
  std::vector<index_t> source(order.size());
  for (index_t rank = 0; rank < channels; ++rank) {
    index_t const turn = rank / blocks, place = rank % blocks;
    index_t const target = turn % 2 == 0 ? place : blocks - 1 - place;
    source[static_cast<std::size_t>(target * block + turn)] = order[static_cast<std::size_t>(rank)];
  }
  return Permutation(std::move(source));
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template void Permutation::gather<float>(Cpu const&, MatrixView<float>,
                                                            std::vector<index_t> const&);
DARTQUANT_COMPILED template void Permutation::gather<double>(Cpu const&, MatrixView<double>,
                                                             std::vector<index_t> const&);
}  // namespace dartquant
#endif
