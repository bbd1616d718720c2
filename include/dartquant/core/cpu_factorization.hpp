// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include <Eigen/QR>

#include <dartquant/core/cpu.hpp>

/// Members of Cpu that make or use triangular factors. All the work is in products of tiles whose sizes
/// follow from the shapes, so results have the same bytes for any number of threads; nothing is summed by an
/// Eigen reduction, whose order depends on the alignment of the memory.
namespace dartquant {
namespace detail {

inline constexpr index_t triangle_tile = 256;  ///< tiles of Gram and triangular products
inline constexpr index_t triangle_leaf = 64;   ///< diagonal blocks that are inverted

/// Rows of one part of a triangular solve.
[[nodiscard]] inline index_t solve_rows(index_t rows) { return std::clamp<index_t>(rows / 8, 32, 256); }

/// The dot product of two arrays, in 16 lanes that are added in a fixed order.
template <class T>
[[nodiscard]] T dot(T const* a, T const* b, index_t count) {
  constexpr index_t lanes = 16;
  T sums[lanes] = {};
  index_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (index_t lane = 0; lane < lanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  for (index_t lane = 0; i < count; ++i, ++lane) sums[lane] += a[i] * b[i];
  T total = 0;
  for (index_t lane = 0; lane < lanes; ++lane) total += sums[lane];
  return total;
}

/// Calls body(row tile, column tile) for the tiles on and below the diagonal, in parallel.
template <class Body>
void for_lower_tiles(Cpu const& cpu, index_t tiles, Body const& body) {
  cpu.parallel_for(tiles * (tiles + 1) / 2, 1, [&](index_t index, index_t) {
    index_t row = 0;
    while ((row + 1) * (row + 2) / 2 <= index) ++row;
    body(row, index - row * (row + 1) / 2);
  });
}

/// Cholesky of one block on one thread. The failed pivot, or -1.
[[nodiscard]] inline index_t cholesky_block(MatrixView<double> G) {
  for (index_t i = 0; i < G.rows(); ++i) {
    double* const row = &G(i, 0);
    for (index_t j = 0; j < i; ++j) row[j] = (row[j] - dot<double>(row, &G(j, 0), j)) / G(j, j);
    double const pivot = row[i] - dot<double>(row, row, i);
    if (!(pivot > 0) || !std::isfinite(pivot)) return i;
    row[i] = std::sqrt(pivot);
  }
  return -1;
}

/// The inverse of a lower triangular block, formed in FP64.
template <class T>
[[nodiscard]] RowMatrix<T> invert_lower(MatrixView<T const> L) {
  index_t const size = L.rows();
  RowMatrix<double> inverse = RowMatrix<double>::Zero(size, size);
  for (index_t i = 0; i < size; ++i) {
    double const scale = 1 / static_cast<double>(L(i, i));
    for (index_t k = 0; k < i; ++k) {
      double const factor = -static_cast<double>(L(i, k)) * scale;
      for (index_t j = 0; j <= k; ++j) inverse(i, j) += factor * inverse(k, j);
    }
    inverse(i, i) = scale;
  }
  return inverse.template cast<T>();
}

/// The inverses of the diagonal blocks of L, `triangle_leaf` wide.
template <class T>
[[nodiscard]] std::vector<RowMatrix<T>> invert_diagonal(Cpu const& cpu, MatrixView<T const> L) {
  index_t const blocks = (L.rows() + triangle_leaf - 1) / triangle_leaf;
  std::vector<RowMatrix<T>> inverses(static_cast<std::size_t>(blocks));
  cpu.parallel_for(blocks, 1, [&](index_t block, index_t) {
    index_t const first = block * triangle_leaf, size = std::min(triangle_leaf, L.rows() - first);
    inverses[static_cast<std::size_t>(block)] = invert_lower<T>(L.block(first, first, size, size));
  });
  return inverses;
}

/// B <- B op(L)^-1 for the columns [first, last) of a few rows, by halves: what is left to do beside the
/// inverted diagonal blocks are products, the largest possible ones.
template <class T>
void solve_columns(Cpu const& cpu, MatrixView<T const> L, Op op, std::vector<RowMatrix<T>> const& inverses,
                   index_t first, index_t last, MatrixView<T> B) {
  if (last - first <= triangle_leaf) {
    RowMatrix<T> const& inverse = inverses[static_cast<std::size_t>(first / triangle_leaf)];
    MatrixView<T const> const D = MatrixView<T const>(inverse).block(0, 0, last - first, last - first);
    MatrixView<T> const columns = B.columns(first, last - first);
    RowMatrix<T> const copy = as_eigen(columns);
    return gemm_tile<T>(cpu, T(1), copy, Op::none, D, op, T(0), columns);
  }
  index_t const middle = first + (last - first + 2 * triangle_leaf - 1) / (2 * triangle_leaf) * triangle_leaf;
  MatrixView<T> const left = B.columns(first, middle - first), right = B.columns(middle, last - middle);
  MatrixView<T const> const below = L.block(middle, first, last - middle, middle - first);
  if (op == Op::transpose) {
    solve_columns<T>(cpu, L, op, inverses, first, middle, B);
    gemm_tile<T>(cpu, T(-1), left, Op::none, below, Op::transpose, T(1), right);
    solve_columns<T>(cpu, L, op, inverses, middle, last, B);
  } else {
    solve_columns<T>(cpu, L, op, inverses, middle, last, B);
    gemm_tile<T>(cpu, T(-1), right, Op::none, below, Op::none, T(1), left);
    solve_columns<T>(cpu, L, op, inverses, first, middle, B);
  }
}

}  // namespace detail

template <class T>
void Cpu::gram(std::type_identity_t<MatrixView<T const>> Z, MatrixView<double> G) const {
  detail::require(G.rows() == Z.cols() && G.cols() == Z.cols(), "[gram] ", G.rows(), " x ", G.cols(),
                  " for the Gram matrix of ", Z.cols(), " columns: the shapes do not fit");
  RowMatrix<double> wide;
  MatrixView<double const> z;
  if constexpr (std::is_same_v<T, double>) {
    z = Z;
  } else {
    wide.resize(Z.rows(), Z.cols());
    copy(Z, MatrixView<double>(wide));
    z = wide;
  }
  index_t const n = Z.cols(), tile = detail::triangle_tile;
  detail::for_lower_tiles(*this, (n + tile - 1) / tile, [&](index_t i, index_t j) {
    index_t const row = i * tile, col = j * tile, height = std::min(tile, n - row),
                  width = std::min(tile, n - col);
    detail::gemm_tile<double>(*this, 1, z.columns(row, height), Op::transpose, z.columns(col, width),
                              Op::none, 0, G.block(row, col, height, width));
  });
}

template <class>
CholeskyStatus Cpu::cholesky(MatrixView<double> G) const {
  detail::require(G.rows() == G.cols(), "[cholesky] ", G.rows(), " x ", G.cols(),
                  ": a square matrix is needed");
  index_t const n = G.rows(), step = 2 * detail::triangle_leaf, tile = detail::triangle_tile;
  for (index_t first = 0; first < n; first += step) {
    index_t const width = std::min(step, n - first), next = first + width, left = n - next;
    MatrixView<double> const diagonal = G.block(first, first, width, width);
    if (index_t const failed = detail::cholesky_block(diagonal); failed >= 0) return {first + failed};
    if (left == 0) break;
    MatrixView<double> const panel = G.block(next, first, left, width);
    solve_lower<double>(diagonal, Op::transpose, panel);
    detail::for_lower_tiles(*this, (left + tile - 1) / tile, [&](index_t i, index_t j) {
      index_t const row = i * tile, col = j * tile;
      index_t const height = std::min(tile, left - row), across = std::min(tile, left - col);
      detail::gemm_tile<double>(*this, -1, panel.rows(row, height), Op::none, panel.rows(col, across),
                                Op::transpose, 1, G.block(next + row, next + col, height, across));
    });
  }
  parallel_for(n, 64, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) std::fill(G.row(i).begin() + i + 1, G.row(i).end(), 0.0);
  });
  return {};
}

template <class T>
double Cpu::condition_estimate(MatrixView<T> L) const {
  using Value = std::remove_const_t<T>;
  index_t const n = L.rows();
  if (n == 0) return 1;
  std::vector<Value> x(static_cast<std::size_t>(n)), y(x.size());
  auto const at = [](index_t i) { return static_cast<std::size_t>(i); };
  auto const restart = [&] {  // a fixed start with a component along everything
    for (index_t i = 0; i < n; ++i)
      x[at(i)] = static_cast<Value>(1 + 0.5 * std::cos(2.3 * static_cast<double>(i * i % 1009)));
  };
  auto const normalize = [&](std::vector<Value>& v) {
    double const norm = std::sqrt(static_cast<double>(detail::dot<Value>(v.data(), v.data(), n)));
    for (Value& value : v) value = static_cast<Value>(static_cast<double>(value) / norm);
    return norm;
  };
  double largest = 0, inverse_smallest = 0;
  restart();
  for (int round = 0; round < 3; ++round) {  // x <- L L^T x
    normalize(x);
    std::fill(y.begin(), y.end(), Value(0));
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j <= i; ++j) y[at(j)] += x[at(i)] * L(i, j);
    largest = normalize(y);
    for (index_t i = 0; i < n; ++i) x[at(i)] = detail::dot<Value>(&L(i, 0), y.data(), i + 1);
  }
  restart();
  for (int round = 0; round < 2; ++round) {  // x <- (L L^T)^-1 x
    normalize(x);
    for (index_t i = 0; i < n; ++i)
      y[at(i)] = (x[at(i)] - detail::dot<Value>(&L(i, 0), y.data(), i)) / L(i, i);
    inverse_smallest = normalize(y);
    for (index_t i = n - 1; i >= 0; --i) {
      x[at(i)] = y[at(i)] /= L(i, i);
      for (index_t j = 0; j < i; ++j) y[at(j)] -= x[at(i)] * L(i, j);
    }
  }
  double const condition = largest * inverse_smallest;
  return std::isfinite(condition) ? std::max(1.0, condition) : std::numeric_limits<double>::infinity();
}

template <class T>
void Cpu::solve_lower(std::type_identity_t<MatrixView<T const>> L, Op op,
                      std::type_identity_t<MatrixView<T>> B, Fill fill) const {
  detail::require(L.rows() == L.cols() && B.cols() == L.rows(), "[solve_lower] ", B.rows(), " x ", B.cols(),
                  " by the inverse of ", L.rows(), " x ", L.cols(), ": the shapes do not fit");
  detail::require(fill == Fill::full || (op == Op::none && B.rows() == B.cols()), "[solve_lower] ", B.rows(),
                  " x ", B.cols(), " with Fill::lower: only a square B with Op::none stays lower triangular");
  auto const inverses = detail::invert_diagonal<T>(*this, L);
  index_t const grain = detail::solve_rows(B.rows()), parts = (B.rows() + grain - 1) / grain;
  parallel_for(parts, 1, [&](index_t part, index_t) {
    index_t const first = (parts - 1 - part) * grain;  // the longest rows of a lower triangle first
    index_t const rows = std::min(grain, B.rows() - first);
    // Whole blocks: the inverse of the last one is that of a whole diagonal block of L.
    index_t const reach =
        (first + rows + detail::triangle_leaf - 1) / detail::triangle_leaf * detail::triangle_leaf;
    index_t const last = fill == Fill::lower ? std::min(L.rows(), reach) : L.rows();
    if (last > 0) detail::solve_columns<T>(*this, L, op, inverses, 0, last, B.rows(first, rows));
  });
}

template <class T>
void Cpu::multiply_lower(std::type_identity_t<MatrixView<T const>> A,
                         std::type_identity_t<MatrixView<T const>> L,
                         std::type_identity_t<MatrixView<T>> C) const {
  detail::require(
      A.cols() == L.rows() && L.rows() == L.cols() && C.rows() == A.rows() && C.cols() == L.cols(),
      "[multiply_lower] ", A.rows(), " x ", A.cols(), " times ", L.rows(), " x ", L.cols(), " into ",
      C.rows(), " x ", C.cols(), ": the shapes do not fit");
  index_t const tile = detail::triangle_tile, depth = L.rows();
  index_t const down = (A.rows() + tile - 1) / tile, across = (depth + tile - 1) / tile;
  parallel_for(down * across, 1, [&](index_t index, index_t) {
    index_t const col = index / down * tile, row = index % down * tile;  // the deepest products first
    index_t const height = std::min(tile, A.rows() - row), width = std::min(tile, depth - col);
    detail::gemm_tile<T>(*this, T(1), A.block(row, col, height, depth - col), Op::none,
                         L.block(col, col, depth - col, width), Op::none, T(0),
                         C.block(row, col, height, width));
  });
}

template <class T>
void Cpu::set_diagonal(T value, std::type_identity_t<MatrixView<T>> A) const {
  for (index_t i = 0; i < A.rows(); ++i) {
    std::fill(A.row(i).begin(), A.row(i).end(), T(0));
    if (i < A.cols()) A(i, i) = value;
  }
}

template <class T>
void Cpu::skew_lower(std::type_identity_t<MatrixView<T>> A) const {
  detail::require(A.rows() == A.cols(), "[skew_lower] ", A.rows(), " x ", A.cols(),
                  ": a square matrix is needed");
  index_t const n = A.rows(), tile = 64;
  detail::for_lower_tiles(*this, (n + tile - 1) / tile, [&](index_t i, index_t j) {
    index_t const row_end = std::min(n, (i + 1) * tile), col_end = std::min(n, (j + 1) * tile);
    for (index_t row = i * tile; row < row_end; ++row)
      for (index_t col = j * tile; col < std::min(row, col_end); ++col) {
        A(row, col) -= A(col, row);
        A(col, row) = T(0);
      }
    if (i == j)
      for (index_t row = i * tile; row < row_end; ++row) A(row, row) = T(0);
  });
}

template <class T>
void Cpu::householder_qr(std::type_identity_t<MatrixView<T const>> Z, std::type_identity_t<MatrixView<T>> Q,
                         MatrixView<double> L) const {
  index_t const n = Z.rows();
  detail::require(Z.cols() == n && Q.rows() == n && Q.cols() == n && L.rows() == n && L.cols() == n,
                  "[householder_qr] ", n, " x ", Z.cols(),
                  ": a square matrix and factors of its shape are needed");
  Eigen::HouseholderQR<Eigen::MatrixXd> const qr(as_eigen(Z).template cast<double>().eval());
  Eigen::MatrixXd const q = qr.householderQ();
  for (index_t k = 0; k < n; ++k) {  // Q diag(s) and diag(s) U, with s the signs of the diagonal of U
    double const sign = qr.matrixQR()(k, k) < 0 ? -1 : 1;
    for (index_t i = 0; i < n; ++i) Q(i, k) = static_cast<T>(sign * q(i, k));
    for (index_t i = 0; i < n; ++i) L(i, k) = i < k ? 0 : sign * qr.matrixQR()(k, i);
  }
}

}  // namespace dartquant
