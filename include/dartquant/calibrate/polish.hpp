// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include <dartquant/core/backend.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant::detail {

/// reorthonormalize (transform/rotation.hpp) of `count` matrices of order n, one above the other in R, on the
/// machine: R <- R (3 I - R^T R) / 2 in FP64 until max |R^T R - I| <= 1e-12 for each. Returns the
/// orthogonality_ratio of each. Errors: Error(numerics) when 12 steps do not suffice.
template <BatchedBackend B>
[[nodiscard]] std::vector<double> polish(B const& backend, index_t count, RowMatrix<double>& R) {
  using View = MatrixView<double, B::space>;
  using ConstView = MatrixView<double const, B::space>;
  constexpr double target = 1e-12;
  constexpr int most_steps = 12;
  index_t const n = R.cols();
  RowMatrix<double> error = RowMatrix<double>::Identity(n, n).replicate(count, 1);
  auto current = backend.template matrix<double>(R.rows(), n),
       next = backend.template matrix<double>(R.rows(), n), E = backend.template matrix<double>(R.rows(), n),
       ones = backend.template matrix<double>(R.rows(), n);
  backend.copy(MatrixView<double const>(R), View(current));
  backend.copy(MatrixView<double const>(error), View(ones));
  double largest = 0;
  for (int step = 0; step <= most_steps; ++step) {
    backend.copy(ConstView(ones), View(E));
    backend.template gemm_each<double>(count, 1.0, current, Op::transpose, current, Op::none, -1.0, E);
    backend.copy(ConstView(E), MatrixView<double>(error));
    largest = error.allFinite() ? error.cwiseAbs().maxCoeff() : std::numeric_limits<double>::infinity();
    if (largest <= target) {
      backend.copy(ConstView(current), MatrixView<double>(R));
      std::vector<double> ratios(static_cast<std::size_t>(count));
      for (index_t i = 0; i < count; ++i)
        ratios[static_cast<std::size_t>(i)] =
            error.middleRows(i * n, n).cwiseAbs().colwise().sum().maxCoeff() /
            (static_cast<double>(n) * 0x1p-24);
      return ratios;
    }
    if (step == most_steps || !std::isfinite(largest)) break;
    backend.copy(ConstView(current), View(next));
    backend.template gemm_each<double>(count, -0.5, current, Op::none, E, Op::none, 1.0, next);
    std::swap(current, next);
  }
  fail(Error::Kind::numerics, "[calibrate] max |R^T R - I| = ", largest, " after ", most_steps,
       " polar steps: a ", n, " x ", n, " rotation is too far from orthonormal");
}

}  // namespace dartquant::detail
