// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/cpu.hpp>
#include <dartquant/model/pipeline.hpp>

#include "own_text.hpp"

namespace dartquant::program {

/// The text that the rounding of the weights looks at; none where every weight is rounded on its own. Errors:
/// those of LearningText::windows.
[[nodiscard]] TokenWindows rounding_windows(LearningText& text, WeightQuantization const& weights);

/// `plan` and `times` roundings on `text`; as it is where `text` has no windows.
[[nodiscard]] Plan with_rounding(Plan plan, Cpu const& cpu, Model const& model, TokenWindows const& text,
                                 double times);

}  // namespace dartquant::program
