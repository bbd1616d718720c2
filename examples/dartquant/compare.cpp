// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fmt/core.h>

#include <dartquant/core/error.hpp>
#include <dartquant/model/pipeline.hpp>

#include "commands.hpp"
#include "comparison.hpp"
#include "flags.hpp"
#include "output.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "windows.hpp"

namespace dartquant::program {
namespace {

constexpr char const* example =
    "Example:\n"
    "  dartquant compare my-model --calibration train.txt --text test.txt --methods "
    "rtn,quarot,dartquant,uniformity \\\n"
    "    --rotations r1,r2,r3,r4 --scheme w4a4kv4,w16a4 --seeds 3 --json results.json\n\n"
    "Rounds the model in memory with the rotations of every method and seed, and measures each on the same "
    "text.\n"
    "rtn is the model without any rotation; it has no seed and appears once. The activations are captured "
    "once for\n"
    "all methods. Spread is the standard deviation over seeds; * marks the best mean of a scheme.";

struct CompareFlags {
  CommonFlags common;
  TextSource calibration, source;
  index_t seqlen = 0, windows = 0;
  LearningFlags learning;
  SchemeFlags scheme{.scheme = "w4a4kv4"};
  std::string methods = "rtn,quarot,dartquant,uniformity", rotations = "r1,r2,r3,r4";
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

std::vector<Scheme> parse_schemes(std::string const& list) {
  std::vector<Scheme> schemes;
  for (std::string const& text : split(list)) schemes.push_back(Scheme::parse(text));
  return schemes;
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

struct Setup {
  Cpu cpu;
  Model model;
  TokenWindows learn, measure;
  RotationSet rotations;
  std::vector<Scheme> schemes;
  std::vector<ModelCalibrationOptions> runs;
};

Setup prepare(CompareFlags const& flags) {
  RotationSet const rotations = RotationSet::parse(flags.rotations);
  std::vector<Scheme> schemes = parse_schemes(flags.scheme.scheme);
  for (Scheme const& scheme : schemes) flags.scheme.quantization(scheme).validate();
  std::vector<ModelCalibrationOptions> runs = plan_runs(flags, rotations);
  require_given(flags.calibration, "--calibration TEXT or --calibration-tokens FILE.npy");
  require_given(flags.source, "--text TEXT or --tokens FILE.npy");
  check_output_file(flags.common.json, flags.common.model, {flags.calibration.file(), flags.source.file()});
  Model const model = Model::open(flags.common.model);
  index_t const seqlen = window_length(model, flags.seqlen);
  return {flags.common.cpu(),
          model,
          spread_windows(model, flags.calibration, seqlen, flags.learning.samples),
          first_windows(model, flags.source, seqlen, flags.windows),
          rotations,
          std::move(schemes),
          std::move(runs)};
}

void announce(CompareFlags const& flags, Setup const& setup) {
  CaptureOptions const capture = flags.learning.capture(flags.common.seed, {});
  Plan total;
  auto const add = [&](Plan const& part, double times) {
    total.memory_bytes = std::max(total.memory_bytes, part.memory_bytes);
    total.seconds += times * part.seconds;
  };
  index_t const seqlen = setup.learn.cols();
  double const evaluations = static_cast<double>(setup.runs.size() * setup.schemes.size());
  add(plan(setup.cpu, setup.model, Job::evaluate, setup.measure.rows(), seqlen), evaluations + 2);
  Quantization const quantization = flags.scheme.quantization(setup.schemes.front());
  if (quantization.weights().needs_text())
    add(plan(setup.cpu, setup.model, Job::round, setup.learn.rows(), seqlen), evaluations);
  auto const learns = [](ModelCalibrationOptions const& run) {
    return traits(run.method).learns() || traits(run.method).transforms();
  };
  auto const learned = std::count_if(setup.runs.begin(), setup.runs.end(), learns);
  if (learned > 0)
    add(plan(setup.cpu, setup.model, Job::calibrate, setup.learn.rows(), seqlen,
             *std::find_if(setup.runs.begin(), setup.runs.end(), learns), capture),
        static_cast<double>(learned));
  print_plan(flags.common,
             fmt::format("{} calibrations on {} windows, {} evaluations on {} windows of {} tokens",
                         setup.runs.size(), setup.learn.rows(), evaluations, setup.measure.rows(), seqlen),
             total);
}

Result measure(Setup const& setup, CompareFlags const& flags, ModelCalibration const& found, Scheme scheme,
               Baseline const& baseline, Progress progress) {
  auto const started = std::chrono::steady_clock::now();
  RotationSet const active = traits(found.method).rotates() ? setup.rotations : RotationSet{};
  ForwardOptions options = forward_options(found, active, flags.scheme.quantization(scheme));
  options.hessian_windows = &setup.learn;
  options.progress = std::move(progress);
  Evaluation const evaluation = evaluate(setup.cpu, setup.model, setup.measure, options, &baseline);
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return {found.method, scheme, active, found.seed, evaluation, found.whip_after, found.seconds, seconds};
}

void run(CompareFlags const& flags) {
  Setup const setup = prepare(flags);
  announce(flags, setup);
  ProgressDisplay progress(flags.common.detail());
  progress.start("original");
  Baseline const baseline = baseline_of(setup.cpu, setup.model, setup.measure, progress.callback());
  Comparison comparison;
  ForwardOptions plain;
  plain.progress = progress.callback();
  comparison.baseline = evaluate(setup.cpu, setup.model, setup.measure, plain);
  progress.finish();
  progress.start("calibrate");
  std::vector<ModelCalibration> const found =
      calibrate_all(setup.cpu, setup.model, setup.learn, setup.runs,
                    flags.learning.capture(flags.common.seed, progress.callback()));
  progress.finish();
  if (!found.empty()) comparison.whip_before = found.front().whip_before;

  index_t const count = static_cast<index_t>(found.size() * setup.schemes.size());
  for (Scheme const& scheme : setup.schemes)
    for (ModelCalibration const& one : found) {
      progress.start(fmt::format("{} {} seed {}", scheme.name(), dartquant::name_of(one.method), one.seed),
                     static_cast<index_t>(comparison.results.size()), count);
      comparison.results.push_back(measure(setup, flags, one, scheme, baseline, progress.callback()));
      progress.finish(fmt::format("perplexity {:.4f}", comparison.results.back().evaluation.perplexity));
    }
  write_json(flags.common.json, to_json(comparison));
  fmt::print("{}, {} windows of {} tokens, rotations {}, learned on {} windows, {} {}\n\n{}",
             name_of(setup.model), setup.measure.rows(), setup.measure.cols(), setup.rotations.name(),
             setup.learn.rows(), flags.seeds, flags.seeds == 1 ? "seed" : "seeds",
             comparison_table(comparison));
  for (ModelCalibration const& one : found)
    for (std::string const& note : one.notes)
      fmt::print("note: {} seed {}: {}\n", dartquant::name_of(one.method), one.seed, note);
  if (!comparison.results.empty()) fmt::print("{}", describe(comparison.results.back().evaluation.notes));
}

}  // namespace

void add_compare(CLI::App& program) {
  auto const flags = std::make_shared<CompareFlags>();
  CLI::App* const command = program.add_subcommand("compare", "Compare methods: one table of 4-bit results");
  add_common_flags(*command, flags->common);
  add_text_flags(*command, flags->calibration, "--calibration", "--calibration-tokens", "to learn from");
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
  command->add_option("--seqlen", flags->seqlen, "tokens per window; default min(2048, positions)")
      ->type_name("N");
  command->add_option("--windows,--chunks", flags->windows, "measure on the first N windows; 0: all")
      ->type_name("N")
      ->check(at_least(0))
      ->capture_default_str();
  add_scheme_flags(*command, flags->scheme, "bits of weights, activations and KV cache; several with commas");
  add_learning_flags(*command, flags->learning);
  command->footer(example);
  command->callback([flags] { run(*flags); });
}

}  // namespace dartquant::program
