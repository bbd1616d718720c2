// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <Eigen/QR>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/random.hpp>

namespace dartquant {

namespace detail {

/// Throws unless R is square, not empty and finite.
inline void require_square_finite(char const* who, MatrixView<double const> R) {
  require(R.rows() == R.cols() && R.rows() >= 1, "[", who, "] rotation of ", R.rows(), " x ", R.cols(),
          ": must be square and not empty");
  for (index_t i = 0; i < R.rows(); ++i)
    for (index_t j = 0; j < R.cols(); ++j)
      require(std::isfinite(R(i, j)), "[", who, "] rotation entry (", i, ", ", j, ") is ", R(i, j),
              ": every entry must be finite");
}

/// E = R^T R - I, upper triangle only. Half the work of a full product.
template <class = void>
[[nodiscard]] RowMatrix<double> gram_error(Cpu const& cpu, MatrixView<double const> R) {
  constexpr index_t panel = 512;
  index_t const n = R.cols();
  RowMatrix<double> E(n, n);
  for (index_t first = 0; first < n; first += panel) {
    index_t const width = std::min(panel, n - first);
    cpu.gemm<double>(1.0, R.columns(0, first + width), Op::transpose, R.columns(first, width), Op::none, 0.0,
                     MatrixView<double>(E).block(0, first, first + width, width));
  }
  E.diagonal().array() -= 1.0;
  return E;
}

/// max |R^T R - I|; infinite when an entry of the product is not finite.
[[nodiscard]] inline double largest_gram_error(RowMatrix<double> const& E) {
  double largest = 0;
  for (index_t i = 0; i < E.rows(); ++i)
    for (index_t j = i; j < E.cols(); ++j) {
      if (!std::isfinite(E(i, j))) return std::numeric_limits<double>::infinity();
      largest = std::max(largest, std::abs(E(i, j)));
    }
  return largest;
}

}  // namespace detail

/// |I - R^T R|_1 / (n eps), eps = 2^-24 of single precision: LAPACK's test ratio of an orthonormal matrix R
/// [n, n], below 30 when R is orthonormal to single precision. The norm is the largest column sum of
/// magnitudes; computed in double. Infinite when an entry is not finite. Errors: InvalidArgument unless R is
/// square and not empty. Cost: n^3 multiply-adds, n^2 memory. Source: LAPACK working note 41, xQRT01.
template <class = void>
[[nodiscard]] double orthogonality_ratio(Cpu const& cpu, MatrixView<double const> R) {
  detail::require(R.rows() == R.cols() && R.rows() >= 1, "[orthogonality_ratio] rotation of ", R.rows(),
                  " x ", R.cols(), ": must be square and not empty");
  RowMatrix<double> const E = detail::gram_error(cpu, R);
  index_t const n = R.rows();
  std::vector<double> sums(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i)
    for (index_t j = i; j < n; ++j) {
      double const error = std::abs(E(i, j));
      if (!std::isfinite(error)) return std::numeric_limits<double>::infinity();
      sums[static_cast<std::size_t>(j)] += error;
      if (i != j) sums[static_cast<std::size_t>(i)] += error;
    }
  return *std::max_element(sums.begin(), sums.end()) / (static_cast<double>(n) * 0x1p-24);
}

/// The same on the calling thread.
template <class = void>
[[nodiscard]] double orthogonality_ratio(MatrixView<double const> R) {
  return orthogonality_ratio(Cpu(1), R);
}

/// orthogonality_ratio(R) < 30, LAPACK's threshold; false when an entry is not finite.
template <class = void>
[[nodiscard]] bool is_orthonormal(Cpu const& cpu, MatrixView<double const> R) {
  return orthogonality_ratio(cpu, R) < 30;
}

/// The same on the calling thread.
template <class = void>
[[nodiscard]] bool is_orthonormal(MatrixView<double const> R) {
  return is_orthonormal(Cpu(1), R);
}

/// A random orthogonal matrix [n, n], uniform (Haar) on the orthogonal group: the Q of the QR factorisation
/// of a Gaussian matrix, its columns' signs chosen so that the triangular factor has a positive diagonal. The
/// determinant is +1 or -1. A function of (n, seed) alone. Errors: InvalidArgument for n < 1. Cost: 8/3 n^3
/// on the calling thread. Source: Mezzadri, "How to generate random matrices from the classical compact
/// groups", 2007.
template <class = void>
[[nodiscard]] RowMatrix<double> haar_rotation(index_t n, std::uint64_t seed) {
  detail::require(n >= 1, "[haar_rotation] order ", n, ": must be at least 1");
  Philox const random(seed);
  Eigen::MatrixXd gaussian(n, n);
  for (index_t j = 0; j < n; ++j)
    for (index_t i = 0; i < n; ++i) gaussian(i, j) = random.normal(static_cast<std::uint64_t>(i * n + j));
  Eigen::HouseholderQR<Eigen::Ref<Eigen::MatrixXd>> const qr(gaussian);
  RowMatrix<double> Q = qr.householderQ();
  for (index_t j = 0; j < n; ++j)
    if (qr.matrixQR()(j, j) < 0) Q.col(j) *= -1.0;
  return Q;
}

/// R <- the nearest orthonormal matrix (its polar factor), in place, until max |R^T R - I| <= 1e-12: the
/// Newton-Schulz iteration R <- R (3 I - R^T R) / 2, quadratic near the end (one or two steps from single
/// precision). On an error R is unchanged. Errors: InvalidArgument unless R is square and finite;
/// Error(numerics) when 12 steps do not suffice, as for a singular matrix. Cost: 3 n^3 multiply-adds per
/// step. Source: Higham, "Functions of Matrices", 2008, section 8.3.
template <class = void>
void reorthonormalize(Cpu const& cpu, MatrixView<double> R) {
  constexpr double target = 1e-12;
  constexpr int most_steps = 12;
  detail::require_square_finite("reorthonormalize", R);
  RowMatrix<double> current = as_eigen(R), next(R.rows(), R.cols());
  double error = 0;
  for (int step = 0; step <= most_steps; ++step) {
    RowMatrix<double> E = detail::gram_error(cpu, current);
    error = detail::largest_gram_error(E);
    if (error <= target) {
      as_eigen(R) = current;
      return;
    }
    if (step == most_steps || !std::isfinite(error)) break;
    E.triangularView<Eigen::StrictlyLower>() = E.transpose();
    next = current;  // R - R (R^T R - I) / 2
    cpu.gemm<double>(-0.5, current, Op::none, E, Op::none, 1.0, next);
    current.swap(next);
  }
  detail::fail(Error::Kind::numerics, "[reorthonormalize] max |R^T R - I| = ", error, " after ", most_steps,
               " polar steps: the ", R.rows(), " x ", R.cols(),
               " matrix is too far from orthonormal; start from the Q of its QR factorisation");
}

namespace detail {

/// Rows of W at a time in double: bounds the extra memory of a fold.
inline constexpr index_t fold_rows = 512;

template <class T>
void rotate_inputs(Cpu const& cpu, MatrixView<T> W, MatrixView<double const> R) {
  require_square_finite("rotate_inputs", R);
  require(W.cols() == R.rows(), "[rotate_inputs] weight of ", W.rows(), " x ", W.cols(), " and rotation of ",
          R.rows(), " x ", R.cols(), ": the rotation must have as many rows as the weight has columns");
  RowMatrix<double> wide, rotated;
  for (index_t first = 0; first < W.rows(); first += fold_rows) {
    auto part = as_eigen(W.rows(first, std::min(fold_rows, W.rows() - first)));
    wide = part.template cast<double>();
    rotated.resize(part.rows(), part.cols());
    cpu.gemm<double>(1.0, wide, Op::none, R, Op::none, 0.0, rotated);
    part = rotated.template cast<T>();
  }
}

template <class T>
void rotate_outputs(Cpu const& cpu, MatrixView<T> W, MatrixView<double const> R) {
  require_square_finite("rotate_outputs", R);
  require(W.rows() == R.rows(), "[rotate_outputs] weight of ", W.rows(), " x ", W.cols(), " and rotation of ",
          R.rows(), " x ", R.cols(), ": the rotation must have as many rows as the weight has rows");
  RowMatrix<double> wide, rotated;
  for (index_t first = 0; first < W.cols(); first += fold_rows) {
    auto part = as_eigen(W.columns(first, std::min(fold_rows, W.cols() - first)));
    wide = part.template cast<double>();
    rotated.resize(part.rows(), part.cols());
    cpu.gemm<double>(1.0, R, Op::transpose, wide, Op::none, 0.0, rotated);
    part = rotated.template cast<T>();
  }
}

template <class T>
[[nodiscard]] RowMatrix<T> apply_rotation(Cpu const& cpu, MatrixView<double const> R, MatrixView<T const> X) {
  require_square_finite("apply", R);
  require(X.cols() == R.rows(), "[apply] activations of ", X.rows(), " x ", X.cols(), " and rotation of ",
          R.rows(), " x ", R.cols(),
          ": the rotation must have as many rows as the activations have channels");
  RowMatrix<T> const narrow = as_eigen(R).template cast<T>();
  RowMatrix<T> Y(X.rows(), X.cols());
  cpu.gemm<T>(T(1), X, Op::none, narrow, Op::none, T(0), Y);
  return Y;
}

}  // namespace detail

/// W [out, channels] <- W R, accumulated in FP64 and rounded once: the input side of a linear layer, so that
/// X W^T = (X R) (W R)^T. Errors: InvalidArgument when shapes do not fit or R is not finite. Cost: out
/// channels^2 multiply-adds; 16 * 512 * channels bytes.
template <class = void>
void rotate_inputs(Cpu const& cpu, MatrixView<float> W, MatrixView<double const> R) {
  detail::rotate_inputs(cpu, W, R);
}
template <class = void>
void rotate_inputs(Cpu const& cpu, MatrixView<double> W, MatrixView<double const> R) {
  detail::rotate_inputs(cpu, W, R);
}

/// W [out, channels] <- R^T W, accumulated in FP64 and rounded once: the output side of a linear layer, so
/// that X W'^T = (X W^T) R. A bias is the view {data, out, 1}. Errors: InvalidArgument when shapes do not fit
/// or R is not finite. Cost: out^2 channels multiply-adds; 16 * 512 * out bytes.
template <class = void>
void rotate_outputs(Cpu const& cpu, MatrixView<float> W, MatrixView<double const> R) {
  detail::rotate_outputs(cpu, W, R);
}
template <class = void>
void rotate_outputs(Cpu const& cpu, MatrixView<double> W, MatrixView<double const> R) {
  detail::rotate_outputs(cpu, W, R);
}

/// X R for activations X [tokens, channels], in the precision of X. Errors: InvalidArgument when shapes do
/// not fit or R is not finite. Cost: tokens channels^2 multiply-adds.
template <class = void>
[[nodiscard]] RowMatrix<float> apply(Cpu const& cpu, MatrixView<double const> R, MatrixView<float const> X) {
  return detail::apply_rotation<float>(cpu, R, X);
}
template <class = void>
[[nodiscard]] RowMatrix<double> apply(Cpu const& cpu, MatrixView<double const> R,
                                      MatrixView<double const> X) {
  return detail::apply_rotation<double>(cpu, R, X);
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template RowMatrix<double> detail::gram_error<void>(Cpu const&, MatrixView<double const>);
DARTQUANT_COMPILED template double orthogonality_ratio<void>(Cpu const&, MatrixView<double const>);
DARTQUANT_COMPILED template RowMatrix<double> haar_rotation<void>(index_t, std::uint64_t);
DARTQUANT_COMPILED template void reorthonormalize<void>(Cpu const&, MatrixView<double>);
DARTQUANT_COMPILED template void detail::rotate_inputs<float>(Cpu const&, MatrixView<float>,
                                                              MatrixView<double const>);
DARTQUANT_COMPILED template void detail::rotate_inputs<double>(Cpu const&, MatrixView<double>,
                                                               MatrixView<double const>);
DARTQUANT_COMPILED template void detail::rotate_outputs<float>(Cpu const&, MatrixView<float>,
                                                               MatrixView<double const>);
DARTQUANT_COMPILED template void detail::rotate_outputs<double>(Cpu const&, MatrixView<double>,
                                                                MatrixView<double const>);
DARTQUANT_COMPILED template RowMatrix<float> detail::apply_rotation<float>(Cpu const&,
                                                                           MatrixView<double const>,
                                                                           MatrixView<float const>);
DARTQUANT_COMPILED template RowMatrix<double> detail::apply_rotation<double>(Cpu const&,
                                                                             MatrixView<double const>,
                                                                             MatrixView<double const>);
}  // namespace dartquant
#endif
