// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <variant>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/transform/block_rotation.hpp>
#include <dartquant/transform/hadamard.hpp>
#include <dartquant/transform/permutation.hpp>
#include <dartquant/transform/rotation.hpp>
#include <dartquant/transform/smoothing.hpp>

namespace dartquant {

/// A dense rotation over all channels. Copies share the matrix.
class DenseRotation {
 public:
  /// Errors: InvalidArgument unless R is square, finite, and keeps the length of a random sign vector v to
  /// single precision: |R^T R v - v|_1 < 30 n^2 2^-24, which follows from an orthogonality ratio below 30 and
  /// costs n^2 instead of n^3.
  explicit DenseRotation(RowMatrix<double> R)
      : rotation_(std::make_shared<RowMatrix<double> const>(std::move(R))) {
    check();
  }

  [[nodiscard]] index_t channels() const { return rotation_->rows(); }
  [[nodiscard]] RowMatrix<double> const& rotation() const { return *rotation_; }

  /// X [tokens, channels] <- X R, in the precision of X.
  void apply(Cpu const& cpu, MatrixView<float> X) const { multiply(cpu, X, Op::none); }
  void apply(Cpu const& cpu, MatrixView<double> X) const { multiply(cpu, X, Op::none); }
  /// X <- X R^T.
  void apply_inverse(Cpu const& cpu, MatrixView<float> X) const { multiply(cpu, X, Op::transpose); }
  void apply_inverse(Cpu const& cpu, MatrixView<double> X) const { multiply(cpu, X, Op::transpose); }

 private:
  template <class = void>
  void check() const;
  template <class T>
  void multiply(Cpu const& cpu, MatrixView<T> X, Op op) const;

  std::shared_ptr<RowMatrix<double> const> rotation_;
};

template <class>
void DenseRotation::check() const {
  detail::require_square_finite("DenseRotation", *rotation_);
  Philox const random(0);
  Eigen::VectorXd v(channels());
  for (index_t i = 0; i < channels(); ++i) v[i] = random.sign(static_cast<std::uint64_t>(i));
  Eigen::VectorXd const rotated = *rotation_ * v;
  double const error = (rotation_->transpose() * rotated - v).lpNorm<1>();
  double const size = static_cast<double>(channels());
  double const ratio = error / (size * size * 0x1p-24);
  detail::require(ratio < 30, "[DenseRotation] a sign vector comes back with error ratio ", ratio,
                  ": must be below 30; reorthonormalize the rotation first");
}

template <class T>
void DenseRotation::multiply(Cpu const& cpu, MatrixView<T> X, Op op) const {
  detail::require(X.cols() == channels(), "[DenseRotation] matrix of ", X.rows(), " x ", X.cols(),
                  ": the rotation is for ", channels(), " channels");
  RowMatrix<T> const factor = rotation_->template cast<T>();
  RowMatrix<T> rotated(X.rows(), X.cols());
  cpu.gemm<T>(T(1), X, Op::none, factor, op, T(0), rotated);
  as_eigen(X) = rotated;
}

/// A chain of steps on activations X [tokens, channels], first step first: X <- X T, T = T_1 T_2 ... . Its
/// counterpart on weights W [out, channels] is W <- W T^-T, so that (X T) (W T^-T)^T = X W^T.
class Transform {
 public:
  using Step = std::variant<DiagonalScale, Permutation, BlockRotation, Hadamard, DenseRotation>;

  /// No steps: the identity. Errors: InvalidArgument when `channels` is negative.
  explicit Transform(index_t channels) : channels_(channels) {
    detail::require(channels >= 0, "[Transform] ", channels, " channels: must not be negative");
  }

  /// This chain followed by `step`. Errors: InvalidArgument when the step is for another number of channels.
  [[nodiscard]] Transform then(Step step) const {
    index_t const found = std::visit([](auto const& s) { return s.channels(); }, step);
    detail::require(found == channels_, "[Transform] a step for ", found, " channels in a chain for ",
                    channels_, ": the sizes must agree");
    Transform longer = *this;
    longer.steps_.push_back(std::move(step));
    return longer;
  }

  /// This chain followed by all steps of `next`. Errors: InvalidArgument when the channels differ.
  [[nodiscard]] Transform then(Transform const& next) const {
    detail::require(next.channels_ == channels_, "[Transform] a chain for ", next.channels_,
                    " channels after a chain for ", channels_, ": the sizes must agree");
    Transform longer = *this;
    longer.steps_.insert(longer.steps_.end(), next.steps_.begin(), next.steps_.end());
    return longer;
  }

  [[nodiscard]] index_t channels() const { return channels_; }
  [[nodiscard]] std::vector<Step> const& steps() const { return steps_; }

  /// X <- X T, in place, in the precision of X. Errors: InvalidArgument unless X has channels() columns.
  void apply(Cpu const& cpu, MatrixView<float> X) const { run(cpu, X); }
  void apply(Cpu const& cpu, MatrixView<double> X) const { run(cpu, X); }

  /// X <- X T^-1: undoes apply.
  void apply_inverse(Cpu const& cpu, MatrixView<float> X) const { run_inverse(cpu, X); }
  void apply_inverse(Cpu const& cpu, MatrixView<double> X) const { run_inverse(cpu, X); }

  /// W [out, channels] <- W T^-T, every step in FP64, rounded once at the end. Orthogonal steps multiply W by
  /// the same matrix as X, a scale by its inverse.
  void fold(Cpu const& cpu, MatrixView<float> W) const { run_fold(cpu, W); }
  void fold(Cpu const& cpu, MatrixView<double> W) const { run_fold(cpu, W); }

  /// T [channels, channels].
  template <class = void>
  [[nodiscard]] RowMatrix<double> matrix() const {
    RowMatrix<double> M = RowMatrix<double>::Identity(channels_, channels_);
    apply(Cpu(1), M);
    return M;
  }

 private:
  template <class T>
  void check(MatrixView<T> X) const {
    detail::require(X.cols() == channels_, "[Transform] matrix of ", X.rows(), " x ", X.cols(),
                    ": the transform is for ", channels_, " channels");
  }

  template <class T>
  void run(Cpu const& cpu, MatrixView<T> X) const;

  template <class T>
  void run_inverse(Cpu const& cpu, MatrixView<T> X) const;

  template <class T>
  void run_fold(Cpu const& cpu, MatrixView<T> W) const;

  /// A scale changes sides; an orthogonal step is its own counterpart.
  static void fold_step(Cpu const& cpu, DiagonalScale const& step, MatrixView<double> W) {
    step.fold(cpu, W);
  }
  static void fold_step(Cpu const& cpu, auto const& step, MatrixView<double> W) { step.apply(cpu, W); }

  index_t channels_ = 0;
  std::vector<Step> steps_;
};

template <class T>
void Transform::run(Cpu const& cpu, MatrixView<T> X) const {
  check(X);
  for (Step const& step : steps_) std::visit([&](auto const& s) { s.apply(cpu, X); }, step);
}

template <class T>
void Transform::run_inverse(Cpu const& cpu, MatrixView<T> X) const {
  check(X);
  for (auto step = steps_.rbegin(); step != steps_.rend(); ++step)
    std::visit([&](auto const& s) { s.apply_inverse(cpu, X); }, *step);
}

template <class T>
void Transform::run_fold(Cpu const& cpu, MatrixView<T> W) const {
  check(W);
  RowMatrix<double> wide;
  for (index_t first = 0; first < W.rows(); first += detail::fold_rows) {
    auto part = as_eigen(W.rows(first, std::min(detail::fold_rows, W.rows() - first)));
    wide = part.template cast<double>();
    for (Step const& step : steps_) std::visit([&](auto const& s) { fold_step(cpu, s, wide); }, step);
    part = wide.template cast<T>();
  }
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template void DenseRotation::check<void>() const;
DARTQUANT_COMPILED template void DenseRotation::multiply<float>(Cpu const&, MatrixView<float>, Op) const;
DARTQUANT_COMPILED template void DenseRotation::multiply<double>(Cpu const&, MatrixView<double>, Op) const;
DARTQUANT_COMPILED template void Transform::run<float>(Cpu const&, MatrixView<float>) const;
DARTQUANT_COMPILED template void Transform::run<double>(Cpu const&, MatrixView<double>) const;
DARTQUANT_COMPILED template void Transform::run_inverse<float>(Cpu const&, MatrixView<float>) const;
DARTQUANT_COMPILED template void Transform::run_inverse<double>(Cpu const&, MatrixView<double>) const;
DARTQUANT_COMPILED template void Transform::run_fold<float>(Cpu const&, MatrixView<float>) const;
DARTQUANT_COMPILED template void Transform::run_fold<double>(Cpu const&, MatrixView<double>) const;
}  // namespace dartquant
#endif
