// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <type_traits>

#include <dartquant/core/aligned_bytes.hpp>
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
    if (order_.base > 1) base_ = make_base(order_.base);
  }

  [[nodiscard]] index_t channels() const { return channels_; }
  [[nodiscard]] index_t block() const { return block_; }
  [[nodiscard]] HadamardOrder order() const { return order_; }

  /// X <- X H / sqrt(block), in place, rows in parallel. Values that are not finite spread over their block.
  /// Errors: InvalidArgument unless X has channels() columns. Cost per value: power additions, base
  /// multiply-adds; with compiled kernels base / 4 + 3 additions.
  void apply(Cpu const& cpu, MatrixView<float> X) const { transform(cpu, X, Op::transpose); }
  void apply(Cpu const& cpu, MatrixView<double> X) const { transform(cpu, X, Op::transpose); }

  /// X <- X H^T / sqrt(block): undoes apply. Errors and cost as apply.
  void apply_inverse(Cpu const& cpu, MatrixView<float> X) const { transform(cpu, X, Op::none); }
  void apply_inverse(Cpu const& cpu, MatrixView<double> X) const { transform(cpu, X, Op::none); }

  /// The orthonormal matrix [channels, channels]: X matrix() is what apply computes.
  template <class = void>
  [[nodiscard]] RowMatrix<double> matrix() const {
    RowMatrix<double> const H = hadamard_matrix(block_) / std::sqrt(static_cast<double>(block_));
    RowMatrix<double> M = RowMatrix<double>::Zero(channels_, channels_);
    for (index_t first = 0; first < channels_; first += block_) M.block(first, first, block_, block_) = H;
    return M;
  }

 private:
  /// The entries +-1 of the base and of its transpose.
  struct Base {
    RowMatrix<std::int8_t> signs, transposed;
  };
  template <class = void>
  [[nodiscard]] static std::shared_ptr<Base const> make_base(index_t order);

  /// x (A (x) B) for x = vec(V), V [base, 2^power] row-major, is vec(A^T V B): `op` is transpose for A and
  /// none for A^T; B is symmetric.
  template <class T>
  void transform(Cpu const& cpu, MatrixView<T> X, Op op) const;

  /// Whether compiled kernels run this transform, see dartquant_transform.
  [[nodiscard]] bool has_kernel(Cpu const& cpu, MatrixView<float> X) const {
    return cpu.kernels() != nullptr && block_ > 1 && order_.power <= 15 && order_.base <= 1024 &&
           detail::fits_c_matrix(X);
  }

  void transform_in_kernel(CpuKernels const& kernels, MatrixView<float> X,
                           RowMatrix<std::int8_t> const* signs) const {
    dartquant_transform const transform{nullptr, block_, signs == nullptr ? nullptr : signs->data(),
                                        order_.base};
    dartquant_matrix const x = detail::c_matrix(X);
    std::size_t bytes = 0;
    detail::require_done(kernels, "Hadamard", kernels.rows_workspace_size(channels_, &bytes));
    AlignedBytes workspace(bytes);
    detail::require_done(kernels, "Hadamard",
                         kernels.hadamard(&kernels.cpu, &transform, &x, &x, workspace.data(), bytes, 0, 1));
  }

  /// V <- scale A^T V for every block V [base, 2^power] of a row, A = signs. Every sum is formed of four rows
  /// at a time, in order, as
  ///
  ///     a0 ((v0 + a0 a1 v1) + a0 a2 (v2 + a2 a3 v3)),
  ///
  /// which is how the compiled kernels form it, so that both give the same bytes: these find all sums of four
  /// rows first, eight but for the sign. A product with +-1 is exact, whether or not the compiler fuses it
  /// into the sum. The order of a Hadamard matrix beyond 2 is a multiple of four.
  template <class T>
  void multiply_base(MatrixView<T> X, RowMatrix<std::int8_t> const& signs, T scale) const {
    RowMatrix<T> const A = signs.cast<T>();
    index_t const base = order_.base, length = index_t{1} << order_.power;
    bool const wide = length >= base;  // the inner loop runs over the longer side
    RowMatrix<T> sums(wide ? base : length, wide ? length : base);
    for (index_t row = 0; row < X.rows(); ++row)
      for (index_t first = 0; first < channels_; first += block_) {
        auto V = as_eigen(MatrixView<T>(X.data() + row * X.stride() + first, base, length));
        for (index_t i = 0; i < sums.rows(); ++i)
          for (index_t j = 0; j < base; j += 4) {
            auto const add = [&](auto const& four) {
              if (j == 0) sums.row(i) = four.matrix();
              else sums.row(i) += four.matrix();
            };
            auto const a = [&](index_t k) { return A.row(j + k).array(); };
            auto const v = [&](index_t k) { return V.row(j + k).array(); };
            if (wide) {
              T const a0 = A(j, i), a1 = A(j + 1, i), a2 = A(j + 2, i), a3 = A(j + 3, i);
              add(a0 * ((v(0) + a0 * a1 * v(1)) + a0 * a2 * (v(2) + a2 * a3 * v(3))));
            } else {
              T const v0 = V(j, i), v1 = V(j + 1, i), v2 = V(j + 2, i), v3 = V(j + 3, i);
              add(a(0) * ((v0 + a(0) * a(1) * v1) + a(0) * a(2) * (v2 + a(2) * a(3) * v3)));
            }
          }
        if (wide) V = scale * sums;
        else V = scale * sums.transpose();
      }
  }

  index_t channels_ = 0, block_ = 0;
  HadamardOrder order_;
  std::shared_ptr<Base const> base_;
};

template <class>
std::shared_ptr<Hadamard::Base const> Hadamard::make_base(index_t order) {
  RowMatrix<std::int8_t> const signs = detail::hadamard_base_matrix(order).template cast<std::int8_t>();
  return std::make_shared<Base const>(Base{signs, signs.transpose()});
}

template <class T>
void Hadamard::transform(Cpu const& cpu, MatrixView<T> X, Op op) const {
  detail::require(X.cols() == channels_, "[Hadamard] activations of ", X.rows(), " x ", X.cols(),
                  ": the transform is for ", channels_, " channels");
  constexpr index_t values_per_range = 16384;
  index_t const grain = std::max<index_t>(1, values_per_range / channels_);
  RowMatrix<std::int8_t> const* const signs = base_ == nullptr      ? nullptr
                                              : op == Op::transpose ? &base_->signs
                                                                    : &base_->transposed;
  if constexpr (std::is_same_v<T, float>) {
    if (has_kernel(cpu, X)) {
      cpu.parallel_for(X.rows(), grain, [&](index_t first, index_t last) {
        transform_in_kernel(*cpu.kernels(), X.rows(first, last - first), signs);
      });
      return;
    }
  }
  T const scale = static_cast<T>(1.0 / std::sqrt(static_cast<double>(block_)));
  cpu.parallel_for(X.rows(), grain, [&](index_t first, index_t last) {
    MatrixView<T> const rows = X.rows(first, last - first);
    walsh_hadamard<T>(rows, index_t{1} << order_.power);
    if (signs == nullptr) as_eigen(rows) *= scale;
    else multiply_base<T>(rows, *signs, scale);
  });
}

/// The orthonormal matrix diag(s) H / sqrt(channels) with random signs s: QuaRot's rotation. Where no
/// Hadamard matrix of that order is known, H / sqrt(channels) is replaced by Q (x) H_2^power / sqrt(2^power)
/// with channels = odd * 2^power and Q a Haar rotation of order `odd`, so a model of any width can be
/// calibrated; class Hadamard refuses such an order. A function of (channels, seed) alone. Errors:
/// InvalidArgument for channels < 1. Cost: channels^2 memory, odd^3 for Q.
template <class = void>
[[nodiscard]] RowMatrix<double> random_hadamard(index_t channels, std::uint64_t seed) {
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

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template std::shared_ptr<Hadamard::Base const> Hadamard::make_base<void>(index_t);
DARTQUANT_COMPILED template void Hadamard::transform<float>(Cpu const&, MatrixView<float>, Op) const;
DARTQUANT_COMPILED template void Hadamard::transform<double>(Cpu const&, MatrixView<double>, Op) const;
DARTQUANT_COMPILED template RowMatrix<double> random_hadamard<void>(index_t, std::uint64_t);
}  // namespace dartquant
#endif
