// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include <dartquant/core/cpu.hpp>

/// Members of Cpu that pass over the rows of a matrix once.
namespace dartquant {
namespace detail {

/// Rows of one part of such a pass: about 32768 elements, whatever the number of threads.
[[nodiscard]] inline index_t pass_rows(index_t cols) {
  return std::max<index_t>(1, 32768 / std::max<index_t>(1, cols));
}

/// The sum over one row of an elementwise objective, and its derivative times `weight`. The row goes through
/// an aligned array of fixed size: so each element takes the same vector instructions wherever the row lies
/// in memory.
template <class T, class Objective>
[[nodiscard]] double elementwise_row(Objective const& objective, VectorView<T const> x, T weight,
                                     VectorView<T> slope) {
  constexpr index_t width = 64;
  using Pack = Eigen::Array<T, width, 1>;
  Pack values, slopes, sums = Pack::Zero();
  for (index_t first = 0; first < x.size(); first += width) {
    index_t const count = std::min(width, x.size() - first);
    Pack chunk = Pack::Zero();
    std::copy_n(x.data() + first, count, chunk.data());
    objective(chunk, values, slopes);
    slopes *= weight;
    std::copy_n(slopes.data(), count, slope.data() + first);
    if (count < width) values.tail(width - count).setZero();
    sums += values;
  }
  double total = 0;
  for (index_t lane = 0; lane < width; ++lane) total += static_cast<double>(sums[lane]);
  return total;
}

/// Sorts the values of a row: a radix sort by bytes of order-preserving integer keys, stable, so equal values
/// stay in the order of their indices (-0 equals 0). Any bits are safe; NaNs come first or last.
template <class T>
class RowSort {
 public:
  /// order[k] = the index of the k-th smallest value. Valid until the next call.
  [[nodiscard]] VectorView<std::int32_t const> operator()(VectorView<T const> x) {
    std::size_t const size = static_cast<std::size_t>(x.size());
    from_.resize(size);
    to_.resize(size);
    order_.resize(size);
    for (std::size_t i = 0; i < size; ++i) {
      Key const bits = std::bit_cast<Key>(x[static_cast<index_t>(i)] + T(0));
      from_[i] = {bits ^ ((bits & top) != 0 ? ~Key(0) : top), static_cast<std::int32_t>(i)};
    }
    for (std::size_t byte = 0; byte < sizeof(T); ++byte) pass(8 * byte);
    for (std::size_t i = 0; i < size; ++i) order_[i] = from_[i].index;
    return order_;
  }

 private:
  using Key = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  struct Item {
    Key key;
    std::int32_t index;
  };
  static constexpr Key top = Key(1) << (8 * sizeof(T) - 1);

  void pass(std::size_t shift) {
    std::array<std::size_t, 257> first{};
    for (Item const& item : from_) ++first[((item.key >> shift) & 255u) + 1];
    for (std::size_t digit = 1; digit < 256; ++digit) first[digit] += first[digit - 1];
    for (Item const& item : from_) to_[first[(item.key >> shift) & 255u]++] = item;
    from_.swap(to_);
  }

  std::vector<Item> from_, to_;
  std::vector<std::int32_t> order_;
};

}  // namespace detail

template <class From, class To>
void Cpu::copy(MatrixView<From> from, MatrixView<To> to) const {
  detail::require(from.rows() == to.rows() && from.cols() == to.cols(), "[copy] ", from.rows(), " x ",
                  from.cols(), " into ", to.rows(), " x ", to.cols(), ": the shapes differ");
  parallel_for(from.rows(), detail::pass_rows(from.cols()), [&](index_t first, index_t last) {
    as_eigen(to.rows(first, last - first)) = as_eigen(from.rows(first, last - first)).template cast<To>();
  });
}

template <class T, class Objective>
double Cpu::objective(Objective const& objective, std::type_identity_t<MatrixView<T const>> O,
                      std::type_identity_t<MatrixView<T>> slope) const {
  static_assert(
      ElementwiseObjective<Objective, T> || TokenObjective<Objective, T> || RankedObjective<Objective, T>,
      "an objective has one of the call operators described in core/backend.hpp");
  detail::require(O.rows() >= 1 && slope.rows() == O.rows() && slope.cols() == O.cols(), "[objective] ",
                  O.rows(), " x ", O.cols(), " values and ", slope.rows(), " x ", slope.cols(),
                  " slopes: equal shapes and at least one row are needed");
  T const weight = T(1) / static_cast<T>(O.rows());
  double const sum = parallel_sum(O.rows(), detail::pass_rows(O.cols()), [&](index_t first, index_t last) {
    double total = 0;
    [[maybe_unused]] detail::RowSort<T> sort;
    for (index_t row = first; row < last; ++row) {
      if constexpr (ElementwiseObjective<Objective, T>) {
        total += detail::elementwise_row<T>(objective, O.row(row), weight, slope.row(row));
      } else {
        VectorView<T const> const x = O.row(row);
        VectorView<T> const derivative = slope.row(row);
        if constexpr (RankedObjective<Objective, T>) {
          total += static_cast<double>(objective(x, sort(x), derivative));
        } else {
          total += static_cast<double>(objective(x, derivative));
        }
        for (T& value : derivative) value *= weight;
      }
    }
    return total;
  });
  return sum / static_cast<double>(O.rows());
}

template <class T, class Rule>
void Cpu::update(Rule const& rule, T rate, std::type_identity_t<MatrixView<T const>> gradient,
                 std::type_identity_t<MatrixView<T>> first, std::type_identity_t<MatrixView<T>> second,
                 std::type_identity_t<MatrixView<T>> value) const {
  bool const has_first = first.rows() > 0, has_second = second.rows() > 0;
  parallel_for(value.rows(), detail::pass_rows(value.cols()), [&](index_t row, index_t last) {
    for (; row < last; ++row) {
      T const* const g = gradient.row(row).data();
      T* const z = value.row(row).data();
      T* const a = has_first ? first.row(row).data() : nullptr;
      T* const b = has_second ? second.row(row).data() : nullptr;
      T unused_a = 0, unused_b = 0;
      if (a != nullptr && b != nullptr) {
        for (index_t i = 0; i < value.cols(); ++i) rule.update(g[i], rate, z[i], a[i], b[i]);
      } else if (a != nullptr) {
        for (index_t i = 0; i < value.cols(); ++i) rule.update(g[i], rate, z[i], a[i], unused_b);
      } else {
        for (index_t i = 0; i < value.cols(); ++i) rule.update(g[i], rate, z[i], unused_a, unused_b);
      }
    }
  });
}

template <class T>
void Cpu::gather_rows(std::type_identity_t<MatrixView<T const>> X, VectorView<index_t const> rows,
                      std::type_identity_t<MatrixView<T>> Y) const {
  detail::require(Y.rows() == rows.size() && Y.cols() == X.cols(), "[gather_rows] ", rows.size(), " rows of ",
                  X.cols(), " into ", Y.rows(), " x ", Y.cols(), ": the shapes do not fit");
  parallel_for(rows.size(), detail::pass_rows(X.cols()), [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) std::copy_n(X.row(rows[i]).data(), X.cols(), Y.row(i).data());
  });
}

template <class T>
void Cpu::normalize_rows(std::type_identity_t<MatrixView<T>> Y) const {
  parallel_for(Y.rows(), detail::pass_rows(Y.cols()), [&](index_t first, index_t last) {
    for (index_t row = first; row < last; ++row) {
      double squares = 0;
      for (T const value : Y.row(row)) squares += static_cast<double>(value) * static_cast<double>(value);
      if (!(squares > 0)) continue;
      double const factor = std::sqrt(static_cast<double>(Y.cols()) / squares);
      for (T& value : Y.row(row)) value = static_cast<T>(static_cast<double>(value) * factor);
    }
  });
}

template <class T>
double Cpu::frobenius_norm(std::type_identity_t<MatrixView<T const>> A) const {
  double const squares =
      parallel_sum(A.rows(), detail::pass_rows(A.cols()), [&](index_t first, index_t last) {
        constexpr index_t lanes = 16;
        double sums[lanes] = {};
        for (index_t row = first; row < last; ++row) {
          T const* const a = A.row(row).data();
          index_t i = 0;
          for (; i + lanes <= A.cols(); i += lanes)
            for (index_t lane = 0; lane < lanes; ++lane)
              sums[lane] += static_cast<double>(a[i + lane]) * static_cast<double>(a[i + lane]);
          for (index_t lane = 0; i < A.cols(); ++i, ++lane)
            sums[lane] += static_cast<double>(a[i]) * static_cast<double>(a[i]);
        }
        double total = 0;
        for (double const sum : sums) total += sum;
        return total;
      });
  return std::sqrt(squares);
}

static_assert(Backend<Cpu>);

}  // namespace dartquant
