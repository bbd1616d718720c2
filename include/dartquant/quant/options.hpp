// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/error.hpp>
#include <dartquant/quant/granularity.hpp>
#include <dartquant/quant/scale.hpp>

namespace dartquant {

/// How the range of a scale is shortened. `none`: by clip_ratio. `mse`: by the factor p of 1.00, 0.99, ...,
/// 0.21 that minimises sum |x - Q(x)|^2.4 over the values of the scale, the largest of equals (the search of
/// GPTQ, QuaRot and DartQuant for weights; called "MSE" there although the exponent is 2.4).
enum class ClipSearch { none, mse };

/// In which order GPTQ rounds channels. `act_order`: the largest diagonal of the Hessian first. Groups stay
/// consecutive channels: their scales are then fitted on the weight as it came ("static groups").
enum class GptqOrder { natural, act_order };

/// How a matrix is quantized.
struct QuantizeOptions {
  int bits = 4;                             ///< 2..8
  Granularity granularity = per_row;        ///< which values share a scale
  Symmetry symmetry = Symmetry::symmetric;  ///< asymmetric: with an integer zero point
  double clip_ratio = 1;                    ///< (0, 1]: the part of the range that is kept
  ClipSearch clip_search = ClipSearch::none;

  /// Errors: InvalidArgument.
  void validate() const {
    detail::require(bits >= 2 && bits <= 8, "[QuantizeOptions] ", bits,
                    " bits: choose between 2 and 8, or leave the values as they are");
    detail::require(clip_ratio > 0 && clip_ratio <= 1, "[QuantizeOptions] clip ratio ", clip_ratio,
                    ": it must be above 0 and at most 1");
    detail::require(clip_search == ClipSearch::none || clip_ratio == 1, "[QuantizeOptions] clip ratio ",
                    clip_ratio,
                    " together with the clip search: the search chooses the ratio, leave it at 1");
    granularity.validate();
  }
};

/// Options for a KV cache [tokens, kv_heads * head_dim] as QuaRot, SpinQuant and DartQuant quantize it:
/// asymmetric, one scale per token and head, nothing clipped.
[[nodiscard]] inline QuantizeOptions kv_options(int bits, index_t head_dim) {
  QuantizeOptions options;
  options.bits = bits;
  options.granularity = per_group(head_dim);
  options.symmetry = Symmetry::asymmetric;
  return options;
}

}  // namespace dartquant
