// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <fmt/core.h>

#include <dartquant/core/error.hpp>
#include <dartquant/model/pipeline.hpp>

#include "active.hpp"
#include "commands.hpp"
#include "flags.hpp"
#include "output.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "table.hpp"
#include "terminal.hpp"
#include "units.hpp"
#include "windows.hpp"

namespace dartquant::program {
namespace {

constexpr char const* inspect_example =
    "Examples:\n"
    "  dartquant inspect my-model\n"
    "  dartquant inspect my-model --text my-text.txt\n"
    "  dartquant inspect my-model --text my-text.txt --rotations rotations.safetensors\n\n"
    "With a text it also runs the model and shows how each linear layer's input is distributed. Gaussian "
    "values have\n"
    "excess kurtosis 0 and Whip 0.523 per channel, uniform ones -1.2 and 0.475; max/RMS is how far a "
    "token's\n"
    "largest value stands out, which is what a 4-bit grid suffers from.";

struct InspectFlags {
  CommonFlags common;
  TextSource source;
  index_t seqlen = 0, samples = 32;
  std::string rotations, active;
  bool brief = false;
};

using Statistics = std::vector<SiteStatistics>;

std::string how_of(RotationSupport const& support, std::string_view folded) {
  using How = RotationSupport::How;
  if (support.how == How::impossible) return "impossible";
  return std::string(support.how == How::folded ? folded : "runs online");
}

/// Which rotations fold, which run online, which are impossible; below, the reasons.
std::string rotation_table(Model const& model, OnlineRotations const& online) {
  ModelConfig const& config = model.config();
  RotationsSupport const support = rotation_support(model.family());
  auto const blocks = [](index_t channels, index_t block) {
    return block == channels ? fmt::format("Hadamard of {}", block)
                             : fmt::format("{} Hadamard blocks of {}", channels / block, block);
  };
  std::vector<index_t> const widths = config.down_widths();
  std::string down = blocks(widths.front(), online.r4_block);
  for (std::size_t i = 1; i < widths.size(); ++i) down += fmt::format(", and of {}", widths[i]);
  Table table({{"", Table::Align::left},
               {"acts on", Table::Align::left},
               {"size", Table::Align::left},
               {"how", Table::Align::left}});
  std::string_view const learned = "learned, folded into the weights";
  table.add_row(
      {"R1", "residual stream", fmt::format("{0} x {0}", config.hidden), how_of(support.r1, learned)});
  table.add_row({"R2", "value heads",
                 fmt::format("{0} x {0}, {1} per layer", config.head_dim, config.kv_heads),
                 how_of(support.r2, learned)});
  table.add_row({"R3", "queries and keys", blocks(config.head_dim, online.r3_block), how_of(support.r3, "")});
  table.add_row({"R4", "down_proj input", down, how_of(support.r4, "")});
  std::string text = table.text();
  for (auto const& [name, one] :
       {std::pair{"R1", support.r1}, {"R2", support.r2}, {"R3", support.r3}, {"R4", support.r4}})
    if (!one.reason.empty()) text += fmt::format("{}: {}\n", name, one.reason);
  return text + describe(online.notes);
}

Json rotations_json(Family const& family) {
  RotationsSupport const support = rotation_support(family);
  auto const one = [](RotationSupport const& rotation) {
    return Json{{"how", how_of(rotation, "folded")}, {"reason", rotation.reason}};
  };
  return {{"r1", one(support.r1)}, {"r2", one(support.r2)}, {"r3", one(support.r3)}, {"r4", one(support.r4)}};
}

std::vector<std::string> cells(std::string name, SiteStatistics const& s, double scale) {
  return {std::move(name),
          fmt::format("{:.2f}", s.kurtosis),
          fmt::format("{:.2f}", s.max_over_rms),
          fmt::format("{:.4f}", s.whip),
          fmt::format("{:.3g}", s.rms),
          fmt::format("{:.3g}", s.max),
          bar(s.max_over_rms / scale, 30)};
}

/// Site by site: every layer, or with `brief` the one whose values stand out most.
std::string statistics_table(Statistics const& all, bool brief) {
  Table table({{"", Table::Align::left},
               {"kurtosis"},
               {"max/RMS"},
               {"Whip/channel"},
               {"RMS"},
               {"max"},
               {"max/RMS", Table::Align::left}});
  auto const milder = [](SiteStatistics const& a, SiteStatistics const& b) {
    return a.max_over_rms < b.max_over_rms;
  };
  double const scale = std::max_element(all.begin(), all.end(), milder)->max_over_rms;
  for (std::size_t site = 0; site < site_count; ++site) {
    Statistics here;
    std::copy_if(all.begin(), all.end(), std::back_inserter(here),
                 [&](SiteStatistics const& s) { return s.site == static_cast<Site>(site); });
    if (here.empty()) continue;
    std::string const name(dartquant::name_of(static_cast<Site>(site)));
    if (brief) {
      auto const worst = std::max_element(here.begin(), here.end(), milder);
      table.add_row(cells(fmt::format("{}, worst in layer {}", name, worst->layer), *worst, scale));
      continue;
    }
    table.add_heading(name);
    for (SiteStatistics const& s : here) table.add_row(cells(fmt::format("  layer {}", s.layer), s, scale));
  }
  return table.text();
}

Json sites_json(Statistics const& all) {
  Json sites = Json::array();
  for (SiteStatistics const& s : all)
    sites.push_back({{"site", std::string(dartquant::name_of(s.site))},
                     {"layer", s.layer},
                     {"kurtosis", s.kurtosis},
                     {"max_over_rms", s.max_over_rms},
                     {"whip_per_channel", s.whip},
                     {"rms", s.rms},
                     {"max", s.max}});
  return sites;
}

Statistics observe(Cpu const& cpu, Model const& model, InspectFlags const& flags,
                   TokenWindows const& windows) {
  Rotations const rotations = read_rotations(flags.rotations, model.config());
  ForwardOptions options = rotated_forward(rotations, active_rotations(flags.active, rotations));
  ProgressDisplay progress(flags.common.detail());
  options.progress = progress.callback();
  progress.start("inspect");
  return inspect(cpu, model, windows, options);
}

void run(InspectFlags const& flags) {
  check_output_file(flags.common.json, flags.common.model, {flags.source.file(), flags.rotations});
  detail::require(flags.source.given() || (flags.rotations.empty() && flags.active.empty()),
                  "--rotations and --active need a text: add --text TEXT or --tokens FILE.npy");
  Machine const machine = flags.common.machine();
  Cpu const& cpu = machine.cpu;
  Model const model = Model::open(flags.common.model);
  ForwardOptions everything;
  everything.active.r3 = everything.active.r4 = true;
  everything.quantization.scheme.kv = 4;
  OnlineRotations const online = online_rotations(model, everything);
  index_t const seqlen = window_length(model, flags.seqlen);
  Json report{{"model", name_of(model)},           {"device", machine.device},
              {"config", to_json(model.config())}, {"rotations", rotations_json(model.family())},
              {"r3_block", online.r3_block},       {"r4_block", online.r4_block}};
  std::string text = describe(model) + "\n" + rotation_table(model, online) + "\n";
  if (flags.source.given()) {
    TokenWindows const windows = spread_windows(model, flags.source, seqlen, flags.samples);
    print_plan(flags.common, machine.device, fmt::format("{} windows of {} tokens", windows.rows(), seqlen),
               plan(cpu, model, Job::inspect, windows.rows(), seqlen));
    Statistics const statistics = observe(cpu, model, flags, windows);
    report["sites"] = sites_json(statistics);
    text += statistics_table(statistics, flags.brief) + "\n";
  }
  Plan const learn = plan(cpu, model, Job::calibrate, calibration_samples, seqlen),
             write = plan(cpu, model, Job::fold, 0, seqlen);
  text += fmt::format("calibrate (R1 and R2, {} windows of {} tokens): {}\nfold: {}\n", calibration_samples,
                      seqlen, describe(learn), describe(write));
  write_json(flags.common.json, report);
  fmt::print("{}", text);
}

}  // namespace

void add_inspect(CLI::App& program) {
  auto const flags = std::make_shared<InspectFlags>();
  CLI::App* const command =
      program.add_subcommand("inspect", "Show a model, its rotations and the outliers of its activations");
  add_common_flags(*command, flags->common);
  add_device_flag(*command, flags->common);
  add_text_flags(*command, flags->source, "--text", "--tokens", "to run the model on");
  command->add_option("--samples,--windows", flags->samples, "windows to run, spread over the whole file")
      ->type_name("N")
      ->check(at_least(1))
      ->capture_default_str();
  command->add_option("--seqlen", flags->seqlen, "tokens per window; default min(2048, positions)")
      ->type_name("N");
  command->add_option("--rotations", flags->rotations, "show the distributions after these rotations")
      ->type_name("FILE");
  command->add_option("--active", flags->active, "which of r1,r2,r3,r4 act; default those of the file")
      ->type_name("LIST");
  command->add_flag("--brief", flags->brief, "one line per kind of input: the layer that stands out most");
  command->footer(inspect_example);
  command->callback([flags] { run(*flags); });
}

}  // namespace dartquant::program
