// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <dartquant/model/pipeline.hpp>

#include "report.hpp"

namespace dartquant::program {

/// One method with one seed under one scheme.
struct Result {
  Method method;
  Scheme scheme;
  RotationSet rotations;
  std::uint64_t seed = 0;
  Evaluation evaluation;
  double whip_per_channel = 0;
  double seconds = 0;  ///< of learning
  double evaluation_seconds = 0;
};

/// All results, scheme by scheme, method by method, seed by seed.
struct Comparison {
  Evaluation baseline;
  double whip_before = 0;  ///< per channel, of the unrotated model
  std::vector<Result> results;
};

/// The original first, then one row per scheme and method: mean and spread over seeds, the best marked.
[[nodiscard]] std::string comparison_table(Comparison const& comparison);

/// {"baseline": {"perplexity": P}, "results": [{"method", "scheme", "rotations", "seed", "perplexity", "kl",
/// "whip_per_channel", "seconds"}, ...]} and more keys.
[[nodiscard]] Json to_json(Comparison const& comparison);

}  // namespace dartquant::program
