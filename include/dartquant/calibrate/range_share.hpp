// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/calibrate/objective.hpp>
#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant::detail {

/// Of a row [Y, F]: weight |F|^2, and its slope by the ends of the range of Y to which F is proportional.
struct RangeShare {
  index_t channels = 0;  ///< of Y
  double weight = 1;

  template <class T>
  DARTQUANT_HD T operator()(VectorView<T const> x, VectorView<T> slope) const {
    T const value = static_cast<T>(weight) * lane_sum<T>(x.size() - channels, [&](index_t i) {
                      return x[channels + i] * x[channels + i];
                    });
    for (index_t i = 0; i < x.size(); ++i) slope[i] = T(0);
    index_t low = -1, high = -1;  // zero is always in the range
    for (index_t i = 0; i < channels; ++i) {
      if (x[i] < (low < 0 ? T(0) : x[low])) low = i;
      if (x[i] > (high < 0 ? T(0) : x[high])) high = i;
    }
    T const range = (high < 0 ? T(0) : x[high]) - (low < 0 ? T(0) : x[low]);
    if (!(range > T(0))) return value;
    if (high >= 0) slope[high] = T(2) * value / range;
    if (low >= 0) slope[low] = T(-2) * value / range;
    return value;
  }
};

}  // namespace dartquant::detail
