// SPDX-License-Identifier: Apache-2.0
#include "end_to_end/straight_through.hpp"

#include <dartquant/quant/scale.hpp>

namespace dartquant::end_to_end {
namespace {

constexpr index_t rows_per_range = 64;

}  // namespace

template <class T>
void StraightThrough<T>::forward(Cpu const& cpu, index_t group, MatrixView<T> X) {
  if (bits_ > 8) return;
  index_t const groups = X.cols() / group;
  group_ = group;
  if (!held_) {
    residuals_.resize(X.rows(), X.cols());
    ends_.assign(static_cast<std::size_t>(X.rows() * groups), Ends{});
  }
  auto const steps = static_cast<T>((1 << bits_) - 1);
  cpu.parallel_for(X.rows() * groups, rows_per_range, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) {
      T* const x = &X(i / groups, i % groups * group);
      T* const u = &residuals_(i / groups, i % groups * group);
      Ends& ends = ends_[static_cast<std::size_t>(i)];
      if (!held_) {
        ends = {};
        for (index_t j = 0; j < group; ++j) {
          if (x[j] < (ends.low < 0 ? T(0) : x[ends.low])) ends.low = j;
          if (x[j] > (ends.high < 0 ? T(0) : x[ends.high])) ends.high = j;
        }
      }
      T const low = ends.low < 0 ? T(0) : x[ends.low], high = ends.high < 0 ? T(0) : x[ends.high];
      auto const quantizer = asymmetric_quantizer(low, high, bits_);
      T const scale = (high - low) / steps;
      for (index_t j = 0; j < group; ++j) {
        if (!held_) u[j] = scale > T(0) ? (quantizer.round_trip(x[j]) - x[j]) / scale : T(0);
        x[j] += scale * u[j];
      }
    }
  });
}

template <class T>
void StraightThrough<T>::backward(Cpu const& cpu, MatrixView<T> gradient) const {
  if (bits_ > 8) return;
  index_t const groups = gradient.cols() / group_;
  auto const steps = static_cast<T>((1 << bits_) - 1);
  cpu.parallel_for(gradient.rows() * groups, rows_per_range, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) {
      T* const g = &gradient(i / groups, i % groups * group_);
      T const* const u = &residuals_(i / groups, i % groups * group_);
      Ends const& ends = ends_[static_cast<std::size_t>(i)];
      T by_scale = 0;
      for (index_t j = 0; j < group_; ++j) by_scale += g[j] * u[j];
      if (ends.high >= 0) g[ends.high] += by_scale / steps;
      if (ends.low >= 0) g[ends.low] -= by_scale / steps;
    }
  });
}

template class StraightThrough<float>;
template class StraightThrough<double>;

}  // namespace dartquant::end_to_end
