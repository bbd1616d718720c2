// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// Per-channel division: X <- X diag(1/s), and W <- W diag(s), so that X W^T is unchanged.
class DiagonalScale {
 public:
  /// Errors: InvalidArgument unless every scale is finite and positive.
  explicit DiagonalScale(std::vector<double> scale) : scale_(std::move(scale)) {
    for (std::size_t i = 0; i < scale_.size(); ++i)
      detail::require(std::isfinite(scale_[i]) && scale_[i] > 0, "[DiagonalScale] scale ", scale_[i],
                      " of channel ", i, ": must be finite and positive");
  }

  [[nodiscard]] index_t channels() const { return static_cast<index_t>(scale_.size()); }
  [[nodiscard]] std::vector<double> const& scale() const { return scale_; }

  /// X [tokens, channels] <- X diag(1/s), in place. The gain of a norm that feeds X is the view {data, 1,
  /// channels}: dividing it instead costs nothing at run time.
  void apply(Cpu const& cpu, MatrixView<float> X) const { divide(cpu, X); }
  void apply(Cpu const& cpu, MatrixView<double> X) const { divide(cpu, X); }
  /// X <- X diag(s).
  void apply_inverse(Cpu const& cpu, MatrixView<float> X) const { multiply(cpu, X); }
  void apply_inverse(Cpu const& cpu, MatrixView<double> X) const { multiply(cpu, X); }
  /// W [out, channels] <- W diag(s): the input side of the layers that read X.
  void fold(Cpu const& cpu, MatrixView<float> W) const { multiply(cpu, W); }
  void fold(Cpu const& cpu, MatrixView<double> W) const { multiply(cpu, W); }
  /// W [channels, in] <- diag(1/s) W: the output side of the layer that makes X, in place of apply. A bias is
  /// the view {data, channels, 1}.
  void fold_outputs(Cpu const& cpu, MatrixView<float> W) const { divide_rows(cpu, W); }
  void fold_outputs(Cpu const& cpu, MatrixView<double> W) const { divide_rows(cpu, W); }

 private:
  static constexpr index_t rows_per_range = 32;

  template <class T>
  void divide(Cpu const& cpu, MatrixView<T> X) const;
  template <class T>
  void multiply(Cpu const& cpu, MatrixView<T> X) const;
  template <class T, class Operation>
  void each(Cpu const& cpu, MatrixView<T> X, Operation operation) const {
    detail::require(X.cols() == channels(), "[DiagonalScale] matrix of ", X.rows(), " x ", X.cols(),
                    ": there are ", channels(), " scales");
    cpu.parallel_for(X.rows(), rows_per_range, [&](index_t first, index_t last) {
      for (index_t row = first; row < last; ++row)
        for (index_t i = 0; i < X.cols(); ++i)
          X(row, i) = operation(X(row, i), scale_[static_cast<std::size_t>(i)]);
    });
  }
  template <class T>
  void divide_rows(Cpu const& cpu, MatrixView<T> W) const;

  std::vector<double> scale_;
};

template <class T>
void DiagonalScale::divide(Cpu const& cpu, MatrixView<T> X) const {
  each(cpu, X, [](T value, double s) { return static_cast<T>(static_cast<double>(value) / s); });
}

template <class T>
void DiagonalScale::multiply(Cpu const& cpu, MatrixView<T> X) const {
  each(cpu, X, [](T value, double s) { return static_cast<T>(static_cast<double>(value) * s); });
}

template <class T>
void DiagonalScale::divide_rows(Cpu const& cpu, MatrixView<T> W) const {
  detail::require(W.rows() == channels(), "[DiagonalScale] outputs of ", W.rows(), " x ", W.cols(),
                  ": there are ", channels(), " scales");
  cpu.parallel_for(W.rows(), rows_per_range, [&](index_t first, index_t last) {
    for (index_t row = first; row < last; ++row)
      for (T& value : W.row(row))
        value = static_cast<T>(static_cast<double>(value) / scale_[static_cast<std::size_t>(row)]);
  });
}

namespace detail {

template <class T>
void raise_channel_peaks(Cpu const& cpu, MatrixView<T const> X, VectorView<double> peaks) {
  require(X.cols() == peaks.size(), "[raise_channel_peaks] matrix of ", X.rows(), " x ", X.cols(), " and ",
          peaks.size(), " peaks: one peak per column is needed");
  for (index_t i = 0; i < X.rows(); ++i)  // before the first peak changes
    for (index_t j = 0; j < X.cols(); ++j)
      require(std::isfinite(X(i, j)), "[raise_channel_peaks] the value at row ", i, ", channel ", j, " is ",
              X(i, j), ": every value must be finite");
  constexpr index_t channels_per_range = 64;
  cpu.parallel_for(X.cols(), channels_per_range, [&](index_t first, index_t last) {
    for (index_t i = 0; i < X.rows(); ++i)
      for (index_t j = first; j < last; ++j)
        peaks[j] = std::max(peaks[j], std::abs(static_cast<double>(X(i, j))));
  });
}

}  // namespace detail

/// peaks_j <- max(peaks_j, max_i |X_ij|): the largest magnitude of every channel of X [tokens, channels] (or
/// of every input of W [out, channels]), batch after batch; start from zeros. Errors: InvalidArgument when
/// the sizes differ or with the place of a value that is not finite; peaks are then unchanged. Cost: two
/// passes over X.
inline void raise_channel_peaks(Cpu const& cpu, MatrixView<float const> X, VectorView<double> peaks) {
  detail::raise_channel_peaks(cpu, X, peaks);
}
inline void raise_channel_peaks(Cpu const& cpu, MatrixView<double const> X, VectorView<double> peaks) {
  detail::raise_channel_peaks(cpu, X, peaks);
}

/// How the scales of a smoothing follow from peaks. The defaults are DuQuant's.
struct SmoothingOptions {
  /// [0, 1]: 0 evens out the weights, 1 the activations. DuQuant: 0.6 with plain rounding, 0.5 with learned
  /// weight clipping; SmoothQuant: 0.5.
  double alpha = 0.6;
  double smallest_peak = 1e-5;   ///< peaks are raised to it, positive
  double smallest_scale = 1e-2;  ///< scales are raised to it, positive

  /// Errors: InvalidArgument.
  void validate() const {
    detail::require(alpha >= 0 && alpha <= 1, "[SmoothingOptions] alpha ", alpha, ": must be in [0, 1]");
    detail::require(smallest_peak > 0 && std::isfinite(smallest_peak), "[SmoothingOptions] smallest peak ",
                    smallest_peak, ": must be finite and positive");
    detail::require(smallest_scale > 0 && std::isfinite(smallest_scale), "[SmoothingOptions] smallest scale ",
                    smallest_scale, ": must be finite and positive");
  }
};

/// The scales s_j = a_j^alpha / w_j^(1 - alpha), a_j = max_t |X_tj|, w_j = max_o |W_oj|: X / s and W s share
/// the difficulty of a channel. A channel whose activations are all zero has s = 1 (DuQuant's code gives it
/// the smallest scale, which would enlarge the channel 100 times if it woke up after the calibration).
/// Errors: InvalidArgument when the sizes differ, an option is out of range, or a peak is negative or not
/// finite. Source: SmoothQuant (arXiv 2211.10438), DuQuant (arXiv 2406.01721).
[[nodiscard]] inline DiagonalScale smoothing_scale(VectorView<double const> activation_peaks,
                                                   VectorView<double const> weight_peaks,
                                                   SmoothingOptions const& options = {}) {
  options.validate();
  detail::require(activation_peaks.size() == weight_peaks.size(), "[smoothing_scale] ",
                  activation_peaks.size(), " activation peaks and ", weight_peaks.size(),
                  " weight peaks: one of each per channel is needed");
  std::vector<double> scale(static_cast<std::size_t>(activation_peaks.size()), 1.0);
  for (index_t j = 0; j < activation_peaks.size(); ++j) {
    double const a = activation_peaks[j], w = weight_peaks[j];
    detail::require(a >= 0 && std::isfinite(a), "[smoothing_scale] activation peak ", a, " of channel ", j,
                    ": must be finite and not negative");
    detail::require(w >= 0 && std::isfinite(w), "[smoothing_scale] weight peak ", w, " of channel ", j,
                    ": must be finite and not negative");
    if (a == 0) continue;
    double const s = std::pow(std::max(a, options.smallest_peak), options.alpha) /
                     std::pow(std::max(w, options.smallest_peak), 1 - options.alpha);
    scale[static_cast<std::size_t>(j)] = std::max(s, options.smallest_scale);
  }
  return DiagonalScale(std::move(scale));
}

/// The two sides of a smoothing between the values and the output projection of attention.
struct HeadScales {
  DiagonalScale values;  ///< [kv_heads head_dim]: for fold_outputs on v_proj (and on its bias)
  DiagonalScale inputs;  ///< [heads head_dim]: for fold on o_proj; equal in all query heads of a KV head
};

/// Scales of the inputs of o_proj that v_proj can carry exactly: the query heads of a group read the same KV
/// head, so they share its scales, the largest of theirs. Attention weights mix tokens, not channels, so
/// o_proj(attention(v / s) s) is unchanged. `scale` has heads * head_dim channels; query head h reads KV head
/// h / (heads / kv_heads), as in all Llama-type models. With kv_heads == heads nothing changes. (DuQuant's
/// code divides online instead.) Errors: InvalidArgument when the counts do not divide.
[[nodiscard]] inline HeadScales share_head_scales(DiagonalScale const& scale, index_t heads,
                                                  index_t kv_heads) {
  detail::require(heads >= 1 && kv_heads >= 1 && heads % kv_heads == 0, "[share_head_scales] ", heads,
                  " heads and ", kv_heads, " KV heads: the second must divide the first");
  detail::require(scale.channels() % heads == 0, "[share_head_scales] ", scale.channels(), " scales for ",
                  heads, " heads: the heads must divide them");
  index_t const head_dim = scale.channels() / heads, group = heads / kv_heads;
  std::vector<double> values(static_cast<std::size_t>(kv_heads * head_dim), 0.0), inputs(scale.scale());
  auto const value_of = [&](index_t channel) -> double& {
    return values[static_cast<std::size_t>(channel / head_dim / group * head_dim + channel % head_dim)];
  };
  for (index_t j = 0; j < scale.channels(); ++j)
    value_of(j) = std::max(value_of(j), inputs[static_cast<std::size_t>(j)]);
  for (index_t j = 0; j < scale.channels(); ++j) inputs[static_cast<std::size_t>(j)] = value_of(j);
  return {DiagonalScale(std::move(values)), DiagonalScale(std::move(inputs))};
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template void DiagonalScale::divide<float>(Cpu const&, MatrixView<float>) const;
DARTQUANT_COMPILED template void DiagonalScale::divide<double>(Cpu const&, MatrixView<double>) const;
DARTQUANT_COMPILED template void DiagonalScale::multiply<float>(Cpu const&, MatrixView<float>) const;
DARTQUANT_COMPILED template void DiagonalScale::multiply<double>(Cpu const&, MatrixView<double>) const;
DARTQUANT_COMPILED template void DiagonalScale::divide_rows<float>(Cpu const&, MatrixView<float>) const;
DARTQUANT_COMPILED template void DiagonalScale::divide_rows<double>(Cpu const&, MatrixView<double>) const;
DARTQUANT_COMPILED template void detail::raise_channel_peaks<float>(Cpu const&, MatrixView<float const>,
                                                                    VectorView<double>);
DARTQUANT_COMPILED template void detail::raise_channel_peaks<double>(Cpu const&, MatrixView<double const>,
                                                                     VectorView<double>);
}  // namespace dartquant
#endif
