// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include <dartquant/calibrate/objective.hpp>

namespace dartquant::candidates {

/// (1 - share) Whip + share Peak of one token: values pushed outward, and the largest one pulled in by more
/// than the norm that a rotation keeps.
struct WhipAndPeak {
  double share = 0.5;
  Peak peak{};

  template <class T>
  T operator()(VectorView<T const> x, VectorView<T> slope) const {
    using std::abs, std::exp;
    T const with_peak = static_cast<T>(share), with_whip = static_cast<T>(1 - share);
    T value = with_peak * peak(x, slope);
    for (index_t i = 0; i < x.size(); ++i) {
      T const whip = exp(-abs(x[i]));
      value += with_whip * whip;
      slope[i] = with_peak * slope[i] - with_whip * dartquant::detail::sign(x[i]) * whip;
    }
    return value;
  }
  void validate() const {
    dartquant::detail::require(share >= 0 && share <= 1, "[WhipAndPeak] share ", share,
                               ": must be in [0, 1]");
    peak.validate();
  }
};

}  // namespace dartquant::candidates
