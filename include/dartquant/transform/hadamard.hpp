// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>

#include <dartquant/core/butterfly.hpp>
#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/transform/hadamard_matrix.hpp>
#include <dartquant/transform/rotation.hpp>

namespace dartquant {

/// The orthonormal Hadamard transform of activations X [tokens, channels] from the right, over the whole
/// width or block by block: X <- X blockdiag(H, ..., H) / sqrt(block), H = H_base (x) H_2^power of
/// hadamard_order (block). A block of a row is viewed as [base, 2^power], row-major: butterflies run along
/// the fast axis, the base multiplies the slow one. Weights take the same right multiplication (the matrix is
/// orthogonal), so apply(W) folds it into W [out, channels]. Copies share the base. Source: QuaRot (arXiv
/// 2404.00456); unlike its tables, bases are constructed, and an order that is out of reach is refused
/// instead of asserted.
class Hadamard {
 public:
  /// Full width. Errors: InvalidArgument, with a block that works, when the order is out of reach.
  explicit Hadamard(index_t channels) : Hadamard(channels, channels) {}

  /// Block-diagonal. Errors: InvalidArgument unless `block` is a Hadamard order that divides `channels`.
  Hadamard(index_t channels, index_t block) : channels_(channels), block_(block) {
    detail::require(channels >= 1, "[Hadamard] ", channels, " channels: at least one is needed");
    detail::require(block >= 1 && channels % block == 0, "[Hadamard] block ", block, " does not divide ",
                    channels, " channels; use block ", hadamard_block(channels));
    auto const order = hadamard_order(block);
    if (!order) detail::refuse_hadamard_order("Hadamard", channels, block);
    order_ = *order;
    if (order_.base == 1) return;
    Base base{detail::hadamard_base_matrix(order_.base), {}};
    base.narrow = base.wide.cast<float>();
    base_ = std::make_shared<Base const>(std::move(base));
  }

  [[nodiscard]] index_t channels() const { return channels_; }
  [[nodiscard]] index_t block() const { return block_; }
  [[nodiscard]] HadamardOrder order() const { return order_; }

  /// X <- X H / sqrt(block), in place, rows in parallel. Values that are not finite spread over their block.
  /// Errors: InvalidArgument unless X has channels() columns. Cost per value: power additions, base
  /// multiply-adds.
  void apply(Cpu const& cpu, MatrixView<float> X) const { transform(cpu, X, Op::transpose); }
  void apply(Cpu const& cpu, MatrixView<double> X) const { transform(cpu, X, Op::transpose); }

  /// X <- X H^T / sqrt(block): undoes apply. Errors and cost as apply.
  void apply_inverse(Cpu const& cpu, MatrixView<float> X) const { transform(cpu, X, Op::none); }
  void apply_inverse(Cpu const& cpu, MatrixView<double> X) const { transform(cpu, X, Op::none); }

  /// The orthonormal matrix [channels, channels]: X matrix() is what apply computes.
  [[nodiscard]] RowMatrix<double> matrix() const {
    RowMatrix<double> const H = hadamard_matrix(block_) / std::sqrt(static_cast<double>(block_));
    RowMatrix<double> M = RowMatrix<double>::Zero(channels_, channels_);
    for (index_t first = 0; first < channels_; first += block_) M.block(first, first, block_, block_) = H;
    return M;
  }

 private:
  struct Base {
    RowMatrix<double> wide;
    RowMatrix<float> narrow;
    template <class T>
    [[nodiscard]] RowMatrix<T> const& of() const {
      if constexpr (std::is_same_v<T, float>) return narrow;
      else return wide;
    }
  };

  /// x (A (x) B) for x = vec(V), V [base, 2^power] row-major, is vec(A^T V B): `op` is transpose for A and
  /// none for A^T; B is symmetric.
  template <class T>
  void transform(Cpu const& cpu, MatrixView<T> X, Op op) const {
    detail::require(X.cols() == channels_, "[Hadamard] activations of ", X.rows(), " x ", X.cols(),
                    ": the transform is for ", channels_, " channels");
    constexpr index_t values_per_range = 16384;
    index_t const length = index_t{1} << order_.power;
    T const scale = static_cast<T>(1.0 / std::sqrt(static_cast<double>(block_)));
    cpu.parallel_for(X.rows(), std::max<index_t>(1, values_per_range / channels_),
                     [&](index_t first, index_t last) {
                       MatrixView<T> const rows = X.rows(first, last - first);
                       walsh_hadamard<T>(rows, length);
                       if (base_ == nullptr) as_eigen(rows) *= scale;
                       else multiply_base(rows, length, op, scale);
                     });
  }

  template <class T>
  void multiply_base(MatrixView<T> X, index_t length, Op op, T scale) const {
    RowMatrix<T> const& A = base_->template of<T>();
    RowMatrix<T> buffer(order_.base, length);
    for (index_t row = 0; row < X.rows(); ++row)
      for (index_t first = 0; first < channels_; first += block_) {
        auto V = as_eigen(MatrixView<T>(X.data() + row * X.stride() + first, order_.base, length));
        if (op == Op::transpose) buffer.noalias() = A.transpose() * V;
        else buffer.noalias() = A * V;
        V = scale * buffer;
      }
  }

  index_t channels_ = 0, block_ = 0;
  HadamardOrder order_;
  std::shared_ptr<Base const> base_;
};

/// The orthonormal matrix diag(s) H / sqrt(channels) with random signs s: QuaRot's rotation. Where no
/// Hadamard matrix of that order is known, H / sqrt(channels) is replaced by Q (x) H_2^power / sqrt(2^power)
/// with channels = odd * 2^power and Q a Haar rotation of order `odd`, so a model of any width can be
/// calibrated; class Hadamard refuses such an order. A function of (channels, seed) alone. Errors:
/// InvalidArgument for channels < 1. Cost: channels^2 memory, odd^3 for Q.
[[nodiscard]] inline RowMatrix<double> random_hadamard(index_t channels, std::uint64_t seed) {
  detail::require(channels >= 1, "[random_hadamard] ", channels, " channels: at least one is needed");
  RowMatrix<double> R;
  if (hadamard_order(channels)) {
    R = hadamard_matrix(channels) / std::sqrt(static_cast<double>(channels));
  } else {
    index_t const length = index_t{1} << detail::power_of_two_in(channels), odd = channels / length;
    RowMatrix<double> const Q = haar_rotation(odd, seed), H = hadamard_matrix(length);
    R.resize(channels, channels);
    for (index_t i = 0; i < odd; ++i)
      for (index_t j = 0; j < odd; ++j)
        R.block(i * length, j * length, length, length) =
            Q(i, j) / std::sqrt(static_cast<double>(length)) * H;
  }
  Philox const random(seed, 1);  // stream 0 is the Haar rotation's
  for (index_t i = 0; i < channels; ++i) R.row(i) *= random.sign(static_cast<std::uint64_t>(i));
  return R;
}

}  // namespace dartquant
