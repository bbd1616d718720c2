// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "comparison.hpp"
#include "statistics.hpp"

namespace dartquant::program {

/// The seeds of one method under one scheme. Intervals are 95 %.
struct MethodSummary {
  std::span<Result const> seeds;
  Estimate perplexity, kl, learning_seconds;
  double top1_agreement = 0, whip_per_channel = 0;  ///< means
  /// Perplexity against the reference's, as a share: -0.02 is 2 % lower. From the paired differences of nll,
  /// over seeds (the luck of the rotation), and over windows of the mean of all seeds (the luck of the text).
  /// Empty for the reference itself.
  std::optional<Estimate> change, change_over_windows;
  /// (reference - this) / (reference - original) in nll, paired over seeds: 1 is as good as the original.
  std::optional<Estimate> gap_closed;
  PeakBytes peak = 0;  ///< the largest of learning and evaluation; 0: not measured

  [[nodiscard]] Method method() const { return seeds.front().method; }
  [[nodiscard]] Result const& first() const { return seeds.front(); }
  [[nodiscard]] std::string name() const { return std::string(dartquant::name_of(method())); }
};

struct SchemeSummary {
  Scheme scheme;
  std::vector<MethodSummary> methods;

  [[nodiscard]] MethodSummary const& best() const;  ///< the lowest mean perplexity
  /// The reference, or null where it is not among the methods.
  [[nodiscard]] MethodSummary const* reference(Comparison const& comparison) const;
};

/// Scheme by scheme, method by method, in the order of the results. `comparison` must outlive the summary.
[[nodiscard]] std::vector<SchemeSummary> summarize(Comparison const& comparison);

/// Means over layers: the sites in their order, then all weights.
[[nodiscard]] std::array<double, site_count + 1> mean_errors(QuantizationErrors const& errors);

}  // namespace dartquant::program
