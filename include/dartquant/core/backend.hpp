// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>

#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// Whether a factor of a product is used as stored or transposed.
enum class Op { none, transpose };

/// Which elements of a square operand can be other than zero.
enum class Fill { full, lower };

/// Up to which condition numbers of a latent its Cholesky path is trusted with one pass and with two, and
/// from which on the latent is replaced by its rotation.
struct QrLimits {
  double one_pass = 0, two_pass = 0, restart = 0;
};

/// How fast descents that are taken together go.
struct StepRate {
  double learning_rate = 0;  ///< 0: chosen per head by its first gradient
  double relative_step = 0, schedule_factor = 1;
};

/// What a Cholesky factorisation found.
struct CholeskyStatus {
  /// The first pivot that was not positive and finite, or -1 when the factorisation succeeded.
  index_t failed_pivot = -1;
  [[nodiscard]] bool ok() const { return failed_pivot < 0; }
};

/// An objective that is a sum over single values f(x): `objective(x, value, slope)` sets value = f(x) and
/// slope = f'(x). The type of the three is a scalar on a device and a short array of scalars on the CPU, so
/// the body is written once with `using std::exp;` and the like, and unqualified calls.
template <class F, class T = float>
concept ElementwiseObjective = requires(F const& objective, T const& x, T& value, T& slope) {
  objective(x, value, slope);
};

/// An objective of one token: `T value = objective(x, slope)` reads the token's values [channels] and writes
/// the derivative by each [channels]. `slope` never overlaps `x`.
template <class F, class T = float>
concept TokenObjective = requires(F const& objective, VectorView<T const> x, VectorView<T> slope) {
  { objective(x, slope) } -> std::convertible_to<T>;
};

/// An objective of one token's sorted values: as TokenObjective, but the machine hands in the order too;
/// order[k] is the channel of the k-th smallest value (equal values: lower channel first).
template <class F, class T = float>
concept RankedObjective = requires(F const& objective, VectorView<T const> x,
                                   VectorView<std::int32_t const> order, VectorView<T> slope) {
  { objective(x, order, slope) } -> std::convertible_to<T>;
};

namespace detail {

/// Stand-ins that let the concept below name the calls without the headers of a later floor.
struct AnyObjective {
  template <class V>
  DARTQUANT_HD void operator()(V const& x, V& value, V& slope) const {
    value = x;
    slope = x;
  }
};
struct AnyRule {
  template <class T>
  DARTQUANT_HD void update(T gradient, T rate, T& value, T& first, T& second) const {
    first = second = gradient;
    value -= rate * gradient;
  }
};

struct AnyBody {
  template <class B>
  void operator()(B const& /*backend*/, index_t /*index*/) const {}
};

}  // namespace detail

/// A machine that can run a calibration. Algorithms are templates over it; only these primitives are written
/// per machine. Matrices are row-major; `matrix<T>` owns memory of the machine and converts to a view of its
/// space. Results do not depend on the number of threads.
///
/// | primitive | what it computes |
/// |---|---|
/// | matrix<T>(rows, cols) | an uninitialised matrix of the machine |
/// | copy(A, B) | B <- A, converting the element type; also between the host and the machine |
/// | gemm(alpha, A, op, B, op, beta, C) | C <- alpha op(A) op(B) + beta C |
/// | gram(Z, G) | G <- Z^T Z in FP64, lower triangle |
/// | cholesky(G) | lower factor in place, FP64; reports the pivot that failed |
/// | condition_estimate(L) | estimate of the 2-norm condition number of a lower triangle |
/// | solve_lower(L, op, B, fill) | B <- B op(L)^-1 |
/// | multiply_lower(A, L, C) | C <- A L, L lower triangular |
/// | set_diagonal(value, A) | A <- value I |
/// | skew_lower(A) | A <- strictly_lower(A - A^T) |
/// | householder_qr(Z, Q, L) | Z = Q L^T, diag(L) >= 0 |
/// | objective(f, O, slope) | mean over rows of f, and its derivative by O |
/// | update(rule, rate, G, first, second, Z) | an optimizer's step, element by element |
/// | gather_rows(X, rows, Y), normalize_rows(Y) | Y_i = X_rows[i]; every row to unit RMS |
/// | frobenius_norm(A) | square root of the sum of squares, in FP64 |
/// | for_each(count, body) | independent pieces of work side by side |
template <class B>
concept Backend = requires(B const& backend, index_t size, MatrixView<float const> host_in,
                           MatrixView<float> host_out, MatrixView<float const, B::space> A,
                           MatrixView<float, B::space> C, MatrixView<double, B::space> G,
                           VectorView<index_t const> rows) {
  { backend.template matrix<float>(size, size) } -> std::convertible_to<MatrixView<float, B::space>>;
  backend.copy(host_in, C);
  backend.copy(A, host_out);
  backend.copy(G, C);
  backend.template gemm<float>(1.0f, A, Op::none, A, Op::transpose, 0.0f, C);
  backend.template gram<float>(A, G);
  { backend.cholesky(G) } -> std::same_as<CholeskyStatus>;
  { backend.condition_estimate(A) } -> std::convertible_to<double>;
  backend.template solve_lower<float>(A, Op::transpose, C, Fill::full);
  backend.template multiply_lower<float>(A, A, C);
  backend.template set_diagonal<float>(1.0f, C);
  backend.template skew_lower<float>(C);
  backend.template householder_qr<float>(A, C, G);
  { backend.template objective<float>(detail::AnyObjective{}, A, C) } -> std::convertible_to<double>;
  backend.template update<float>(detail::AnyRule{}, 1.0f, A, C, C, C);
  backend.template gather_rows<float>(A, rows, C);
  backend.template normalize_rows<float>(C);
  { backend.template frobenius_norm<float>(A) } -> std::convertible_to<double>;
  backend.for_each(size, detail::AnyBody{});
};

/// A Backend that also takes equal pieces of work together, one above the other in tall matrices, without an
/// answer to the host: a device that one head of a layer would leave idle. See calibrate/head_batch.hpp,
/// which is written over it. `state` holds what the steps decide per piece (calibrate/head_state.hpp).
///
/// | primitive | what it computes |
/// |---|---|
/// | gemm_each(groups, ...) | gemm of every group of rows |
/// | objective_each(groups, f, O, slope, losses) | objective of every group; losses [1, groups] |
/// | gather_heads(X, numbers, group, Y) | the rows of every KV head, its query heads stacked |
/// | orthonormalize_heads(Z, R, L, first, second, limits, state) | R L^T = Z; restarts where Z is bad |
/// | gradient_heads(L, A, state) | A <- strictly_lower(A - A^T) L^-1 and its norms |
/// | update_heads(rule, rate, G, first, second, Z, state) | the steps of an optimizer |
/// | close_epoch(losses, R, best, state) | keeps the best rotations |
template <class B>
concept BatchedBackend = Backend<B> &&
    requires(B const& backend, index_t size, VectorView<index_t const> numbers,
             MatrixView<float const, B::space> A, MatrixView<float, B::space> C,
             MatrixView<double const, B::space> losses, MatrixView<double, B::space> state) {
  { B::largest_head } -> std::convertible_to<index_t>;
  backend.template gemm_each<float>(size, 1.0f, A, Op::none, A, Op::transpose, 0.0f, C);
  backend.template gemm_each<double>(size, 1.0, losses, Op::none, losses, Op::transpose, 0.0, state);
  backend.template objective_each<float>(size, detail::AnyObjective{}, A, C, state);
  backend.gather_heads(A, numbers, size, C);
  backend.orthonormalize_heads(C, C, C, C, C, QrLimits{}, state);
  backend.gradient_heads(A, C, state);
  backend.close_epoch(losses, A, C, state);
};

}  // namespace dartquant
