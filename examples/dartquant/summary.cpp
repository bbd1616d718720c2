// SPDX-License-Identifier: Apache-2.0
#include "summary.hpp"

#include <algorithm>
#include <cmath>

namespace dartquant::program {
namespace {

using Seeds = std::span<Result const>;

/// The leading results for which `same` holds of each and the first.
template <class Same>
Seeds leading(Seeds results, Same const& same) {
  std::size_t count = 1;
  while (count < results.size() && same(results[count], results[0])) ++count;
  return results.first(count);
}

template <class Value>
Estimate over_seeds(Seeds seeds, Value const& value) {
  std::vector<double> values;
  for (Result const& seed : seeds) values.push_back(value(seed));
  return estimate(values);
}

/// From differences of nll to shares of perplexity; monotone, so the interval goes along.
Estimate as_share(Estimate difference) {
  for (double* const value : {&difference.mean, &difference.low, &difference.high})
    *value = std::expm1(*value);
  return difference;
}

/// The nll of both, seed by seed. A method without seeds has one result, which meets every seed of the other.
struct Pairs {
  std::vector<double> own, reference;

  Pairs(Seeds seeds, Seeds other) {
    std::size_t const count = std::max(seeds.size(), other.size());
    for (std::size_t i = 0; i < count; ++i) {
      own.push_back(seeds[std::min(i, seeds.size() - 1)].evaluation.nll);
      reference.push_back(other[std::min(i, other.size() - 1)].evaluation.nll);
    }
  }
};

std::vector<double> window_means(Seeds seeds) {
  std::vector<double> means(seeds.front().evaluation.window_nll.size());
  for (Result const& seed : seeds)
    for (std::size_t window = 0; window < means.size(); ++window)
      means[window] += seed.evaluation.window_nll[window] / static_cast<double>(seeds.size());
  return means;
}

MethodSummary summary_of(Seeds seeds) {
  MethodSummary result;
  result.seeds = seeds;
  result.perplexity = over_seeds(seeds, [](Result const& r) { return r.evaluation.perplexity; });
  result.kl = over_seeds(seeds, [](Result const& r) { return r.evaluation.kl; });
  result.learning_seconds = over_seeds(seeds, [](Result const& r) { return r.seconds; });
  result.top1_agreement = over_seeds(seeds, [](Result const& r) { return r.evaluation.top1_agreement; }).mean;
  result.whip_per_channel = over_seeds(seeds, [](Result const& r) { return r.whip_per_channel; }).mean;
  for (Result const& seed : seeds)
    result.peak = std::max({result.peak, seed.learning_peak, seed.evaluation_peak});
  return result;
}

void compare(MethodSummary& method, MethodSummary const& reference, double original_nll) {
  Pairs const pairs(method.seeds, reference.seeds);
  method.change = as_share(paired_difference(pairs.own, pairs.reference));
  method.change_over_windows =
      as_share(paired_difference(window_means(method.seeds), window_means(reference.seeds)));
  std::vector<double> gain, gap;
  for (std::size_t i = 0; i < pairs.own.size(); ++i) {
    gain.push_back(pairs.reference[i] - pairs.own[i]);
    gap.push_back(pairs.reference[i] - original_nll);
  }
  method.gap_closed = paired_ratio(gain, gap);
}

}  // namespace

MethodSummary const& SchemeSummary::best() const {
  return *std::min_element(
      methods.begin(), methods.end(),
      [](MethodSummary const& a, MethodSummary const& b) { return a.perplexity.mean < b.perplexity.mean; });
}

MethodSummary const* SchemeSummary::reference(Comparison const& comparison) const {
  auto const found = std::find_if(methods.begin(), methods.end(), [&](MethodSummary const& method) {
    return method.method() == comparison.reference;
  });
  return found == methods.end() ? nullptr : &*found;
}

std::vector<SchemeSummary> summarize(Comparison const& comparison) {
  std::vector<SchemeSummary> schemes;
  for (Seeds rest = comparison.results; !rest.empty();) {
    Seeds const seeds = leading(
        rest, [](Result const& a, Result const& b) { return a.scheme == b.scheme && a.method == b.method; });
    rest = rest.subspan(seeds.size());
    if (schemes.empty() || !(schemes.back().scheme == seeds[0].scheme))
      schemes.push_back({seeds[0].scheme, {}});
    schemes.back().methods.push_back(summary_of(seeds));
  }
  for (SchemeSummary& scheme : schemes) {
    MethodSummary const* const reference = scheme.reference(comparison);
    if (reference == nullptr) continue;
    for (MethodSummary& method : scheme.methods)
      if (&method != reference) compare(method, *reference, comparison.baseline.nll);
  }
  return schemes;
}

std::array<double, site_count + 1> mean_errors(QuantizationErrors const& errors) {
  std::array<double, site_count + 1> means{};
  double const layers = static_cast<double>(errors.sites.size() / site_count);
  for (SiteError const& error : errors.sites)
    means[static_cast<std::size_t>(error.site)] += error.relative / layers;
  for (WeightError const& error : errors.weights)
    means[site_count] += error.relative / static_cast<double>(errors.weights.size());
  return means;
}

}  // namespace dartquant::program
