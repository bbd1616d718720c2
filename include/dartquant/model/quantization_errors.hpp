// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/model/architecture.hpp>
#include <dartquant/model/forward.hpp>

namespace dartquant {

/// sum |x - Q(x)|^2 / sum |x|^2 of one site of one layer over all tokens.
struct SiteError {
  Site site;
  index_t layer = 0;
  double relative = 0;
};

/// The same of one weight, gains and rotations folded.
struct WeightError {
  Linear linear;
  index_t layer = 0;
  double relative = 0;
};

/// Layer by layer, in the order of the enums. 0 where the scheme leaves the values as they are.
struct QuantizationErrors {
  std::vector<SiteError> sites{};      ///< [layers * site_count]
  std::vector<WeightError> weights{};  ///< [layers * linear_count]
};

/// Where the error of a quantized model arises: what the quantizers of `options` do to the values that they
/// meet in a quantized forward pass over `windows` (so the errors of earlier layers are in them), and to the
/// weights. Cost: a forward pass, and every weight rounded once more. Errors: those of hidden_states.
[[nodiscard]] QuantizationErrors quantization_errors(Cpu const& cpu, Model const& model,
                                                     TokenWindows const& windows,
                                                     ForwardOptions const& options);

/// Such as "o_proj".
[[nodiscard]] std::string_view name_of(Linear linear);

}  // namespace dartquant
