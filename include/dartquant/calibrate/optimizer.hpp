// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <concepts>
#include <numbers>

#include <dartquant/core/error.hpp>
#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// A first-order optimizer: a formula per element with up to two state values, which start at 0.
template <class O>
concept Optimizer = requires(O const& optimizer, float gradient, float& value, index_t step, double rate) {
  { O::state_count } -> std::convertible_to<int>;
  optimizer.template update<float>(gradient, gradient, value, value, value);
  { optimizer.rate_at(step, rate) } -> std::convertible_to<double>;
  { optimizer.rate_for(rate, rate, step) } -> std::convertible_to<double>;
  optimizer.validate();
};

/// Gradient descent with momentum: v <- momentum v + g, z <- z - rate v. The paper's optimizer.
struct Sgd {
  double momentum = 0.9;

  static constexpr int state_count = 1;
  template <class T>
  DARTQUANT_HD void update(T gradient, T rate, T& value, T& velocity, T& /*second*/) const {
    velocity = static_cast<T>(momentum) * velocity + gradient;
    value -= rate * velocity;
  }
  /// The rate of step `step` (from 1): unchanged.
  [[nodiscard]] DARTQUANT_HD double rate_at(index_t /*step*/, double rate) const { return rate; }
  /// The rate at which steady gradients of Frobenius norm `gradient_norm` move a [channels, channels] latent
  /// by `relative_step` sqrt(channels) per step, i.e. by that fraction of the norm of an orthogonal matrix.
  [[nodiscard]] DARTQUANT_HD double rate_for(double relative_step, double gradient_norm,
                                             index_t channels) const {
    using std::sqrt;
    return relative_step * (1 - momentum) * sqrt(static_cast<double>(channels)) / gradient_norm;
  }
  void validate() const {
    detail::require(momentum >= 0 && momentum < 1, "[Sgd] momentum ", momentum, ": must be in [0, 1)");
  }
};

/// Adam (Kingma and Ba 2015, in the order of computation of its section 2): m <- beta1 m + (1 - beta1) g,
/// v <- beta2 v + (1 - beta2) g^2, z <- z - rate sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + epsilon).
struct Adam {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;

  static constexpr int state_count = 2;
  template <class T>
  DARTQUANT_HD void update(T gradient, T rate, T& value, T& first, T& second) const {
    using std::sqrt;
    T const b1 = static_cast<T>(beta1), b2 = static_cast<T>(beta2);
    first = b1 * first + (T(1) - b1) * gradient;
    second = b2 * second + (T(1) - b2) * gradient * gradient;
    value -= rate * first / (sqrt(second) + static_cast<T>(epsilon));
  }
  [[nodiscard]] DARTQUANT_HD double rate_at(index_t step, double rate) const {
    using std::pow, std::sqrt;
    double const t = static_cast<double>(step);
    return rate * sqrt(1 - pow(beta2, t)) / (1 - pow(beta1, t));
  }
  /// Every element moves by about the rate, whatever the gradient's size.
  [[nodiscard]] DARTQUANT_HD double rate_for(double relative_step, double /*gradient_norm*/,
                                             index_t channels) const {
    using std::sqrt;
    return relative_step / sqrt(static_cast<double>(channels));
  }
  void validate() const {
    detail::require(beta1 >= 0 && beta1 < 1, "[Adam] beta1 ", beta1, ": must be in [0, 1)");
    detail::require(beta2 >= 0 && beta2 < 1, "[Adam] beta2 ", beta2, ": must be in [0, 1)");
    detail::require(epsilon > 0, "[Adam] epsilon ", epsilon, ": must be above 0");
  }
};

/// How the learning rate goes over the steps of a calibration.
enum class Schedule {
  constant,  ///< the same throughout (the paper's)
  cosine     ///< rate (1 + cos(pi s / steps)) / 2: to 0 along half a cosine
};

/// The factor of the learning rate in step `step` of `steps`, step from 0.
[[nodiscard]] inline double schedule_factor(Schedule schedule, index_t step, index_t steps) {
  if (schedule == Schedule::constant || steps <= 1) return 1;
  return (1 + std::cos(std::numbers::pi * static_cast<double>(step) / static_cast<double>(steps))) / 2;
}

}  // namespace dartquant
