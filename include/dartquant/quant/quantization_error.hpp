// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/quant/fit.hpp>

namespace dartquant {
namespace detail {

/// sum_ij f(i, j) in FP64, in an order that depends on the shape alone.
template <class F>
[[nodiscard]] double sum_entries(Cpu const& cpu, index_t rows, index_t cols, F const& f) {
  return cpu.parallel_sum(rows, row_grain(cols), [&](index_t first, index_t last) {
    double sum = 0;
    for (index_t i = first; i < last; ++i)
      for (index_t j = 0; j < cols; ++j) sum += f(i, j);
    return sum;
  });
}

template <class T>
[[nodiscard]] double quantization_error(Cpu const& cpu, MatrixView<T const> X, MatrixView<T const> Y) {
  require(X.rows() == Y.rows() && X.cols() == Y.cols(), "[quantization_error] ", X.rows(), " x ", X.cols(),
          " against ", Y.rows(), " x ", Y.cols(), ": the shapes must agree");
  double const noise = sum_entries(cpu, X.rows(), X.cols(), [&](index_t i, index_t j) {
    double const difference = static_cast<double>(X(i, j)) - static_cast<double>(Y(i, j));
    return difference * difference;
  });
  double const power = sum_entries(cpu, X.rows(), X.cols(), [&](index_t i, index_t j) {
    double const value = static_cast<double>(X(i, j));
    return value * value;
  });
  if (noise == 0) return 0;
  return power > 0 ? noise / power : std::numeric_limits<double>::infinity();
}

}  // namespace detail

/// sum (X - Y)^2 / sum X^2 in FP64: the mean squared error of Y relative to the mean square of X. 0 if they
/// are equal, infinite if only X is zero. Errors: InvalidArgument when the shapes differ.
[[nodiscard]] inline double quantization_error(Cpu const& cpu, MatrixView<float const> X,
                                               MatrixView<float const> Y) {
  return detail::quantization_error(cpu, X, Y);
}
[[nodiscard]] inline double quantization_error(Cpu const& cpu, MatrixView<double const> X,
                                               MatrixView<double const> Y) {
  return detail::quantization_error(cpu, X, Y);
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template double detail::quantization_error<float>(Cpu const&, MatrixView<float const>,
                                                                     MatrixView<float const>);
DARTQUANT_COMPILED template double detail::quantization_error<double>(Cpu const&, MatrixView<double const>,
                                                                      MatrixView<double const>);
}  // namespace dartquant
#endif
