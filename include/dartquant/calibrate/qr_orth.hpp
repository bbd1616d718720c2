// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include <dartquant/core/backend.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// How Z is orthonormalised.
enum class QrPath {
  automatic,    ///< Cholesky where its condition estimate allows, Householder elsewhere
  householder,  ///< Householder reflections in FP64: works for every finite Z
  cholesky      ///< only ever Cholesky; Error(numerics) where it fails
};

/// Z = R U with R orthogonal and U upper triangular, diag(U) > 0. U is kept transposed, as a lower triangle.
template <class B, class T>
struct [[nodiscard]] QrOrth {
  typename B::template Matrix<T> rotation;         ///< R [n, n]
  typename B::template Matrix<T> lower;            ///< U^T [n, n]; the strict upper triangle is not read
  QrPath path = QrPath::cholesky;                  ///< which one ran
  int passes = 1;                                  ///< 2: CholeskyQR2
  double condition = 1;                            ///< estimate of the condition number of Z
};

}  // namespace dartquant
