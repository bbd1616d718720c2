// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <fmt/core.h>

#include <dartquant/core/error.hpp>
#include <dartquant/model/pipeline.hpp>
#include <dartquant/version.hpp>

#include "commands.hpp"
#include "comparison.hpp"
#include "experiment.hpp"
#include "facts.hpp"
#include "flags.hpp"
#include "html_report.hpp"
#include "output.hpp"
#include "own_text.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "units.hpp"
#include "windows.hpp"

namespace dartquant::program {
namespace {

constexpr char const* compare_example = R"(Example:
  dartquant compare my-model --calibration train.txt --text test.txt --rotations r1,r2,r3,r4 \
    --methods rtn,quarot,dartquant,centred --scheme w4a4kv4,w16a4 --seeds 5 --html report.html

Rounds the model in memory with the rotations of every method and seed, and measures each on the same text.
Without --calibration the model writes the text to learn from (see dartquant generate).
rtn is the model without any rotation; it has no seed and appears once. The activations are captured once
for all methods. Spread is the standard deviation over seeds; * marks the best mean of a scheme. `against` is
the change of perplexity against --baseline, seed by seed, with its 95 % confidence interval (over windows of
text where there is one seed), `gap closed` the share of the way from the baseline to the original. The error
of a site is sum |x - Q(x)|^2 / sum |x|^2 of what is rounded there, mean over layers, first seed.)";

struct CompareFlags {
  CommonFlags common;
  TextSource calibration, source;
  index_t seqlen = 0, windows = 0;
  LearningFlags learning;
  SchemeFlags scheme{.scheme = "w4a4kv4"};
  std::string methods = "rtn,quarot,dartquant,centred", rotations = "r1,r2,r3,r4";
  std::string baseline, csv, html;
  std::string command;  ///< as it was given
  index_t seeds = 1;
};

std::vector<std::string> split(std::string const& list) {
  std::vector<std::string> parts(1);
  for (char const c : list) {
    if (c == ',') parts.emplace_back();
    else if (c != ' ') parts.back() += c;
  }
  return parts;
}

std::vector<Quantization> parse_schemes(SchemeFlags const& flags) {
  std::vector<Quantization> quantizations;
  for (std::string const& text : split(flags.scheme))
    quantizations.push_back(flags.quantization(Scheme::parse(text)));
  return quantizations;
}

/// One per method and seed; once where the seed changes nothing.
std::vector<ModelCalibrationOptions> plan_runs(CompareFlags const& flags, RotationSet rotations) {
  std::vector<ModelCalibrationOptions> runs;
  for (std::string const& name : split(flags.methods)) {
    Method const method = parse_method(name);
    for (index_t i = 0; i < (traits(method).seeded() ? flags.seeds : 1); ++i) {
      ModelCalibrationOptions run =
          flags.learning.options(rotations, flags.common.seed + static_cast<std::uint64_t>(i));
      run.method = method;
      runs.push_back(run);
    }
  }
  return runs;
}

/// The method that the others are compared with: the given one, else quarot, else the first.
Method reference_of(CompareFlags const& flags, std::vector<ModelCalibrationOptions> const& runs) {
  auto const among = [&](Method method) {
    return std::any_of(runs.begin(), runs.end(), [&](auto const& run) { return run.method == method; });
  };
  if (flags.baseline.empty()) return among(Method::quarot) ? Method::quarot : runs.front().method;
  Method const method = parse_method(flags.baseline);
  detail::require(among(method), "--baseline ", flags.baseline, " is not among --methods ", flags.methods,
                  ": add it there");
  return method;
}

/// No output is an input or another output.
void check_outputs(CompareFlags const& flags) {
  std::string const &json = flags.common.json, &text = flags.source.file(), &learn = flags.calibration.file();
  check_output_file(json, flags.common.model, {learn, text});
  check_output_file(flags.csv, flags.common.model, {learn, text});
  check_output_file(flags.html, flags.common.model, {learn, text});
  for (auto const& [a, b] : {std::pair{json, flags.csv}, {json, flags.html}, {flags.csv, flags.html}})
    detail::require(a.empty() || std::filesystem::weakly_canonical(a) != std::filesystem::weakly_canonical(b),
                    a, " would be written twice: give every output a file of its own");
}

Experiment prepare(CompareFlags const& flags, ProgressDisplay& progress) {
  RotationSet const rotations = RotationSet::parse(flags.rotations);
  std::vector<Quantization> quantizations = parse_schemes(flags.scheme);
  std::vector<ModelCalibrationOptions> runs = plan_runs(flags, rotations);
  require_given(flags.source, "--text TEXT or --tokens FILE.npy");
  Method const reference = reference_of(flags, runs);
  check_outputs(flags);
  Machine const machine = flags.common.machine();
  Model const model = Model::open(flags.common.model);
  index_t const seqlen = window_length(model, flags.seqlen);
  for (ModelCalibrationOptions& run : runs) run.learners = machine.learners;
  TokenWindows measured = first_windows(model, flags.source, seqlen, flags.windows);
  LearningText learning(flags.common, machine, model, flags.calibration, seqlen, flags.learning.samples,
                        progress);
  return {machine.cpu,
          machine.device,
          model,
          learning.windows(),
          std::move(measured),
          rotations,
          std::move(quantizations),
          std::move(runs),
          flags.learning.capture(flags.common.seed, {}),
          reference};
}

void announce(CompareFlags const& flags, Experiment const& experiment) {
  Plan total;
  auto const add = [&](Plan const& part, double times) {
    total.memory_bytes = std::max(total.memory_bytes, part.memory_bytes);
    total.seconds += times * part.seconds;
  };
  index_t const seqlen = experiment.learn.cols();
  double const evaluations = static_cast<double>(experiment.runs.size() * experiment.quantizations.size());
  add(plan(experiment.cpu, experiment.model, Job::evaluate, experiment.measure.rows(), seqlen),
      evaluations + 2);
  if (experiment.quantizations.front().weights().needs_text())
    add(plan(experiment.cpu, experiment.model, Job::round, experiment.learn.rows(), seqlen), evaluations);
  auto const learns = [](ModelCalibrationOptions const& run) {
    return traits(run.method).learns() || traits(run.method).transforms();
  };
  auto const learned = std::count_if(experiment.runs.begin(), experiment.runs.end(), learns);
  if (learned > 0)
    add(plan(experiment.cpu, experiment.model, Job::calibrate, experiment.learn.rows(), seqlen,
             *std::find_if(experiment.runs.begin(), experiment.runs.end(), learns), experiment.capture),
        static_cast<double>(learned));
  print_plan(flags.common, experiment.device,
             fmt::format("{} calibrations on {} windows, {} evaluations on {} windows of {} tokens",
                         experiment.runs.size(), experiment.learn.rows(), evaluations,
                         experiment.measure.rows(), seqlen),
             total);
}

void gather_facts(Experiment const& experiment, CompareFlags const& flags, Comparison& comparison) {
  LearningFlags const& learning = flags.learning;
  comparison.facts = {
      {"command", flags.command},
      model_fact(experiment.model),
      text_fact("learned on", name_of_text(flags.calibration), experiment.learn),
      text_fact("measured on", flags.source.file(), experiment.measure),
      {"rotations", experiment.rotations.name()},
      {"device", experiment.device},
      {"seeds", fmt::format("{}, from {} on", flags.seeds, flags.common.seed)},
      {"rows learned from",
       fmt::format("{} for R1, {} per layer for R2", learning.r1_rows, learning.r2_rows)},
      rounding_fact(experiment.quantizations.front()),
      {"intervals",
       "95 %, Student's t: over seeds for the luck of the rotation, over windows for the luck of the text; "
       "differences are paired, seed by seed and window by window"},
      {"memory", "largest resident memory of the process during the learning of R1 or an evaluation; " +
                     (comparison.capture_peak > 0
                          ? format_bytes(comparison.capture_peak) + " in the capture that all methods share"
                          : std::string("not measured: the system does not allow it"))},
      {"program", "dartquant " + version()}};
}

void write_reports(Experiment const& experiment, CompareFlags const& flags, ProgressDisplay& progress,
                   Comparison& comparison) {
  write_json(flags.common.json, to_json(comparison));
  if (!flags.csv.empty()) write_text(flags.csv, to_csv(comparison));
  if (flags.html.empty()) return;
  draw_portraits(experiment, progress, comparison);
  gather_facts(experiment, flags, comparison);
  write_text(flags.html, to_html(comparison));
}

/// Every note once, of the first seed that has it.
void print_notes(std::vector<ModelCalibration> const& calibrations) {
  std::set<std::pair<Method, std::string>> seen;
  for (ModelCalibration const& one : calibrations)
    for (std::string const& note : one.notes)
      if (seen.emplace(one.method, note).second)
        fmt::print("note: {} seed {}: {}\n", dartquant::name_of(one.method), one.seed, note);
}

void run(CompareFlags const& flags) {
  ProgressDisplay progress(flags.common.detail());
  Experiment const experiment = prepare(flags, progress);
  announce(flags, experiment);
  Comparison comparison = program::run(experiment, progress);
  write_reports(experiment, flags, progress, comparison);
  fmt::print("{}, {} windows of {} tokens, rotations {}, learned on {} windows, {} {}\n\n{}",
             comparison.model, experiment.measure.rows(), experiment.measure.cols(),
             experiment.rotations.name(), experiment.learn.rows(), flags.seeds,
             flags.seeds == 1 ? "seed" : "seeds", comparison_table(comparison));
  print_notes(comparison.calibrations);
  fmt::print("{}", describe(comparison.results.back().evaluation.notes));
}

}  // namespace

void add_compare(CLI::App& program) {
  auto const flags = std::make_shared<CompareFlags>();
  CLI::App* const command = program.add_subcommand("compare", "Compare methods: one table of 4-bit results");
  add_common_flags(*command, flags->common);
  add_device_flag(*command, flags->common);
  add_text_flags(*command, flags->calibration, "--calibration", "--calibration-tokens",
                 "to learn from; without one the model writes its own");
  add_text_flags(*command, flags->source, "--text", "--tokens", "to measure on");
  command->add_option("--methods", flags->methods, "several with commas, of\n" + describe_methods())
      ->type_name("LIST")
      ->capture_default_str();
  command->add_option("--rotations", flags->rotations, "which of r1,r2,r3,r4 act")
      ->type_name("LIST")
      ->capture_default_str();
  command->add_option("--seeds", flags->seeds, "runs per method, with seeds --seed, --seed + 1, ...")
      ->type_name("N")
      ->check(at_least(1))
      ->capture_default_str();
  command
      ->add_option("--baseline", flags->baseline,
                   "the method that the others are compared with; default quarot, or the first")
      ->type_name("METHOD");
  command->add_option("--csv", flags->csv, "write one line per method, scheme and seed to this file")
      ->type_name("FILE");
  command->add_option("--seqlen", flags->seqlen, "tokens per window; default min(2048, positions)")
      ->type_name("N");
  command->add_option("--windows,--chunks", flags->windows, "measure on the first N windows; 0: all")
      ->type_name("N")
      ->check(at_least(0))
      ->capture_default_str();
  add_scheme_flags(*command, flags->scheme, "bits of weights, activations and KV cache; several with commas");
  add_learning_flags(*command, flags->learning);
  command->add_option("--html", flags->html, "write a page with tables and pictures to this file")
      ->type_name("FILE");
  command->footer(compare_example);
  command->callback([flags, command] {
    flags->command = command_line(*command);
    run(*flags);
  });
}

}  // namespace dartquant::program
