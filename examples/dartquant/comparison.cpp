// SPDX-License-Identifier: Apache-2.0
#include "comparison.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include <fmt/core.h>

#include "table.hpp"
#include "units.hpp"

namespace dartquant::program {
namespace {

/// The results of one scheme and method: its seeds.
using Seeds = std::span<Result const>;

struct Spread {
  double mean = 0;
  double deviation = 0;  ///< sample standard deviation; 0 for a single value
};

template <class Value>
Spread spread(Seeds seeds, Value const& value) {
  double const count = static_cast<double>(seeds.size());
  Spread result;
  for (Result const& seed : seeds) result.mean += value(seed) / count;
  for (Result const& seed : seeds) result.deviation += std::pow(value(seed) - result.mean, 2);
  result.deviation = seeds.size() > 1 ? std::sqrt(result.deviation / (count - 1)) : 0;
  return result;
}

double perplexity(Result const& result) { return result.evaluation.perplexity; }

/// The leading results for which `same` holds of each and the first.
template <class Same>
Seeds leading(Seeds results, Same const& same) {
  std::size_t count = 1;
  while (count < results.size() && same(results[count], results[0])) ++count;
  return results.first(count);
}

std::string format_spread(Spread const& value, int decimals, std::size_t seeds) {
  if (seeds == 1) return fmt::format("{:.{}f}", value.mean, decimals);
  return fmt::format("{:.{}f} {} {:.{}f}", value.mean, decimals, plus_minus(), value.deviation, decimals);
}

void add_method(Table& table, Seeds seeds, double best) {
  Spread const quality = spread(seeds, perplexity);
  bool const is_best = quality.mean == best;
  double const learning = spread(seeds, [](Result const& r) { return r.seconds; }).mean;
  table.add_row(
      {(is_best ? "* " : "  ") + std::string(dartquant::name_of(seeds[0].method)),
       format_spread(quality, 4, seeds.size()),
       format_spread(spread(seeds, [](Result const& r) { return r.evaluation.kl; }), 4, seeds.size()),
       fmt::format("{:.2f} %",
                   100 * spread(seeds, [](Result const& r) { return r.evaluation.top1_agreement; }).mean),
       fmt::format("{:.4f}", spread(seeds, [](Result const& r) { return r.whip_per_channel; }).mean),
       learning > 0 ? format_seconds(learning) : "-"},
      is_best ? Table::Style::bold : Table::Style::plain);
}

/// The results of one scheme, method by method.
void add_scheme(Table& table, Seeds results) {
  std::vector<Seeds> methods;
  while (!results.empty()) {
    methods.push_back(
        leading(results, [](Result const& a, Result const& b) { return a.method == b.method; }));
    results = results.subspan(methods.back().size());
  }
  double best = std::numeric_limits<double>::infinity();
  for (Seeds const& seeds : methods) best = std::min(best, spread(seeds, perplexity).mean);
  table.add_heading(methods.front()[0].scheme.name());
  for (Seeds const& seeds : methods) add_method(table, seeds, best);
}

}  // namespace

std::string comparison_table(Comparison const& comparison) {
  Table table(
      {{"", Table::Align::left}, {"perplexity"}, {"KL"}, {"same top-1"}, {"Whip/channel"}, {"learning"}});
  table.add_row({"original", fmt::format("{:.4f}", comparison.baseline.perplexity), "-", "-",
                 fmt::format("{:.4f}", comparison.whip_before), "-"});
  Seeds rest = comparison.results;
  while (!rest.empty()) {
    Seeds const scheme = leading(rest, [](Result const& a, Result const& b) { return a.scheme == b.scheme; });
    add_scheme(table, scheme);
    rest = rest.subspan(scheme.size());
  }
  return table.text();
}

Json to_json(Comparison const& comparison) {
  Json report{{"baseline", to_json(comparison.baseline)}, {"results", Json::array()}};
  report["baseline"]["whip_per_channel"] = comparison.whip_before;
  for (Result const& result : comparison.results) {
    Evaluation const& found = result.evaluation;
    report["results"].push_back({{"method", std::string(dartquant::name_of(result.method))},
                                 {"scheme", result.scheme.name()},
                                 {"rotations", result.rotations.name()},
                                 {"seed", result.seed},
                                 {"perplexity", found.perplexity},
                                 {"kl", found.kl},
                                 {"whip_per_channel", result.whip_per_channel},
                                 {"seconds", result.seconds},
                                 {"standard_error", found.standard_error},
                                 {"top1_agreement", found.top1_agreement},
                                 {"evaluation_seconds", result.evaluation_seconds}});
  }
  return report;
}

}  // namespace dartquant::program
