// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/cpu.hpp>
#include <dartquant/model/pipeline.hpp>

#include "flags.hpp"

namespace dartquant::program {

/// The text that the rounding of the weights looks at, at most `samples` windows spread over `source`; none
/// where every weight is rounded on its own. Errors: InvalidArgument where it is needed and was not given;
/// those of spread_windows.
[[nodiscard]] TokenWindows rounding_windows(Model const& model, TextSource const& source, index_t seqlen,
                                            index_t samples, WeightQuantization const& weights);

/// `plan` and `times` roundings on `text`; as it is where `text` has no windows.
[[nodiscard]] Plan with_rounding(Plan plan, Cpu const& cpu, Model const& model, TokenWindows const& text,
                                 double times);

}  // namespace dartquant::program
