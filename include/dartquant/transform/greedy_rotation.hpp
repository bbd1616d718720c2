// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/transform/rotation.hpp>

namespace dartquant {

/// Which index of the largest value a greedy step aims at. `column`: its channel, as in the paper. `row`: the
/// number of its row modulo the block, as in the released code, which makes the search one over random
/// products.
enum class GreedyIndex { column, row };

/// What a greedy search lowers: max |x| as in the paper, or max x - min x as in the released code.
enum class GreedyPeak { magnitude, range };

struct GreedyOptions {
  index_t steps = 256;  ///< at most this many factors, not negative
  GreedyIndex index = GreedyIndex::column;
  GreedyPeak peak = GreedyPeak::magnitude;
  std::uint64_t seed = 0;

  /// Errors: InvalidArgument.
  void validate() const {
    detail::require(steps >= 0, "[GreedyOptions] ", steps, " steps: must not be negative");
  }
};

struct GreedyRotation {
  RowMatrix<double> rotation;  ///< [block, block], max |R^T R - I| <= 1e-12
  index_t steps = 0;           ///< factors of the rotation; 0: none helped, it is the identity
  std::vector<double> peaks;   ///< the peak after 0, 1, ... factors; peaks[steps] is the smallest
};

namespace detail {

/// DuQuant's base rotation: Givens rotations of neighbouring rows make the last row flat, (1, ..., 1) /
/// sqrt(block), exchanges bring it to the front, and a Haar rotation Q' mixes the other columns: Rt =
/// base diag(1, Q'). The first entry of its first row is 1 / sqrt(block), the rest of that row a random
/// direction: an outlier is spread like a random unit vector.
template <class = void>
[[nodiscard]] RowMatrix<double> greedy_base(index_t block, std::uint64_t seed) {
  RowMatrix<double> R = RowMatrix<double>::Identity(block, block);
  for (index_t i = 0; i + 1 < block; ++i) {
    double const c = 1 / std::sqrt(static_cast<double>(i + 2)), s = std::sqrt(1 - c * c);
    RowMatrix<double> const upper = R.row(i), lower = R.row(i + 1);
    R.row(i) = c * upper - s * lower;
    R.row(i + 1) = s * upper + c * lower;
  }
  R.row(0).swap(R.row(block - 1));
  R.col(0).swap(R.col(block - 1));
  if (block > 1) {
    RowMatrix<double> const rest = R.rightCols(block - 1) * haar_rotation(block - 1, seed);
    R.rightCols(block - 1) = rest;
  }
  return R;
}

/// The largest and the smallest value of the blocks, and where they are.
struct Extremes {
  double max = -std::numeric_limits<double>::infinity(), min = std::numeric_limits<double>::infinity();
  index_t max_row = 0, max_col = 0, min_row = 0, min_col = 0;

  void take_max(double value, index_t row, index_t col) {
    if (!(value > max)) return;
    max = value;
    max_row = row;
    max_col = col;
  }
  void take_min(double value, index_t row, index_t col) {
    if (!(value < min)) return;
    min = value;
    min_row = row;
    min_col = col;
  }
  [[nodiscard]] double peak(GreedyPeak kind) const {
    return kind == GreedyPeak::magnitude ? std::max(std::abs(max), std::abs(min)) : max - min;
  }
  /// A block whose norm is below this changes neither the peak nor the place it is at.
  [[nodiscard]] double reach(GreedyPeak kind) const {
    return kind == GreedyPeak::magnitude ? std::max(max, -min) : std::min(max, -min);
  }
};

/// X [tokens, blocks * block] as rows of one block each, row `token * blocks + block number`. A rotation
/// keeps the norm of a row, and no entry exceeds it: rows are looked at in descending order of their norm,
/// and those below the extremes found so far are skipped. The result is that of looking at all.
template <class = void>
class GreedyRows {
 public:
  GreedyRows(MatrixView<double const> X, index_t block)
      : X_(X),
        block_(block),
        across_(X.cols() / block),
        norm_(static_cast<std::size_t>(X.rows() * across_)),
        order_(norm_.size()) {
    for (std::size_t i = 0; i < norm_.size(); ++i) {
      VectorView<double const> const x = row(static_cast<index_t>(i));
      norm_[i] = std::sqrt(dot<double>(x.data(), x.data(), block));
    }
    std::iota(order_.begin(), order_.end(), index_t{0});
    std::ranges::stable_sort(order_, [&](index_t a, index_t b) { return norm(a) > norm(b); });
  }

  /// The extremes of all rows times R [block, block].
  [[nodiscard]] Extremes extremes(Cpu const& cpu, RowMatrix<double> const& R, GreedyPeak kind) const {
    constexpr index_t rows_per_range = 128;
    constexpr double rounding = 1 + 1e-9;
    Extremes all;
    index_t const rows = static_cast<index_t>(order_.size());
    for (index_t first = 0, batch = 8 * rows_per_range; first < rows; first += batch, batch *= 2) {
      if (norm(order_[static_cast<std::size_t>(first)]) * rounding < all.reach(kind)) break;
      index_t const count = std::min(batch, rows - first);
      std::vector<Extremes> parts(static_cast<std::size_t>((count + rows_per_range - 1) / rows_per_range));
      cpu.parallel_for(count, rows_per_range, [&](index_t begin, index_t end) {
        parts[static_cast<std::size_t>(begin / rows_per_range)] = part(first + begin, first + end, R);
      });
      for (Extremes const& found : parts) {
        all.take_max(found.max, found.max_row, found.max_col);
        all.take_min(found.min, found.min_row, found.min_col);
      }
    }
    return all;
  }

 private:
  [[nodiscard]] double norm(index_t i) const { return norm_[static_cast<std::size_t>(i)]; }
  [[nodiscard]] VectorView<double const> row(index_t i) const {
    return X_.row(i / across_).segment(i % across_ * block_, block_);
  }

  /// The extremes of the rows at [first, last) of the order.
  [[nodiscard]] Extremes part(index_t first, index_t last, RowMatrix<double> const& R) const {
    RowMatrix<double> Z(last - first, block_), Y(last - first, block_);
    for (index_t i = first; i < last; ++i) {
      VectorView<double const> const x = row(order_[static_cast<std::size_t>(i)]);
      std::copy(x.begin(), x.end(), Z.row(i - first).data());
    }
    Y.noalias() = Z * R;
    Extremes found;
    for (index_t i = first; i < last; ++i)
      for (index_t j = 0; j < block_; ++j) {
        found.take_max(Y(i - first, j), order_[static_cast<std::size_t>(i)], j);
        found.take_min(Y(i - first, j), order_[static_cast<std::size_t>(i)], j);
      }
    return found;
  }

  MatrixView<double const> X_;
  index_t block_, across_;
  std::vector<double> norm_;
  std::vector<index_t> order_;
};

}  // namespace detail

/// DuQuant's greedy rotation R [block, block] of X [tokens, channels], one matrix for all blocks of channels:
///   repeat: find the largest value of X blockdiag(R, ..., R), let d be its channel inside its block,
///           R <- R E_d Rt E_d,  E_d the exchange of 0 and d, Rt a base with a random part (drawn once)
/// and keep the prefix of the product with the smallest peak, the first one of equals; possibly the identity.
/// In FP64, the product made orthonormal once at the end (the released code multiplies in fp16). A function
/// of (X, block, options) alone. Errors: InvalidArgument unless X has at least one row, is finite, and block
/// divides its channels. Cost: per step block^3 and, for every block of X whose norm exceeds the present
/// peak, block^2 multiply-adds. Source: DuQuant (arXiv 2406.01721), section 3.2.
template <class = void>
[[nodiscard]] GreedyRotation greedy_rotation(Cpu const& cpu, MatrixView<double const> X, index_t block,
                                             GreedyOptions const& options = {}) {
  options.validate();
  detail::require(X.rows() >= 1 && X.cols() >= 1, "[greedy_rotation] activations of ", X.rows(), " x ",
                  X.cols(), ": at least one value is needed");
  detail::require(block >= 1 && X.cols() % block == 0, "[greedy_rotation] block ", block, " does not divide ",
                  X.cols(), " channels");
  for (index_t i = 0; i < X.rows(); ++i)
    for (index_t j = 0; j < X.cols(); ++j)
      detail::require(std::isfinite(X(i, j)), "[greedy_rotation] the value at row ", i, ", channel ", j,
                      " is ", X(i, j), ": every value must be finite");
  detail::GreedyRows<> const rows(X, block);
  RowMatrix<double> const base = detail::greedy_base(block, options.seed);
  RowMatrix<double> R = RowMatrix<double>::Identity(block, block), next(block, block);
  GreedyRotation best{R, 0, {}};
  for (index_t step = 0;; ++step) {
    detail::Extremes const found = rows.extremes(cpu, R, options.peak);
    best.peaks.push_back(found.peak(options.peak));
    if (best.peaks.back() < best.peaks[static_cast<std::size_t>(best.steps)]) {
      best.rotation = R;
      best.steps = step;
    }
    if (step == options.steps || (found.max == 0 && found.min == 0)) break;
    bool const positive = std::abs(found.max) >= std::abs(found.min);
    index_t const d = options.index == GreedyIndex::column
                          ? (positive ? found.max_col : found.min_col)
                          : (positive ? found.max_row : found.min_row) % block;
    RowMatrix<double> factor = base;
    factor.row(0).swap(factor.row(d));
    factor.col(0).swap(factor.col(d));
    next.noalias() = R * factor;
    R.swap(next);
  }
  reorthonormalize(cpu, best.rotation);
  return best;
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template GreedyRotation greedy_rotation<void>(Cpu const&, MatrixView<double const>,
                                                                 index_t, GreedyOptions const&);
}  // namespace dartquant
#endif
