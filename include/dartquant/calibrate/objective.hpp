// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>

#include <dartquant/core/backend.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/quant/scale.hpp>

/// Objectives of a calibration. Each maps the rotated values of one token to a number that is small when the
/// token suits a uniform integer grid, and gives its derivative. Convention of DartQuant: the loss of a batch
/// is the mean over tokens of the sum over channels, so one learning rate serves any batch size.
///
/// To add one, write a struct with one call operator, in one of three shapes (see core/backend.hpp), and hand
/// it to `calibrate_rotation`; nothing is registered:
///
///     struct FourthMoment {                                       // elementwise: f(x) = x^4
///       template <class V>
///       void operator()(V const& x, V& value, V& slope) const { slope = 4 * x * x * x; value = x * slope /
///       4; }
///     };
///
/// The formulas do not include Eigen and run on a device as well. Each objective checks its own parameters in
/// `validate()`; a user's struct may leave that out. An objective of a token may have a second operator whose
/// first argument is a team of threads (detail::OneThread below says what it offers): a device then gives the
/// token to a warp instead of to one thread.
namespace dartquant {

/// Anything that can be calibrated for.
template <class F, class T = float>
concept Objective = ElementwiseObjective<F, T> || TokenObjective<F, T> || RankedObjective<F, T>;

namespace detail {

/// -1, 0 or +1. Arrays of the CPU bring their own `sign`.
template <std::floating_point T>
[[nodiscard]] DARTQUANT_HD constexpr T sign(T x) {
  return static_cast<T>((x > T(0)) - (x < T(0)));
}

/// exp(x) for x <= 0 to two units in the last place, never below 1e-38. Without a call and without a branch,
/// so that a loop over it vectorises: exp(n log 2 + r) = 2^n exp(r), |r| <= log(2) / 2, the Taylor polynomial
/// of degree 7.
[[nodiscard]] DARTQUANT_HD inline float exp_nonpositive(float x) {
#if defined(__CUDA_ARCH__)
  return ::expf(x);
#else
  constexpr float to_integer = 12582912.0F;  // 1.5 * 2^23: a float this large has no fraction
  // A minimum of integers, which order positive floats alike: of floats it would be a branch.
  x = -std::bit_cast<float>(std::min(std::bit_cast<std::int32_t>(-x), std::bit_cast<std::int32_t>(87.0F)));
  float const shifted = x * 1.44269504F + to_integer;
  float const n = shifted - to_integer;
  float const r = (x - n * 0.693359375F) + n * 2.12194440e-4F;  // log(2), the first part in nine bits
  float p = 1.0F / 5040;
  p = p * r + 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  // The last bits of `shifted` are n: moved to the exponent's place they multiply by 2^n.
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(p) +
                              (std::bit_cast<std::uint32_t>(shifted) << 23));
#endif
}
[[nodiscard]] DARTQUANT_HD inline double exp_nonpositive(double x) {
  using std::exp;
  return exp(x);
}

/// The sum of f(i) over [0, count), in 16 interleaved lanes that are added in a fixed order: it vectorises,
/// and rounding errors grow 16 times slower than in one running sum.
template <class T, class F>
[[nodiscard]] DARTQUANT_HD T lane_sum(index_t count, F const& f) {
  constexpr index_t lanes = 16;
  T sums[lanes] = {};
  index_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (index_t lane = 0; lane < lanes; ++lane) sums[lane] += f(i + lane);
  for (index_t lane = 0; i < count; ++i, ++lane) sums[lane] += f(i);
  T total = 0;
  for (index_t lane = 0; lane < lanes; ++lane) total += sums[lane];
  return total;
}

/// `start` and all f(i), combined by `choose`, in interleaved lanes like lane_sum.
template <class T, class F, class Choose>
[[nodiscard]] DARTQUANT_HD T lane_choice(index_t count, T start, F const& f, Choose const& choose) {
  constexpr index_t lanes = 16;
  T best[lanes];
  for (index_t lane = 0; lane < lanes; ++lane) best[lane] = start;
  index_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (index_t lane = 0; lane < lanes; ++lane) best[lane] = choose(f(i + lane), best[lane]);
  for (index_t lane = 0; i < count; ++i, ++lane) best[lane] = choose(f(i), best[lane]);
  for (index_t lane = 0; lane < lanes; ++lane) start = choose(best[lane], start);
  return start;
}

/// A team of one. A team splits the channels of a token among its threads: each passes over its own, `sum`
/// and `largest` combine them for all. Between a write of one channel and a read of another, `synchronize`.
struct OneThread {
  template <class T, class F>
  DARTQUANT_HD T sum(index_t count, F const& f) const {
    return lane_sum<T>(count, f);
  }
  /// The largest of `start` and f(i).
  template <class T, class F>
  DARTQUANT_HD T largest(index_t count, T start, F const& f) const {
    return lane_choice(count, start, f, [](T value, T best) { return value > best ? value : best; });
  }
  template <class T, class F>
  DARTQUANT_HD T smallest(index_t count, T start, F const& f) const {
    return lane_choice(count, start, f, [](T value, T best) { return value < best ? value : best; });
  }
  template <class F>
  DARTQUANT_HD void for_each(index_t count, F const& f) const {
    for (index_t i = 0; i < count; ++i) f(i);
  }
  DARTQUANT_HD void synchronize() const {}
};

}  // namespace detail

/// Whip: f(x) = exp(-|x|), f'(x) = -sign(x) exp(-|x|), 0 at the kink. Shao et al. 2025 (arXiv 2511.04063),
/// eq. 4. Pushes small values outward; the norm, which a rotation keeps, pulls the large ones in. Not scale
/// invariant: meant for values of RMS about 1 (see RowScale). Per channel: Gaussian 0.523, uniform 0.475, all
/// equal 0.368.
struct Whip {
  template <class V>
  DARTQUANT_HD void operator()(V const& x, V& value, V& slope) const {
    using detail::sign;
    using std::abs, std::exp;
    value = exp(-abs(x));
    slope = -sign(x) * value;
  }
};

/// Second moment: f(x) = x^2. A rotation keeps a token's norm, so this carries no signal: the control
/// experiment of the paper ("variance" of values taken as zero-mean). A calibration with it stalls and
/// returns where it began.
struct Variance {
  template <class V>
  DARTQUANT_HD void operator()(V const& x, V& value, V& slope) const {
    value = x * x;
    slope = x + x;
  }
};

/// Kurtosis about zero: sum over channels of (x / RMS)^4 / `scale`, the RMS being the token's own. The scale
/// brings its pull near that of Whip. Times scale and per channel: Gaussian 3, uniform 1.8, all equal 1.
/// Tokens of zeros count 0.
struct Kurtosis {
  double scale = 8;

  template <class T>
  DARTQUANT_HD T operator()(VectorView<T const> x, VectorView<T> slope) const {
    return (*this)(detail::OneThread{}, x, slope);
  }
  template <class Team, class T>
  DARTQUANT_HD T operator()(Team const& team, VectorView<T const> x, VectorView<T> slope) const {
    index_t const channels = x.size();
    T const squares = team.template sum<T>(channels, [&](index_t i) { return x[i] * x[i]; });
    if (!(squares > T(0))) {
      team.for_each(channels, [&](index_t i) { slope[i] = T(0); });
      return T(0);
    }
    T const inverse = static_cast<T>(channels) / squares;  // 1 / mean square
    T const fourths = team.template sum<T>(channels, [&](index_t i) {
      T const s = x[i] * x[i] * inverse;
      return s * s;
    });
    T const mean = fourths / static_cast<T>(channels), factor = T(4) * inverse / static_cast<T>(scale);
    team.for_each(channels, [&](index_t i) { slope[i] = factor * x[i] * (x[i] * x[i] * inverse - mean); });
    return fourths / static_cast<T>(scale);
  }
  void validate() const { detail::require(scale > 0, "[Kurtosis] scale ", scale, ": must be above 0"); }
};

/// Soft-max weighted maximum of one token: channels * scale * sum p_i a_i, a = |x|, p = softmax(a /
/// (temperature RMS)). The derivative is exact, the RMS included. temperature -> 0 gives the largest |x|.
/// Scale invariant but for its unit. Peak suppression after InfoQuant (arXiv 2605.26175).
struct Peak {
  double temperature = 0.25;  ///< in units of the token's RMS
  double scale = 0.05;

  template <class T>
  DARTQUANT_HD T operator()(VectorView<T const> x, VectorView<T> slope) const {
    return (*this)(detail::OneThread{}, x, slope);
  }
  template <class Team, class T>
  DARTQUANT_HD T operator()(Team const& team, VectorView<T const> x, VectorView<T> slope) const {
    using std::abs, std::sqrt;
    index_t const channels = x.size();
    T const squares = team.template sum<T>(channels, [&](index_t i) { return x[i] * x[i]; });
    if (!(squares > T(0))) {
      team.for_each(channels, [&](index_t i) { slope[i] = T(0); });
      return T(0);
    }
    T const sharpness = T(1) / (static_cast<T>(temperature) * sqrt(squares / static_cast<T>(channels)));
    T const largest = team.template largest<T>(channels, T(0), [&](index_t i) { return abs(x[i]); });
    team.for_each(channels,
                  [&](index_t i) { slope[i] = detail::exp_nonpositive((abs(x[i]) - largest) * sharpness); });
    T const total = team.template sum<T>(channels, [&](index_t i) { return slope[i]; });
    T const peak = team.template sum<T>(channels, [&](index_t i) { return slope[i] * abs(x[i]); }) / total;
    T const spread = team.template sum<T>(channels, [&](index_t i) {
      T const off = abs(x[i]) - peak;
      return slope[i] * off * off;
    }) / total;
    T const factor = static_cast<T>(channels) * static_cast<T>(scale);
    T const through_rms =
        factor * spread * sharpness / squares;  // d sharpness / d x_i = -sharpness x_i / squares
    team.for_each(channels, [&](index_t i) {
      slope[i] = factor * detail::sign(x[i]) * (slope[i] / total) * (T(1) + (abs(x[i]) - peak) * sharpness) -
                 through_rms * x[i];
    });
    return factor * peak;
  }
  void validate() const {
    detail::require(temperature > 0, "[Peak] temperature ", temperature, ": must be above 0");
    detail::require(scale > 0, "[Peak] scale ", scale, ": must be above 0");
  }
};

/// Uniformity: half the squared 1-D Wasserstein-2 distance of a token's sorted values to U[-b, b], b =
/// sqrt(3) RMS, summed over channels: 1/2 sum (x_(i) - t_i)^2 with midpoint quantiles t_i = b (2 (i - 1/2) /
/// n - 1), i = 1..n. The derivative is exact: x_i - t_rank(i), less what flows through b, x_i (3 / (n b)) sum
/// (x_(k) - t_k) t_k / b. (Under a rotation that last part and the x_i vanish in A - A^T; they matter to
/// whoever moves x freely.) Ties are ordered by channel: any order is a subgradient. Source of the idea:
/// github.com/shuhan-wang1/ SNLP_DarterflyQuant, here per token. The half makes its slope as large as Whip's.
struct Uniformity {
  /// t_k / b for the k-th smallest of `channels` values, k from 0.
  template <class T>
  [[nodiscard]] DARTQUANT_HD static T quantile(index_t k, index_t channels) {
    return (static_cast<T>(2 * k + 1) - static_cast<T>(channels)) / static_cast<T>(channels);
  }

  template <class T>
  DARTQUANT_HD T operator()(VectorView<T const> x, VectorView<std::int32_t const> order,
                            VectorView<T> slope) const {
    return (*this)(detail::OneThread{}, x, order, slope);
  }
  template <class Team, class T>
  DARTQUANT_HD T operator()(Team const& team, VectorView<T const> x, VectorView<std::int32_t const> order,
                            VectorView<T> slope) const {
    using std::sqrt;
    index_t const channels = x.size();
    T const squares = team.template sum<T>(channels, [&](index_t i) { return x[i] * x[i]; });
    T const b = sqrt(T(3) * squares / static_cast<T>(channels));
    team.for_each(channels, [&](index_t k) { slope[order[k]] = x[order[k]] - b * quantile<T>(k, channels); });
    team.synchronize();
    T const value = team.template sum<T>(channels, [&](index_t i) { return slope[i] * slope[i]; }) / T(2);
    if (!(b > T(0))) return value;
    // d b / d x_i = 3 x_i / (n b); t_rank(i) = x_i - slope_i.
    T const along = team.template sum<T>(channels, [&](index_t i) { return slope[i] * (x[i] - slope[i]); });
    T const factor = T(3) * along / (static_cast<T>(channels) * b * b);
    team.for_each(channels, [&](index_t i) { slope[i] -= factor * x[i]; });
    return value;
  }
};

/// Quantization error: sum over channels of (q(x) - x)^2, q the per-token asymmetric fake quantization to
/// `bits` over the token's range times `clip` (quant/scale.hpp). The derivative is that of the paper's
/// "Quant" loss: rounding, scale and zero point held constant, 2 (x - q(x)). It is the exact derivative where
/// x is neither at a rounding jump nor an end of the range. The paper's Fig. 7a: it hardly trains.
struct QuantError {
  int bits = 4;
  double clip = 1;

  template <class T>
  DARTQUANT_HD T operator()(VectorView<T const> x, VectorView<T> slope) const {
    return (*this)(detail::OneThread{}, x, slope);
  }
  template <class Team, class T>
  DARTQUANT_HD T operator()(Team const& team, VectorView<T const> x, VectorView<T> slope) const {
    index_t const channels = x.size();
    T const low = team.template smallest<T>(channels, T(0), [&](index_t i) { return x[i]; });
    T const high = team.template largest<T>(channels, T(0), [&](index_t i) { return x[i]; });
    Quantizer<T> const quantizer =
        asymmetric_quantizer(low * static_cast<T>(clip), high * static_cast<T>(clip), bits);
    team.for_each(channels, [&](index_t i) { slope[i] = T(2) * (x[i] - quantizer.round_trip(x[i])); });
    return team.template sum<T>(channels, [&](index_t i) { return slope[i] * slope[i]; }) / T(4);
  }
  void validate() const {
    detail::require(bits >= 2 && bits <= 8, "[QuantError] ", bits, " bits: 2 to 8 are possible");
    detail::require(clip > 0 && clip <= 1, "[QuantError] clip ", clip, ": must be above 0 and at most 1");
  }
};

namespace detail {

/// Calls objective.validate() where there is one.
template <class F>
void validate_objective(F const& objective) {
  if constexpr (requires { objective.validate(); }) objective.validate();
}

}  // namespace detail
}  // namespace dartquant
