// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/transform/rotation.hpp>

namespace dartquant {

/// blockdiag(R_0, R_1, ...) on channels = blocks * block: one matrix shared by all blocks, or one per block.
/// Acts from the right on activations and on the input side of weights alike.
class BlockRotation {
 public:
  /// One rotation for every block of `channels`. Errors: InvalidArgument unless it is square, finite,
  /// orthonormal to single precision (LAPACK's ratio below 30), and its order divides `channels`.
  BlockRotation(index_t channels, RowMatrix<double> shared) : channels_(channels) {
    check(shared, shared.rows());
    detail::require(channels >= 1 && channels % shared.rows() == 0, "[BlockRotation] block ", shared.rows(),
                    " does not divide ", channels, " channels");
    rotations_.push_back(std::move(shared));
  }

  /// One rotation per block. Errors: InvalidArgument unless there is at least one, all have the same order
  /// and each is square, finite and orthonormal.
  explicit BlockRotation(std::vector<RowMatrix<double>> per_block) : rotations_(std::move(per_block)) {
    detail::require(!rotations_.empty(), "[BlockRotation] 0 rotations: at least one is needed");
    for (RowMatrix<double> const& R : rotations_) check(R, rotations_.front().rows());
    channels_ = static_cast<index_t>(rotations_.size()) * block();
  }

  [[nodiscard]] index_t channels() const { return channels_; }
  [[nodiscard]] index_t block() const { return rotations_.front().rows(); }
  [[nodiscard]] index_t blocks() const { return channels_ / block(); }

  /// The stored rotations: one where all blocks share it.
  [[nodiscard]] std::vector<RowMatrix<double>> const& rotations() const { return rotations_; }

  /// The rotation [block, block] of block `index`.
  [[nodiscard]] RowMatrix<double> const& rotation(index_t index) const {
    return rotations_[rotations_.size() == 1 ? 0 : static_cast<std::size_t>(index)];
  }

  /// X [tokens, channels] <- X matrix(), in place, in the precision of X. Errors: InvalidArgument unless X
  /// has channels() columns. Cost: tokens channels block multiply-adds.
  void apply(Cpu const& cpu, MatrixView<float> X) const { multiply<float>(cpu, X, Op::none); }
  void apply(Cpu const& cpu, MatrixView<double> X) const { multiply<double>(cpu, X, Op::none); }

  /// X <- X matrix()^T: undoes apply.
  void apply_inverse(Cpu const& cpu, MatrixView<float> X) const { multiply<float>(cpu, X, Op::transpose); }
  void apply_inverse(Cpu const& cpu, MatrixView<double> X) const { multiply<double>(cpu, X, Op::transpose); }

  /// W [out, channels] <- W matrix(), accumulated in FP64 and rounded once, so that X W^T is unchanged.
  void fold(Cpu const& cpu, MatrixView<float> W) const { multiply<double>(cpu, W, Op::none); }
  void fold(Cpu const& cpu, MatrixView<double> W) const { multiply<double>(cpu, W, Op::none); }

  /// The orthonormal matrix [channels, channels].
  template <class = void>
  [[nodiscard]] RowMatrix<double> matrix() const {
    RowMatrix<double> M = RowMatrix<double>::Zero(channels_, channels_);
    for (index_t i = 0; i < blocks(); ++i) M.block(i * block(), i * block(), block(), block()) = rotation(i);
    return M;
  }

 private:
  static void check(RowMatrix<double> const& R, index_t block) {
    detail::require_square_finite("BlockRotation", R);
    detail::require(R.rows() == block, "[BlockRotation] rotations of order ", block, " and ", R.rows(),
                    ": all blocks must have the same order");
    double const ratio = orthogonality_ratio(R);
    detail::require(ratio < 30, "[BlockRotation] rotation with orthogonality ratio ", ratio,
                    ": must be below 30; reorthonormalize it first");
  }

  /// X <- X op(matrix()), computed in Real.
  template <class Real, class T>
  void multiply(Cpu const& cpu, MatrixView<T> X, Op op) const;

  index_t channels_ = 0;
  std::vector<RowMatrix<double>> rotations_;
};

template <class Real, class T>
void BlockRotation::multiply(Cpu const& cpu, MatrixView<T> X, Op op) const {
  detail::require(X.cols() == channels_, "[BlockRotation] matrix of ", X.rows(), " x ", X.cols(),
                  ": the rotation is for ", channels_, " channels");
  constexpr index_t values_per_range = 65536;
  std::vector<RowMatrix<Real>> factors;
  for (RowMatrix<double> const& R : rotations_) {
    if (op == Op::none) factors.push_back(R.template cast<Real>());
    else factors.push_back(R.transpose().template cast<Real>());
  }
  cpu.parallel_for(
      X.rows(), std::max<index_t>(1, values_per_range / channels_), [&](index_t first, index_t last) {
        RowMatrix<Real> wide, rotated;
        for (index_t i = 0; i < blocks(); ++i) {
          auto part = as_eigen(X.block(first, i * block(), last - first, block()));
          wide = part.template cast<Real>();
          rotated.noalias() = wide * factors[factors.size() == 1 ? 0 : static_cast<std::size_t>(i)];
          part = rotated.template cast<T>();
        }
      });
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template void BlockRotation::multiply<float, float>(Cpu const&, MatrixView<float>,
                                                                       Op) const;
DARTQUANT_COMPILED template void BlockRotation::multiply<double, double>(Cpu const&, MatrixView<double>,
                                                                         Op) const;
DARTQUANT_COMPILED template void BlockRotation::multiply<double, float>(Cpu const&, MatrixView<float>,
                                                                        Op) const;
}  // namespace dartquant
#endif
