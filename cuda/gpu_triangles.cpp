// SPDX-License-Identifier: Apache-2.0
// Factors of large matrices by blocks: products do nearly all of the work, and our kernels factor and invert
// the blocks on the diagonal (one chain of steps, so its length counts).
#include <algorithm>
#include <cmath>
#include <limits>

#include <dartquant/cuda/gpu.hpp>

#include "blas.hpp"
#include "machine.hpp"
#include "passes.hpp"
#include "split_products.hpp"

namespace dartquant::cuda {
namespace {

/// Order of the blocks that our kernels factor or invert, and of the inverses by which triangles are solved:
/// so large that a product with one, of some thousand rows, fills the device.
constexpr index_t factor = 128, leaf = 512;

template <class T>
[[nodiscard]] DeviceMatrixView<T const> constant(DeviceMatrixView<T> A) {
  return A;
}

/// to <- from.
template <class T>
void copy_block(cudaStream_t stream, DeviceMatrixView<T const> from, DeviceMatrixView<T> to) {
  auto const bytes = [](index_t values) { return static_cast<std::size_t>(values) * sizeof(T); };
  check(cudaMemcpy2DAsync(to.data(), bytes(to.stride()), from.data(), bytes(from.stride()),
                          bytes(from.cols()), static_cast<std::size_t>(from.rows()), cudaMemcpyDeviceToDevice,
                          stream));
}

/// The inverses of the blocks of order `leaf` on the diagonal of L, one above the other, zeros above their
/// diagonals; from blocks of order `factor` by
///
///     [A 0; B C]^-1 = [A^-1 0; -C^-1 B A^-1 C^-1].
template <class T>
[[nodiscard]] DeviceMatrix<T> invert_leaves(Machine const& m, DeviceMatrixView<T const> L) {
  index_t const n = L.rows(), width = std::min(n, leaf);
  auto inverses = m.matrix<T>(n, width);
  DeviceMatrixView<T> const V = inverses;
  invert_diagonal<T>(m.stream, L, V);
  auto space = m.matrix<T>((n + leaf - 1) / leaf * leaf / 2, leaf / 2);
  for (index_t half = factor; half < width; half *= 2)
    for (index_t within = 0; within < width; within += 2 * half) {
      // The pairs of all leaves that begin here and are whole; then one that ends with the matrix.
      auto const merge = [&](index_t first, index_t rest, index_t count) {
        DeviceMatrixView<T> const product(space.view().data(), rest, half, half);
        T const one = 1, minus = -1;
        multiply<T>(m.blas, one, L.block(first + half, first, rest, half), Op::none,
                    V.block(first, within, half, half), Op::none, 0, product, full_precision<T>, count,
                    {leaf * (L.stride() + 1), leaf * V.stride(), rest * half});
        multiply<T>(m.blas, minus, V.block(first + half, within + half, rest, rest), Op::none, product,
                    Op::none, 0, V.block(first + half, within, rest, half), full_precision<T>, count,
                    {leaf * V.stride(), rest * half, leaf * V.stride()});
      };
      index_t const whole = n >= within + 2 * half ? (n - within - 2 * half) / leaf + 1 : 0,
                    next = within + whole * leaf;
      if (whole > 0) merge(within, half, whole);
      if (next + half < n && n < next + 2 * half) merge(next, n - next - half, 1);
    }
  return inverses;
}

/// A triangle and the inverses of the leaves on its diagonal: B <- B op(L)^-1 by leaves.
template <class T>
struct Solver {
  Machine const& m;
  DeviceMatrixView<T const> L;
  DeviceMatrixView<T const> V;
  DeviceMatrixView<T> space;  ///< as many rows as B, `leaf` columns

  /// With the columns of B and the rows and columns of L from `first`, `order` many of each.
  void solve(Op op, DeviceMatrixView<T> B, index_t first, index_t order) const {
    index_t const last = first + order;
    index_t const leaves = (order + leaf - 1) / leaf;
    for (index_t step = 0; step < leaves; ++step) {
      index_t const at = first + (op == Op::none ? leaves - 1 - step : step) * leaf,
                    width = std::min(leaf, last - at);
      DeviceMatrixView<T> const own = B.columns(at - first, width), rest = space.block(0, 0, B.rows(), width);
      copy_block<T>(m.stream, own, rest);
      T const minus = -1, one = 1;
      if (op == Op::transpose && at > first)  // X L^T = B
        multiply<T>(m.blas, minus, B.columns(0, at - first), Op::none, L.block(at, first, width, at - first),
                    Op::transpose, 1, rest);
      if (op == Op::none && at + width < last)  // X L = B
        multiply<T>(m.blas, minus, B.columns(at + width - first, last - at - width), Op::none,
                    L.block(at + width, at, last - at - width, width), Op::none, 1, rest);
      multiply<T>(m.blas, one, rest, Op::none, V.block(at, 0, width, width), op, 0, own);
    }
  }

  /// B <- B L^-1 for B lower triangular, by halves: from X L = B
  ///
  ///     X22 = B22 L22^-1,   X21 = (B21 - X22 L21) L11^-1,   X11 = B11 L11^-1:
  ///
  /// half the n^3 operations of a full B.
  void solve_triangle(DeviceMatrixView<T> B, index_t first, index_t order) const {
    if (order <= leaf) return solve(Op::none, B, first, order);
    index_t const half = (order / leaf + 1) / 2 * leaf, rest = order - half;
    DeviceMatrixView<T> const X22 = B.block(half, half, rest, rest), X21 = B.block(half, 0, rest, half);
    solve_triangle(X22, first + half, rest);
    T const minus = -1;
    multiply<T>(m.blas, minus, X22, Op::none, L.block(first + half, first, rest, half), Op::none, 1, X21);
    solve(Op::none, X21, first, half);
    solve_triangle(B.block(0, 0, half, half), first, half);
  }
};

}  // namespace

/// Right-looking, a panel of 128 columns at a time; what lies right of four panels is updated once for all
/// of them. The next block of the diagonal comes first in every update, so that it is factored on the side
/// while the rest is updated. Panels are formed in a buffer and go back to their places on the side as well.
CholeskyStatus Gpu::cholesky(DeviceMatrixView<double> G) const {
  detail::require(G.rows() == G.cols(), "[cholesky] ", G.rows(), " x ", G.cols(),
                  ": a square matrix is needed");
  index_t const n = G.rows();
  if (n == 0) return {};
  Machine& m = *machine_;
  auto const scope = enter();
  auto inverse = m.matrix<double>(factor, factor), panels = m.matrix<double>(n, std::min(n, leaf));
  double const one = 1, minus = -1;
  auto const width_at = [&](index_t at) { return std::min(factor, n - at); };
  auto const inverted = [&](index_t at) {
    return DeviceMatrixView<double>(inverse.view().data(), width_at(at), width_at(at), factor);
  };
  auto const factor_block = [&](cudaStream_t on, index_t at) {
    factor_diagonal(on, G.block(at, at, width_at(at), width_at(at)), inverted(at), at, m.info.data());
  };
  auto const subtract = [&](DeviceMatrixView<double const> rows, DeviceMatrixView<double const> columns,
                            DeviceMatrixView<double> from) {
    multiply<double>(m.blas, minus, rows, Op::none, columns, Op::transpose, 1, from);
  };
  factor_block(stream(), 0);
  for (index_t first = 0; first < n; first += leaf) {
    index_t const end = std::min(n, first + leaf);
    for (index_t at = first; at < end; at += factor) {
      index_t const next = at + width_at(at), below = n - next;
      if (below == 0) break;
      DeviceMatrixView<double> const place = G.block(next, at, below, width_at(at)),
                                     panel = panels.view().block(next, at - first, below, width_at(at));
      if (at > 0) m.side.join(stream());
      multiply<double>(m.blas, one, place, Op::none, inverted(at), Op::transpose, 0, panel);
      // Of the next block's row and column of blocks: those of this leaf take what this panel brings, others
      // what the whole leaf does.
      index_t const width = width_at(next), rest = below - width;
      DeviceMatrixView<double> const left =
          next < end ? panel : panels.view().block(next, 0, below, end - first);
      subtract(left.rows(0, width), left.rows(0, width), G.block(next, next, width, width));
      m.side.follow(stream());
      factor_block(m.side.stream(), next);
      m.side.mark();
      copy_block<double>(m.side.stream(), panel, place);
      if (rest == 0) continue;
      index_t const across = next < end ? end - next : width;
      subtract(left.rows(width, rest), left.rows(0, across), G.block(next + width, next, rest, across));
      if (next < end) continue;
      DeviceMatrixView<double> const others = left.rows(width, rest);
      check(cublasDsyrk(m.blas, CUBLAS_FILL_MODE_UPPER, CUBLAS_OP_T, as_int(rest), as_int(others.cols()),
                        &minus, others.data(), as_int(others.stride()), &one, &G(next + width, next + width),
                        as_int(G.stride())));
    }
  }
  if (n > factor) {
    m.side.mark();
    m.side.join(stream());
  }
  clear_upper<double>(stream(), G);
  int const info = m.read_info();
  return {info > 0 ? index_t{info} - 1 : -1};
}

bool Gpu::solves_wide() const { return machine_->gram_in_float64; }

template <class T>
double Gpu::condition_estimate(DeviceMatrixView<T> L) const {
  using Value = std::remove_const_t<T>;
  index_t const n = L.rows();
  detail::require(L.cols() == n, "[condition_estimate] ", n, " x ", L.cols(), ": a square matrix is needed");
  if (n == 0) return 1;
  Machine& m = *machine_;
  auto const scope = enter();
  auto vectors = m.matrix<double>(3, n);
  double *x = vectors.data(), *y = x + n, *const rest = y + n;
  DeviceMatrixView<Value const> const lower = L;
  auto const square_sum = [&](double const* v, int slot) {
    enqueue_square_sum<double>(DeviceMatrixView<double const>(v, 1, n), slot);
  };

  start_vector(stream(), {x, n});
  constexpr int products = 5;  // x <- L L^T x, two and a half times
  for (int i = 0; i < products; ++i) {
    if (i + 1 == products) square_sum(x, 0);
    multiply_vector<Value>(stream(), lower, i % 2 == 0 ? Op::transpose : Op::none, Fill::lower, x, nullptr, 1,
                           y);
    std::swap(x, y);
  }
  square_sum(x, 1);

  auto const inverses = invert_leaves<Value>(m, lower);
  DeviceMatrixView<Value const> const V = inverses.view();
  index_t const leaves = (n + leaf - 1) / leaf;
  start_vector(stream(), {x, n});
  constexpr int solves = 3;  // x <- (L L^T)^-1 x, one and a half times
  for (int i = 0; i < solves; ++i) {
    if (i + 1 == solves) square_sum(x, 2);
    Op const op = i % 2 == 0 ? Op::none : Op::transpose;
    for (index_t step = 0; step < leaves; ++step) {  // in y
      index_t const at = (op == Op::none ? step : leaves - 1 - step) * leaf, width = std::min(leaf, n - at),
                    after = n - at - width;
      if (op == Op::none)
        multiply_vector<Value>(stream(), lower.block(at, 0, width, at), op, Fill::full, y, x + at, -1, rest);
      else
        multiply_vector<Value>(stream(), lower.block(at + width, at, after, width), op, Fill::full,
                               y + at + width, x + at, -1, rest);
      multiply_vector<Value>(stream(), V.block(at, 0, width, width), op, Fill::lower, rest, nullptr, 1,
                             y + at);
    }
    std::swap(x, y);
  }
  square_sum(x, 3);
  auto const squares = read_scalars<4>();
  double const condition = std::sqrt(squares[1] / squares[0]) * std::sqrt(squares[3] / squares[2]);
  return std::isfinite(condition) ? std::max(1.0, condition) : std::numeric_limits<double>::infinity();
}

template <class T>
void Gpu::solve_lower(std::type_identity_t<DeviceMatrixView<T const>> L, Op op,
                      std::type_identity_t<DeviceMatrixView<T>> B, Fill fill) const {
  detail::require(L.rows() == L.cols() && B.cols() == L.rows(), "[solve_lower] ", B.rows(), " x ", B.cols(),
                  " by the inverse of ", L.rows(), " x ", L.cols(), ": the shapes do not fit");
  detail::require(fill == Fill::full || (op == Op::none && B.rows() == B.cols()), "[solve_lower] ", B.rows(),
                  " x ", B.cols(), " with Fill::lower: only a square B with Op::none stays lower triangular");
  if (B.rows() == 0 || B.cols() == 0) return;
  Machine const& m = *machine_;
  auto const scope = enter();
  auto const inverses = invert_leaves<T>(m, L);
  auto columns = m.matrix<T>(B.rows(), std::min(leaf, L.rows()));
  Solver<T> const solver{m, L, inverses.view(), columns};
  if (fill == Fill::lower) solver.solve_triangle(B, 0, L.rows());
  else solver.solve(op, B, 0, L.rows());
}

template <class T>
void Gpu::multiply_lower(std::type_identity_t<DeviceMatrixView<T const>> A,
                         std::type_identity_t<DeviceMatrixView<T const>> L,
                         std::type_identity_t<DeviceMatrixView<T>> C) const {
  detail::require(
      A.cols() == L.rows() && L.rows() == L.cols() && C.rows() == A.rows() && C.cols() == L.cols(),
      "[multiply_lower] ", A.rows(), " x ", A.cols(), " times ", L.rows(), " x ", L.cols(), " into ",
      C.rows(), " x ", C.cols(), ": the shapes do not fit");
  index_t const n = L.rows();
  auto const scope = enter();
  if constexpr (sizeof(T) == sizeof(float))
    if (splits(*machine_, A.rows(), n, n / 2)) {
      constexpr index_t width = 2 * leaf;  // these products are short, and fill the device only when wide
      SplitMatrix const left(*machine_, A), right(*machine_, L);
      for (index_t at = 0; at < n; at += width) {
        index_t const cols = std::min(width, n - at);
        multiply_split(machine_->blas, 1, left.halves().block(0, at, A.rows(), n - at), Op::none,
                       right.halves().block(at, at, n - at, cols), Op::none, 0, C.columns(at, cols));
      }
      return;
    }
  for (index_t at = 0; at < n; at += leaf) {  // the rows of L from the diagonal on
    index_t const width = std::min(leaf, n - at);
    T const one = 1;
    multiply<T>(machine_->blas, one, A.columns(at, n - at), Op::none, L.block(at, at, n - at, width),
                Op::none, 0, C.columns(at, width));
  }
}

template double Gpu::condition_estimate<float>(DeviceMatrixView<float>) const;
template double Gpu::condition_estimate<float const>(DeviceMatrixView<float const>) const;
template double Gpu::condition_estimate<double>(DeviceMatrixView<double>) const;
template double Gpu::condition_estimate<double const>(DeviceMatrixView<double const>) const;
template void Gpu::solve_lower<float>(DeviceMatrixView<float const>, Op, DeviceMatrixView<float>, Fill) const;
template void Gpu::solve_lower<double>(DeviceMatrixView<double const>, Op, DeviceMatrixView<double>,
                                       Fill) const;
template void Gpu::multiply_lower<float>(DeviceMatrixView<float const>, DeviceMatrixView<float const>,
                                         DeviceMatrixView<float>) const;
template void Gpu::multiply_lower<double>(DeviceMatrixView<double const>, DeviceMatrixView<double const>,
                                          DeviceMatrixView<double>) const;

}  // namespace dartquant::cuda
