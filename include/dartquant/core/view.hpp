// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cassert>
#include <concepts>
#include <cstddef>
#include <type_traits>

#include <dartquant/core/platform.hpp>

namespace dartquant {

/// Sizes and indices: signed, 64 bit on 64-bit machines.
using index_t = std::ptrdiff_t;

/// Which memory a view points into. Views of different spaces are different types and never convert.
enum class Space { host, device };

namespace detail {

/// A dense row-major matrix object with unit step inside a row, recognised by shape: Eigen matrices, maps and
/// blocks satisfy it, and this header does not include Eigen.
template <class M, class T>
concept RowMajorDense = requires(M& m) {
  { m.data() } -> std::convertible_to<T*>;
  m.rows();
  m.cols();
  m.outerStride();
  requires bool(std::remove_cvref_t<M>::IsRowMajor);
  requires int(std::remove_cvref_t<M>::InnerStrideAtCompileTime) == 1;
};

/// A contiguous range with data() and size(): std::vector, std::span, std::array.
template <class V, class T>
concept ContiguousRange = requires(V& v) {
  { v.data() } -> std::convertible_to<T*>;
  { v.size() } -> std::convertible_to<std::size_t>;
}
&&!requires(V & v) { v.outerStride(); };

}  // namespace detail

/// A non-owning contiguous vector of `size` elements.
template <class T, Space S = Space::host>
class VectorView {
 public:
  constexpr VectorView() = default;
  DARTQUANT_HD constexpr VectorView(T* data, index_t size) : data_(data), size_(size) {}
  template <detail::ContiguousRange<T> V>
  requires(S == Space::host) constexpr VectorView(V&& v)
      : VectorView(v.data(), static_cast<index_t>(v.size())) {}
  template <class U>
  requires std::is_same_v<T, U const> DARTQUANT_HD constexpr VectorView(VectorView<U, S> const& v)
      : VectorView(v.data(), v.size()) {}

  DARTQUANT_HD constexpr T* data() const { return data_; }
  DARTQUANT_HD constexpr index_t size() const { return size_; }
  DARTQUANT_HD constexpr T* begin() const { return data_; }
  DARTQUANT_HD constexpr T* end() const { return data_ + size_; }
  DARTQUANT_HD constexpr T& operator[](index_t i) const {
    assert(0 <= i && i < size_);
    return data_[i];
  }
  DARTQUANT_HD constexpr VectorView segment(index_t first, index_t count) const {
    return {data_ + first, count};
  }

 private:
  T* data_ = nullptr;
  index_t size_ = 0;
};

/// A non-owning row-major matrix: unit step inside a row, free stride between rows. Trivially copyable;
/// usable in kernels.
template <class T, Space S = Space::host>
class MatrixView {
 public:
  constexpr MatrixView() = default;
  DARTQUANT_HD constexpr MatrixView(T* data, index_t rows, index_t cols, index_t stride)
      : data_(data), rows_(rows), cols_(cols), stride_(stride) {}
  DARTQUANT_HD constexpr MatrixView(T* data, index_t rows, index_t cols)
      : MatrixView(data, rows, cols, cols) {}
  /// Eigen matrices, maps and blocks convert without a copy; a column-major one does not compile.
  template <detail::RowMajorDense<T> M>
  requires(S == Space::host) constexpr MatrixView(M&& m)
      : MatrixView(m.data(), m.rows(), m.cols(), m.outerStride()) {}
  /// A view of mutable elements is also a view of constant ones.
  template <class U>
  requires std::is_same_v<T, U const> DARTQUANT_HD constexpr MatrixView(MatrixView<U, S> const& m)
      : MatrixView(m.data(), m.rows(), m.cols(), m.stride()) {}

  DARTQUANT_HD constexpr T* data() const { return data_; }
  DARTQUANT_HD constexpr index_t rows() const { return rows_; }
  DARTQUANT_HD constexpr index_t cols() const { return cols_; }
  DARTQUANT_HD constexpr index_t stride() const { return stride_; }
  DARTQUANT_HD constexpr T& operator()(index_t i, index_t j) const {
    assert(0 <= i && i < rows_ && 0 <= j && j < cols_);
    return data_[i * stride_ + j];
  }
  DARTQUANT_HD constexpr VectorView<T, S> row(index_t i) const { return {data_ + i * stride_, cols_}; }
  DARTQUANT_HD constexpr MatrixView rows(index_t first, index_t count) const {
    return {data_ + first * stride_, count, cols_, stride_};
  }
  DARTQUANT_HD constexpr MatrixView columns(index_t first, index_t count) const {
    return {data_ + first, rows_, count, stride_};
  }
  DARTQUANT_HD constexpr MatrixView block(index_t row, index_t col, index_t row_count,
                                          index_t col_count) const {
    return {data_ + row * stride_ + col, row_count, col_count, stride_};
  }

 private:
  T* data_ = nullptr;
  index_t rows_ = 0, cols_ = 0, stride_ = 0;
};

template <class T>
using DeviceMatrixView = MatrixView<T, Space::device>;

}  // namespace dartquant
