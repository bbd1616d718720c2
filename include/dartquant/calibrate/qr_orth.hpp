// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

#include <dartquant/core/backend.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// How Z is orthonormalised.
enum class QrPath {
  automatic,    ///< Cholesky where it keeps its promise, Householder elsewhere
  householder,  ///< Householder reflections in FP64: every finite Z, of any rank
  cholesky      ///< Cholesky only; Error(numerics) where it fails
};

/// Z = R U with R orthogonal and U upper triangular, diag(U) > 0 (so both are unique when Z has full rank).
template <class B, class T>
struct [[nodiscard]] QrOrth {
  typename B::template Matrix<T> rotation;  ///< R [n, n]
  typename B::template Matrix<T> lower;     ///< U^T [n, n], zeros above the diagonal
  QrPath path = QrPath::cholesky;           ///< the path that ran
  int passes = 1;                           ///< 2: CholeskyQR2
  bool unit = false;                        ///< lower is the identity
  double condition = 1;                     ///< estimate of the condition number of Z (from below, see Cpu)
};

/// Up to this condition number one Cholesky pass in FP64 with the solve in T keeps |I - R^T R|_1 / (n eps)
/// small.
inline constexpr double one_pass_condition = 10;
/// The same where the solve is in FP64 as well: what one pass leaves is about 2^-53 times the square of this.
inline constexpr double wide_one_pass_condition = 1e3;
/// Up to this one a second pass repairs it; beyond it the first pass may leave too little to repair.
inline constexpr double two_pass_condition = 1e6;

namespace detail {

/// Whether (R^T R - I) v is as small as rounding allows, for one fixed vector v of signs. Cost: 4 n^2.
template <class T, Backend B>
[[nodiscard]] bool passes_orthogonality_probe(B const& backend, MatrixView<T const, B::space> R) {
  index_t const n = R.rows();
  RowMatrix<T> signs(n, 1);
  for (index_t i = 0; i < n; ++i) signs(i, 0) = static_cast<T>(Philox(0).sign(static_cast<std::uint64_t>(i)));
  auto image = backend.template matrix<T>(n, 1), residual = backend.template matrix<T>(n, 1);
  MatrixView<T, B::space> const rest = residual;
  backend.copy(MatrixView<T const>(signs), rest);
  backend.template gemm<T>(T(1), R, Op::none, residual, Op::none, T(0), image);
  backend.template gemm<T>(T(1), R, Op::transpose, image, Op::none, T(-1), residual);
  double const bound = 20 * static_cast<double>(n) * static_cast<double>(std::numeric_limits<T>::epsilon());
  return backend.template frobenius_norm<T>(residual) <= bound;
}

/// Whether `backend` orthonormalises float latents wholly in FP64, because its FP64 is no slower.
template <class T, Backend B>
[[nodiscard]] bool solves_wide(B const& backend) {
  if constexpr (std::is_same_v<T, float> && requires { backend.solves_wide(); }) return backend.solves_wide();
  else return false;
}

/// One pass of Cholesky QR: lower <- chol(Q^T Q) formed in FP64, Q <- Q lower^-T, in the type of Q. False
/// when a pivot fails. `limit` on the condition number, written to `condition`, is checked before Q is
/// touched.
template <class T, class Wide, Backend B>
[[nodiscard]] bool cholesky_pass(B const& backend, MatrixView<Wide, B::space> Q,
                                 MatrixView<T, B::space> lower, double limit, double& condition) {
  auto factor = backend.template matrix<double>(Q.rows(), Q.rows());
  MatrixView<double, B::space> const wide = factor;
  backend.template gram<Wide>(Q, wide);
  if (!backend.cholesky(wide).ok()) return false;
  backend.copy(wide, lower);
  condition = backend.condition_estimate(lower);
  if (!(condition <= limit)) return false;
  if constexpr (std::is_same_v<Wide, T>) backend.template solve_lower<T>(lower, Op::transpose, Q, Fill::full);
  else backend.template solve_lower<Wide>(wide, Op::transpose, Q, Fill::full);
  return true;
}

/// One or two passes on Q. False when they cannot keep their promise.
template <class T, class Wide, Backend B>
[[nodiscard]] bool cholesky_passes(B const& backend, MatrixView<Wide, B::space> Q, double one_pass,
                                   QrOrth<B, T>& factor) {
  MatrixView<T, B::space> const lower = factor.lower;
  if (!cholesky_pass<T, Wide>(backend, Q, lower, two_pass_condition, factor.condition)) return false;
  if (factor.condition <= one_pass) return true;
  auto first = backend.template matrix<T>(Q.rows(), Q.rows()),
       second = backend.template matrix<T>(Q.rows(), Q.rows());
  backend.copy(lower, MatrixView<T, B::space>(first));
  double left = 1;  // what the first pass left of the condition number
  if (!cholesky_pass<T, Wide>(backend, Q, second, one_pass, left)) return false;
  backend.template multiply_lower<T>(first, second, lower);  // U^T = U1^T U2^T
  factor.passes = 2;
  return true;
}

/// The Cholesky path. False when it cannot keep its promise; `factor.condition` is then not to be relied on.
template <class T, Backend B>
[[nodiscard]] bool orthonormalize_by_cholesky(B const& backend, MatrixView<T const, B::space> Z,
                                              QrOrth<B, T>& factor) {
  MatrixView<T, B::space> const Q = factor.rotation;
  if (solves_wide<T>(backend)) {
    auto space = backend.template matrix<double>(Z.rows(), Z.rows());
    MatrixView<double, B::space> const wide = space;
    backend.copy(Z, wide);
    if (!cholesky_passes<T, double>(backend, wide, wide_one_pass_condition, factor)) return false;
    backend.copy(wide, Q);
  } else {
    backend.copy(Z, Q);
    if (!cholesky_passes<T, T>(backend, Q, one_pass_condition, factor)) return false;
  }
  factor.path = QrPath::cholesky;
  return passes_orthogonality_probe<T>(backend, Q);
}

}  // namespace detail

/// R = qr(Z).Q with diag(U) > 0, for square Z [n, n] in T = float or double. The Cholesky path takes its Gram
/// matrix and factor in FP64 (Yamamoto et al. 2015 with wide accumulation): one pass up to
/// `one_pass_condition` (or `wide_one_pass_condition`), two up to `two_pass_condition`. Its pivots, condition
/// estimate and a probe of the result are checked every time; where one fails, automatic goes on to
/// Householder. Both paths give the same R up to rounding. A rank-deficient Z gives an orthogonal R and a U
/// with zeros on its diagonal (condition infinite): there is no gradient then. Errors: InvalidArgument when Z
/// is empty, not square or not finite; Error(numerics) on QrPath::cholesky only. Cost: n^3 (FP64) + n^3 / 3
/// (FP64) + n^3 per pass, nearly all in products.
template <class T, Backend B>
QrOrth<B, T> qr_orth(B const& backend, std::type_identity_t<MatrixView<T const, B::space>> Z,
                     QrPath path = QrPath::automatic) {
  index_t const n = Z.rows();
  detail::require(n >= 1 && Z.cols() == n, "[qr_orth] ", n, " x ", Z.cols(), ": a square matrix is needed");
  detail::require(std::isfinite(backend.template frobenius_norm<T>(Z)), "[qr_orth] the ", n, " x ", n,
                  " latent holds a value that is not finite: lower the learning rate");
  QrOrth<B, T> factor{backend.template matrix<T>(n, n), backend.template matrix<T>(n, n)};
  if (path != QrPath::householder && detail::orthonormalize_by_cholesky<T>(backend, Z, factor)) return factor;
  if (path == QrPath::cholesky)
    detail::fail(Error::Kind::numerics, "[qr_orth] Cholesky failed on a ", n, " x ", n,
                 " latent: it is too close to singular; use QrPath::automatic");
  auto lower = backend.template matrix<double>(n, n);
  MatrixView<double, B::space> const wide = lower;
  backend.template householder_qr<T>(Z, factor.rotation, wide);
  backend.copy(wide, MatrixView<T, B::space>(factor.lower));
  factor.path = QrPath::householder;
  factor.passes = 1;
  factor.condition = backend.condition_estimate(wide);
  return factor;
}

/// dL/dZ = R strictly_lower(A - A^T) U^-T, with A = R^T dL/dR. For O = X R that is A = R^T X^T dL/dO = O^T
/// dL/dO: one product, and dL/dR is never formed. The result makes Z^T dL/dZ strictly lower triangular (the
/// loss sees Z through R only). A is overwritten by strictly_lower(A - A^T) U^-T, whose Frobenius norm is
/// that of the gradient. Preconditions: U is not singular. Cost: n^3 / 3 + n^3: both factors stay lower
/// triangular. Derivation: docs/math.md.
template <class T, Backend B>
[[nodiscard]] typename B::template Matrix<T> qr_orth_gradient(
    B const& backend, QrOrth<B, T> const& factor, std::type_identity_t<MatrixView<T, B::space>> A) {
  index_t const n = A.rows();
  MatrixView<T const, B::space> const R = factor.rotation, lower = factor.lower;
  auto gradient = backend.template matrix<T>(n, n);
  backend.template skew_lower<T>(A);
  if (!factor.unit) backend.template solve_lower<T>(lower, Op::none, A, Fill::lower);
  backend.template multiply_lower<T>(R, A, gradient);
  return gradient;
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
#include <dartquant/core/cpu.hpp>

namespace dartquant {
DARTQUANT_COMPILED template QrOrth<Cpu, float> qr_orth<float, Cpu>(Cpu const&, MatrixView<float const>,
                                                                   QrPath);
DARTQUANT_COMPILED template QrOrth<Cpu, double> qr_orth<double, Cpu>(Cpu const&, MatrixView<double const>,
                                                                     QrPath);
DARTQUANT_COMPILED template RowMatrix<float> qr_orth_gradient<float, Cpu>(Cpu const&,
                                                                          QrOrth<Cpu, float> const&,
                                                                          MatrixView<float>);
DARTQUANT_COMPILED template RowMatrix<double> qr_orth_gradient<double, Cpu>(Cpu const&,
                                                                            QrOrth<Cpu, double> const&,
                                                                            MatrixView<double>);
DARTQUANT_COMPILED template bool detail::passes_orthogonality_probe<float, Cpu>(Cpu const&,
                                                                                MatrixView<float const>);
DARTQUANT_COMPILED template bool detail::passes_orthogonality_probe<double, Cpu>(Cpu const&,
                                                                                 MatrixView<double const>);
}  // namespace dartquant
#endif
