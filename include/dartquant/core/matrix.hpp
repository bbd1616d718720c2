// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <Eigen/Core>

#include <dartquant/core/view.hpp>

namespace dartquant {

/// A dense row-major matrix that owns its memory.
template <class T>
using RowMatrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// An Eigen map over a view, without a copy: the one place where views meet Eigen.
template <class T>
[[nodiscard]] auto as_eigen(MatrixView<T> view) {
  using Plain = RowMatrix<std::remove_const_t<T>>;
  using Matrix = std::conditional_t<std::is_const_v<T>, Plain const, Plain>;
  return Eigen::Map<Matrix, 0, Eigen::OuterStride<>>(view.data(), view.rows(), view.cols(),
                                                     Eigen::OuterStride<>(view.stride()));
}

/// A vector view as an Eigen row.
template <class T>
[[nodiscard]] auto as_eigen(VectorView<T> view) {
  using Plain = Eigen::Matrix<std::remove_const_t<T>, 1, Eigen::Dynamic>;
  using Row = std::conditional_t<std::is_const_v<T>, Plain const, Plain>;
  return Eigen::Map<Row>(view.data(), view.size());
}

}  // namespace dartquant
