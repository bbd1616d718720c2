// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include <dartquant/core/matrix.hpp>
#include <dartquant/quant/options.hpp>

namespace dartquant {

/// Token ids [windows, tokens]: every row is a sequence of its own at positions 0, 1, ...
using TokenWindows = RowMatrix<std::int32_t>;

/// How weights become levels. All but `nearest` need text: the inputs of every layer on it say which errors
/// matter.
enum class WeightRounding {
  nearest,  ///< every weight on its own
  gptq,     ///< channel by channel, the later ones making up for the errors of the earlier (quant/gptq.hpp)
  learned_clip  ///< to nearest, in the ranges with the least output error (quant/learned_clip.hpp)
};
/// "rtn" "gptq" "lwc".
[[nodiscard]] std::string_view name_of(WeightRounding rounding);
/// The rounding of a name. Errors: InvalidArgument that lists the names.
[[nodiscard]] WeightRounding parse_rounding(std::string_view name);

/// Quantization of weights [out, in] to integers.
struct WeightQuantization {
  int bits = 16;      ///< 2..8, or 16: off
  index_t group = 0;  ///< 0: one scale per output channel; else one per `group` consecutive inputs
  ClipSearch clip = ClipSearch::mse;  ///< searched per scale; learned_clip has a search of its own
  Symmetry symmetry = Symmetry::symmetric;
  WeightRounding rounding = WeightRounding::nearest;
  GptqOrder order = GptqOrder::natural;  ///< of gptq
  double damping = 0.01;                 ///< of gptq, see GptqOptions

  [[nodiscard]] bool active() const { return bits < 16; }
  /// The Hessian of the layers' inputs is needed, and with it text.
  [[nodiscard]] bool needs_text() const { return active() && rounding != WeightRounding::nearest; }
  /// Errors: InvalidArgument.
  void validate() const;
};

}  // namespace dartquant
