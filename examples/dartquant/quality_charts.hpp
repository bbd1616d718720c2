// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "summary.hpp"

namespace dartquant::program {

/// Which of the methods a picture sets off: "best", "reference", or "other".
[[nodiscard]] std::string look_of(MethodSummary const& method, SchemeSummary const& scheme,
                                  Comparison const& comparison);

/// Perplexity of every method, best first: the mean, its interval over seeds, the seeds themselves.
[[nodiscard]] std::string perplexity_chart(SchemeSummary const& scheme, Comparison const& comparison);

/// The change against the reference, best first: the interval over seeds thick, over windows thin, and zero.
/// Empty where nothing can be compared.
[[nodiscard]] std::string change_chart(SchemeSummary const& scheme, Comparison const& comparison);

/// Learning time against perplexity, one dot per method.
[[nodiscard]] std::string time_chart(SchemeSummary const& scheme, Comparison const& comparison);

/// The loss of R1 over time of all methods that minimise `objective`, one line per seed; empty where there
/// are none.
[[nodiscard]] std::string loss_chart(LearnedObjective objective, Comparison const& comparison);

}  // namespace dartquant::program
