// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include <dartquant/model/forward.hpp>

namespace dartquant::detail {

/// What hidden_states returns, and sentences on the rounding of the weights.
struct HiddenStates {
  RowMatrix<float> hidden;
  std::vector<std::string> notes;
};
[[nodiscard]] HiddenStates run_layers(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                                      ForwardOptions const& options);

}  // namespace dartquant::detail
