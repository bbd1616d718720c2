// SPDX-License-Identifier: Apache-2.0
#include "comparison.hpp"

#include <fmt/core.h>

#include "summary.hpp"
#include "table.hpp"
#include "units.hpp"

namespace dartquant::program {
namespace {

std::string format_spread(Estimate const& value, int decimals) {
  if (value.count == 1) return fmt::format("{:.{}f}", value.mean, decimals);
  return fmt::format("{:.{}f} {} {:.{}f}", value.mean, decimals, plus_minus(), value.deviation, decimals);
}

std::string format_change(MethodSummary const& method) {
  if (!method.change) return "-";
  Estimate const& shown = method.change->has_interval() ? *method.change : *method.change_over_windows;
  std::string text = fmt::format("{:+.2f} %", 100 * method.change->mean);
  if (shown.has_interval()) text += fmt::format(" [{:+.2f}, {:+.2f}]", 100 * shown.low, 100 * shown.high);
  return text;
}

void add_method(Table& table, MethodSummary const& method, bool is_best) {
  double const learning = method.learning_seconds.mean;
  table.add_row(
      {(is_best ? "* " : "  ") + method.name(), format_spread(method.perplexity, 4), format_change(method),
       method.gap_closed ? fmt::format("{:.0f} %", 100 * method.gap_closed->mean) : "-",
       format_spread(method.kl, 4), fmt::format("{:.2f} %", 100 * method.top1_agreement),
       fmt::format("{:.4f}", method.whip_per_channel), learning > 0 ? format_seconds(learning) : "-",
       method.peak > 0 ? format_bytes(method.peak) : "-"},
      is_best ? Table::Style::bold : Table::Style::plain);
}

std::string quality_table(Comparison const& comparison, std::vector<SchemeSummary> const& schemes) {
  Table table({{"", Table::Align::left},
               {"perplexity"},
               {fmt::format("against {}", dartquant::name_of(comparison.reference))},
               {"gap closed"},
               {"KL"},
               {"same top-1"},
               {"Whip/channel"},
               {"learning"},
               {"memory"}});
  table.add_row({"original", fmt::format("{:.4f}", comparison.baseline.perplexity), "-", "-", "-", "-",
                 fmt::format("{:.4f}", comparison.whip_before), "-", "-"});
  for (SchemeSummary const& scheme : schemes) {
    table.add_heading(scheme.scheme.name());
    for (MethodSummary const& method : scheme.methods) add_method(table, method, &method == &scheme.best());
  }
  return table.text();
}

std::string error_table(std::vector<SchemeSummary> const& schemes) {
  std::vector<Table::Column> columns{{"error in %", Table::Align::left}};
  for (std::size_t site = 0; site < site_count; ++site)
    columns.push_back({std::string(dartquant::name_of(static_cast<Site>(site)))});
  columns.push_back({"weights"});
  Table table(columns);
  for (SchemeSummary const& scheme : schemes) {
    table.add_heading(scheme.scheme.name());
    for (MethodSummary const& method : scheme.methods) {
      if (!method.first().errors) continue;
      std::vector<std::string> cells{"  " + method.name()};
      for (double const error : mean_errors(*method.first().errors))
        cells.push_back(error > 0 ? fmt::format("{:.3f}", 100 * error) : "-");
      table.add_row(std::move(cells));
    }
  }
  return table.text();
}

Json bytes_json(PeakBytes bytes) { return bytes > 0 ? Json(bytes) : Json(nullptr); }

Json to_json(Estimate const& value) {
  Json result{{"mean", value.mean}, {"deviation", value.deviation}, {"count", value.count}};
  if (value.has_interval()) result.update(Json{{"low", value.low}, {"high", value.high}});
  return result;
}

Json to_json(QuantizationErrors const& errors) {
  Json result{{"sites", Json::array()}, {"weights", Json::array()}};
  for (SiteError const& error : errors.sites)
    result["sites"].push_back({{"site", std::string(dartquant::name_of(error.site))},
                               {"layer", error.layer},
                               {"relative", error.relative}});
  for (WeightError const& error : errors.weights)
    result["weights"].push_back({{"linear", std::string(dartquant::name_of(error.linear))},
                                 {"layer", error.layer},
                                 {"relative", error.relative}});
  return result;
}

Json to_json(Result const& result) {
  Evaluation const& found = result.evaluation;
  Json json{{"method", std::string(dartquant::name_of(result.method))},
            {"scheme", result.scheme.name()},
            {"weights", std::string(dartquant::name_of(result.weights))},
            {"rotations", result.rotations.name()},
            {"seed", result.seed},
            {"perplexity", found.perplexity},
            {"nll", found.nll},
            {"kl", found.kl},
            {"whip_per_channel", result.whip_per_channel},
            {"seconds", result.seconds},
            {"standard_error", found.standard_error},
            {"top1_agreement", found.top1_agreement},
            {"evaluation_seconds", result.evaluation_seconds},
            {"learning_peak_bytes", bytes_json(result.learning_peak)},
            {"evaluation_peak_bytes", bytes_json(result.evaluation_peak)}};
  if (result.errors) json["errors"] = to_json(*result.errors);
  return json;
}

Json to_json(SchemeSummary const& scheme, MethodSummary const& method) {
  Json json{{"scheme", scheme.scheme.name()},
            {"method", method.name()},
            {"perplexity", to_json(method.perplexity)},
            {"kl", to_json(method.kl)},
            {"seconds", to_json(method.learning_seconds)}};
  if (method.change) {
    json["perplexity_change"] = to_json(*method.change);
    json["perplexity_change_over_windows"] = to_json(*method.change_over_windows);
    json["gap_closed"] = to_json(*method.gap_closed);
  }
  return json;
}

/// A field of a CSV line: in quotes where it holds what would end it.
std::string csv_field(std::string const& text) {
  if (text.find_first_of(",\"\r\n") == text.npos) return text;
  std::string quoted = "\"";
  for (char const c : text) quoted.append(c == '"' ? 2 : 1, c);
  return quoted + '"';
}

std::string csv_line(std::vector<std::string> const& fields) {
  std::string line;
  for (std::string const& field : fields) line += (line.empty() ? "" : ",") + csv_field(field);
  return line + "\r\n";
}

std::string csv_bytes(PeakBytes bytes) { return bytes > 0 ? fmt::format("{}", bytes) : ""; }

std::string csv_line(Result const& result) {
  Evaluation const& found = result.evaluation;
  std::vector<std::string> fields{std::string(dartquant::name_of(result.method)), result.scheme.name(),
                                  result.rotations.name(), fmt::format("{}", result.seed)};
  for (double const value :
       {found.perplexity, found.nll, found.standard_error, found.kl, found.top1_agreement,
        result.whip_per_channel, result.seconds, result.evaluation_seconds})
    fields.push_back(fmt::format("{}", value));
  fields.push_back(csv_bytes(result.learning_peak));
  fields.push_back(csv_bytes(result.evaluation_peak));
  if (result.errors)
    for (double const error : mean_errors(*result.errors)) fields.push_back(fmt::format("{}", error));
  else fields.resize(fields.size() + site_count + 1);
  return csv_line(fields);
}

}  // namespace

std::string comparison_table(Comparison const& comparison) {
  std::vector<SchemeSummary> const schemes = summarize(comparison);
  return quality_table(comparison, schemes) + "\n" + error_table(schemes);
}

Json to_json(Comparison const& comparison) {
  Json report{{"model", comparison.model},
              {"device", comparison.device},
              {"reference", std::string(dartquant::name_of(comparison.reference))},
              {"baseline", to_json(comparison.baseline)},
              {"capture_seconds", comparison.capture_seconds},
              {"capture_peak_bytes", bytes_json(comparison.capture_peak)},
              {"results", Json::array()},
              {"summary", Json::array()}};
  report["baseline"]["whip_per_channel"] = comparison.whip_before;
  for (Result const& result : comparison.results) report["results"].push_back(to_json(result));
  for (SchemeSummary const& scheme : summarize(comparison))
    for (MethodSummary const& method : scheme.methods) report["summary"].push_back(to_json(scheme, method));
  return report;
}

std::string to_csv(Comparison const& comparison) {
  std::vector<std::string> names{"method",
                                 "scheme",
                                 "rotations",
                                 "seed",
                                 "perplexity",
                                 "nll",
                                 "nll_standard_error",
                                 "kl",
                                 "top1_agreement",
                                 "whip_per_channel",
                                 "learning_seconds",
                                 "evaluation_seconds",
                                 "learning_peak_bytes",
                                 "evaluation_peak_bytes"};
  for (std::size_t site = 0; site < site_count; ++site)
    names.push_back(fmt::format("error of {}", dartquant::name_of(static_cast<Site>(site))));
  names.push_back("error of weights");
  std::vector<std::string> original(names.size());
  Evaluation const& baseline = comparison.baseline;
  original[0] = "original";
  original[4] = fmt::format("{}", baseline.perplexity);
  original[5] = fmt::format("{}", baseline.nll);
  original[6] = fmt::format("{}", baseline.standard_error);
  original[9] = fmt::format("{}", comparison.whip_before);
  std::string text = csv_line(names) + csv_line(original);
  for (Result const& result : comparison.results) text += csv_line(result);
  return text;
}

}  // namespace dartquant::program
