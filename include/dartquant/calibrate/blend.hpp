// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/platform.hpp>

namespace dartquant::detail {

/// An element-wise rule for Backend::update: value <- keep value + rate gradient.
template <class T>
struct Blend {
  T keep = 1;
  DARTQUANT_HD void update(T gradient, T rate, T& value, T& /*first*/, T& /*second*/) const {
    value = keep * value + rate * gradient;
  }
};

}  // namespace dartquant::detail
