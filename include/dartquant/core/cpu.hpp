// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <dartquant/core/backend.hpp>
#include <dartquant/core/cpu_kernels.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/host_products.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/parallel.hpp>
#include <dartquant/core/tile_kernel.hpp>

namespace dartquant {

/// The CPU as a Backend: data-parallel primitives on Eigen, split into tiles whose sizes depend on shapes
/// alone, so that every result has the same bytes for any number of threads. Copies share the threads,
/// the kernels and the products.
class Cpu {
 public:
  static constexpr Space space = Space::host;
  template <class T>
  using Matrix = RowMatrix<T>;

  /// All hardware threads.
  Cpu() : Cpu(std::max(1, static_cast<int>(std::thread::hardware_concurrency()))) {}

  /// A fork-join pool of `threads`, the calling thread included.
  explicit Cpu(int threads) : threads_(threads) {
    detail::require(threads >= 1, "[Cpu] ", threads, " threads: at least one is needed");
    if (threads > 1)
      executor_ = [pool = std::make_shared<ThreadPool>(threads)](index_t parts, auto const& task) {
        (*pool)(parts, task);
      };
  }

  /// The caller's threads: `executor` runs the parts, `threads` says how many it can run at once (a hint,
  /// never a semantic).
  Cpu(Executor executor, int threads) : executor_(std::move(executor)), threads_(threads) {
    detail::require(threads >= 1, "[Cpu] ", threads, " threads: at least one is needed");
  }

  /// The same threads with compiled kernels behind quantize, dequantize, fake_quantize, matmul, Hadamard and
  /// the products of float and double matrices, wherever the kernels cover the call; what they do not cover
  /// runs as without them. Levels, scales, dequantized values and Hadamard transforms keep their bytes; float
  /// and double products may differ in the last bits. Cpu(threads).with_kernels(compiled_kernels()), see
  /// core/compiled_kernels.hpp.
  [[nodiscard]] Cpu with_kernels(CpuKernels const& kernels) const {
    Cpu equipped = *this;
    equipped.kernels_ = std::make_shared<CpuKernels const>(kernels);
    return equipped;
  }
  /// Null where there are none.
  [[nodiscard]] CpuKernels const* kernels() const { return kernels_.get(); }

  /// The same threads with products of large matrices on another machine, see HostProducts: gemm sends there
  /// what is worth the way. The pieces of for_each keep to their thread. Sums are taken in the order of that
  /// machine, so results may differ in the last bits.
  [[nodiscard]] Cpu with_products(HostProducts products) const {
    Cpu equipped = *this;
    equipped.products_ = std::make_shared<HostProducts const>(std::move(products));
    return equipped;
  }
  /// Null where there are none.
  [[nodiscard]] HostProducts const* products() const { return products_.get(); }

  [[nodiscard]] int threads() const { return threads_; }
  [[nodiscard]] Executor const& executor() const { return executor_; }

  /// See dartquant::parallel_for.
  template <class Body>
  void parallel_for(index_t count, index_t grain, Body const& body) const {
    dartquant::parallel_for(executor_, count, grain, body);
  }

  /// See dartquant::parallel_sum.
  template <class Body>
  [[nodiscard]] double parallel_sum(index_t count, index_t grain, Body const& body) const {
    return dartquant::parallel_sum(executor_, count, grain, body);
  }

  /// body(backend, i) for every i in [0, count): independent pieces of work (the heads of a layer), side by
  /// side, each on one thread.
  template <class Body>
  void for_each(index_t count, Body const& body) const {
    parallel_for(count, 1, [&](index_t first, index_t) {
      Cpu serial(1);
      serial.kernels_ = kernels_;
      body(serial, first);
    });
  }

  /// A matrix of the machine, uninitialised.
  template <class T>
  [[nodiscard]] Matrix<T> matrix(index_t rows, index_t cols) const {
    return Matrix<T>(rows, cols);
  }

  /// C <- alpha op(A) op(B) + beta C, row-major, any strides. beta == 0 never reads C. Error: about depth
  /// eps |A| |B| per element; Eigen and the compiled kernels (see TileKernel) add in different orders. Cost:
  /// 2 rows cols depth operations. Errors: InvalidArgument when the shapes do not fit.
  template <class T>
  void gemm(T alpha, std::type_identity_t<MatrixView<T const>> A, Op op_a,
            std::type_identity_t<MatrixView<T const>> B, Op op_b, std::type_identity_t<T> beta,
            std::type_identity_t<MatrixView<T>> C) const;

  // Triangular factors and products with them: core/cpu_factorization.hpp.

  /// G <- Z^T Z in FP64, lower triangle only (tiles on the diagonal are written whole). Z [rows, n], G [n,
  /// n].
  template <class T>
  void gram(std::type_identity_t<MatrixView<T const>> Z, MatrixView<double> G) const;

  /// G = L L^T from the lower triangle of G: L replaces G, zeros above the diagonal. The status names the
  /// first pivot that was not positive and finite; G is then half factored. Cost: n^3 / 3.
  template <class = void>
  [[nodiscard]] CholeskyStatus cholesky(MatrixView<double> G) const;

  /// Estimate of the 2-norm condition number of the lower triangle L, from below, by a few steps of power and
  /// inverse iteration: good to a factor of about 2, and much better when one singular value stands out.
  /// Infinite when a diagonal element is 0. Cost: 5 n^2.
  template <class T>
  [[nodiscard]] double condition_estimate(MatrixView<T> L) const;

  /// B <- B op(L)^-1 with L [n, n] lower triangular (what is above its diagonal is not read), diag(L) not 0.
  /// Fill::lower: B is square and lower triangular, and so is the result (op none only). Cost: rows n^2, or
  /// n^3 / 3.
  template <class T>
  void solve_lower(std::type_identity_t<MatrixView<T const>> L, Op op, std::type_identity_t<MatrixView<T>> B,
                   Fill fill = Fill::full) const;

  /// C <- A L with L lower triangular, stored with zeros above its diagonal; C overlaps neither. Cost: rows
  /// n^2.
  template <class T>
  void multiply_lower(std::type_identity_t<MatrixView<T const>> A,
                      std::type_identity_t<MatrixView<T const>> L,
                      std::type_identity_t<MatrixView<T>> C) const;

  /// A <- value I, of any shape.
  template <class T>
  void set_diagonal(T value, std::type_identity_t<MatrixView<T>> A) const;

  /// A <- strictly_lower(A - A^T), zeros elsewhere.
  template <class T>
  void skew_lower(std::type_identity_t<MatrixView<T>> A) const;

  /// Z = Q L^T by Householder reflections in FP64: Q [n, n] orthogonal, L lower triangular with diag(L) >= 0
  /// and zeros above. Any finite Z, of any rank. One thread. Cost: 8 n^3 / 3.
  template <class T>
  void householder_qr(std::type_identity_t<MatrixView<T const>> Z, std::type_identity_t<MatrixView<T>> Q,
                      MatrixView<double> L) const;

  // Passes over the rows of a matrix: core/cpu_rows.hpp.

  /// to <- from, converting the element type; on other machines also from and to the host.
  template <class From, class To>
  void copy(MatrixView<From> from, MatrixView<To> to) const;

  /// The mean over the rows of O of `objective`, and slope <- its derivative by O (mean included). slope must
  /// not overlap O. See ElementwiseObjective, TokenObjective and RankedObjective.
  template <class T, class Objective>
  double objective(Objective const& objective, std::type_identity_t<MatrixView<T const>> O,
                   std::type_identity_t<MatrixView<T>> slope) const;

  /// One step of an optimizer, element by element: rule.update(gradient, rate, value, first, second). A state
  /// that the rule does not use may be an empty view.
  template <class T, class Rule>
  void update(Rule const& rule, T rate, std::type_identity_t<MatrixView<T const>> gradient,
              std::type_identity_t<MatrixView<T>> first, std::type_identity_t<MatrixView<T>> second,
              std::type_identity_t<MatrixView<T>> value) const;

  /// Y_i <- X_rows[i]. The indices are not checked.
  template <class T>
  void gather_rows(std::type_identity_t<MatrixView<T const>> X, VectorView<index_t const> rows,
                   std::type_identity_t<MatrixView<T>> Y) const;

  /// Every row divided by its root mean square; rows of zeros stay.
  template <class T>
  void normalize_rows(std::type_identity_t<MatrixView<T>> Y) const;

  /// sqrt(sum of squares), summed in FP64.
  template <class T>
  [[nodiscard]] double frobenius_norm(std::type_identity_t<MatrixView<T const>> A) const;

 private:
  Executor executor_;
  std::shared_ptr<CpuKernels const> kernels_;
  std::shared_ptr<HostProducts const> products_;
  int threads_ = 1;
};

namespace detail {

/// The sizes of the tiles of a product: fixed, so that the bytes of a result do not depend on threads.
inline constexpr index_t gemm_tile_rows = 256, gemm_tile_cols = 512, gemm_tile_depth = 1024;

template <class T>
MatrixView<T const> op_rows(MatrixView<T const> A, Op op, index_t first, index_t count) {
  return op == Op::none ? A.rows(first, count) : A.columns(first, count);
}
template <class T>
MatrixView<T const> op_cols(MatrixView<T const> A, Op op, index_t first, index_t count) {
  return op == Op::none ? A.columns(first, count) : A.rows(first, count);
}

/// One tile of a product, on the calling thread: by the kernels of `cpu` where they are faster, else Eigen.
template <class T>
void gemm_tile(Cpu const& cpu, T alpha, MatrixView<T const> A, Op op_a, MatrixView<T const> B, Op op_b,
               T beta, MatrixView<T> C) {
  index_t const depth = op_a == Op::none ? A.cols() : A.rows();
  if (auto const* const kernel = tile_kernel<T>(cpu.kernels(), C.rows(), C.cols(), depth))
    return kernel_tile<T>(*kernel, alpha, A, op_a, B, op_b, beta, C);
  auto const a = as_eigen(A);
  auto const b = as_eigen(B);
  auto c = as_eigen(C);
  if (beta == T(0)) c.setZero();
  else if (beta != T(1)) c *= beta;
  if (op_a == Op::none && op_b == Op::none) c.noalias() += alpha * a * b;
  else if (op_a == Op::none) c.noalias() += alpha * a * b.transpose();
  else if (op_b == Op::none) c.noalias() += alpha * a.transpose() * b;
  else c.noalias() += alpha * a.transpose() * b.transpose();
}

}  // namespace detail

template <class T>
void Cpu::gemm(T alpha, std::type_identity_t<MatrixView<T const>> A, Op op_a,
               std::type_identity_t<MatrixView<T const>> B, Op op_b, std::type_identity_t<T> beta,
               std::type_identity_t<MatrixView<T>> C) const {
  index_t const rows = op_a == Op::none ? A.rows() : A.cols(), depth = op_a == Op::none ? A.cols() : A.rows();
  index_t const cols = op_b == Op::none ? B.cols() : B.rows(),
                depth_b = op_b == Op::none ? B.rows() : B.cols();
  detail::require(depth == depth_b && rows == C.rows() && cols == C.cols(), "[gemm] ", rows, " x ", depth,
                  " times ", depth_b, " x ", cols, " into ", C.rows(), " x ", C.cols(),
                  ": the shapes do not fit");
  if (products_)
    if (auto const* const product = products_->worth_it<T>(rows, depth, cols))
      return (*product)(alpha, A, op_a, B, op_b, beta, C);
  index_t const tiles_down = (rows + detail::gemm_tile_rows - 1) / detail::gemm_tile_rows;
  index_t const tiles_across = (cols + detail::gemm_tile_cols - 1) / detail::gemm_tile_cols;
  index_t const chunks =
      tiles_down * tiles_across >= 4 ? 1 : std::max<index_t>(1, depth / detail::gemm_tile_depth);
  auto const tile = [&](index_t index, index_t first, index_t count, T factor, MatrixView<T> target) {
    index_t const row = index / tiles_across * detail::gemm_tile_rows,
                  col = index % tiles_across * detail::gemm_tile_cols;
    index_t const height = std::min(detail::gemm_tile_rows, rows - row),
                  width = std::min(detail::gemm_tile_cols, cols - col);
    auto const a = detail::op_cols(detail::op_rows(A, op_a, row, height), op_a, first, count);
    auto const b = detail::op_rows(detail::op_cols(B, op_b, col, width), op_b, first, count);
    detail::gemm_tile<T>(*this, alpha, a, op_a, b, op_b, factor, target.block(row, col, height, width));
  };
  if (chunks == 1) {
    parallel_for(tiles_down * tiles_across, 1,
                 [&](index_t index, index_t) { tile(index, 0, depth, beta, C); });
    return;
  }
  // A small result of a deep product: partial products over fixed slices of the depth, added in order.
  std::vector<RowMatrix<T>> partial(static_cast<std::size_t>(chunks), RowMatrix<T>(rows, cols));
  parallel_for(chunks, 1, [&](index_t chunk, index_t) {
    index_t const first = depth * chunk / chunks, last = depth * (chunk + 1) / chunks;
    MatrixView<T> const target = partial[static_cast<std::size_t>(chunk)];
    for (index_t index = 0; index < tiles_down * tiles_across; ++index)
      tile(index, first, last - first, T(0), target);
  });
  auto c = as_eigen(C);
  if (beta == T(0)) c = partial[0];
  else c = beta * c + partial[0];
  for (std::size_t chunk = 1; chunk < partial.size(); ++chunk) c += partial[chunk];
}

}  // namespace dartquant

#include <dartquant/core/cpu_factorization.hpp>
#include <dartquant/core/cpu_rows.hpp>
#include <dartquant/core/instantiations.hpp>
