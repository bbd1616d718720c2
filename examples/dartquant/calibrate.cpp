// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>

#include <fmt/core.h>

#include <dartquant/core/error.hpp>
#include <dartquant/io/mapped_file.hpp>
#include <dartquant/io/sha256.hpp>
#include <dartquant/model/pipeline.hpp>
#include <dartquant/version.hpp>

#include "commands.hpp"
#include "flags.hpp"
#include "interrupt.hpp"
#include "output.hpp"
#include "own_text.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "terminal.hpp"
#include "units.hpp"
#include "windows.hpp"

namespace dartquant::program {
namespace {

constexpr char const* calibrate_example =
    "Example:\n"
    "  dartquant calibrate my-model --text my-text.txt -o rotations.safetensors\n"
    "  dartquant fold      my-model --rotations rotations.safetensors -o my-model-folded\n\n"
    "Learns R1 (one rotation of the residual stream, from the inputs of all q_proj and up_proj) and R2 (one "
    "per\n"
    "value head and layer, from the inputs of o_proj). One decoder layer is in memory at a time.\n"
    "Without --text the model writes its own, with all weights in memory (see dartquant generate).";

struct CalibrateFlags {
  CommonFlags common;
  TextSource source;
  index_t seqlen = 0;
  LearningFlags learning;
  std::string active = "r1,r2", output = "rotations.safetensors";
};

RotationSet learned_rotations(std::string const& text) {
  RotationSet const set = RotationSet::parse(text);
  detail::require((set.r1 || set.r2) && !set.r3 && !set.r4, "--active ", text,
                  ": r1 and r2 are learned; r3 and r4 are Hadamard matrices that need no calibration");
  return set;
}

void write_rotations(ModelCalibration const& found, std::string const& file, RotationSet active,
                     TokenWindows const& windows, TextSource const& source) {
  auto const ids = std::as_bytes(std::span(windows.data(), static_cast<std::size_t>(windows.size())));

  std::map<std::string, std::string> const metadata{
      {"dartquant_version", version()},
      {"method", std::string(dartquant::name_of(found.method))},
      {"seed", std::to_string(found.seed)},
      {"rotations", active.name()},
      {"windows", std::to_string(windows.rows())},
      {"seqlen", std::to_string(windows.cols())},
      {"calibration", source.given() ? "text" : name_of_text(source)},
      {"calibration_sha256", sha256(source.given() ? MappedFile(source.file()).bytes() : ids)}};
  TemporaryFiles const guard;
  save_rotations(found.rotations, file, metadata);
}

void run(CalibrateFlags const& flags) {
  auto const started = std::chrono::steady_clock::now();
  RotationSet active = learned_rotations(flags.active);
  ModelCalibrationOptions options = flags.learning.options(active, flags.common.seed);
  MethodTraits const& method = traits(options.method);
  detail::require(method.rotates() || method.transforms(), "--method ", method.name,
                  " has no rotation to write: choose another");
  if (!method.rotates()) active = {};
  check_output_file(flags.output, flags.common.model, {flags.source.file()});
  check_output_file(flags.common.json, flags.common.model, {flags.source.file(), flags.output});
  Machine const machine = flags.common.machine();
  Cpu const& cpu = machine.cpu;
  options.learners = machine.learners;
  Model const model = Model::open(flags.common.model);
  index_t const seqlen = window_length(model, flags.seqlen);
  ProgressDisplay progress(flags.common.detail());
  LearningText text(flags.common, machine, model, flags.source, seqlen, flags.learning.samples, progress);
  TokenWindows const& windows = text.windows();
  CaptureOptions const capture = flags.learning.capture(flags.common.seed, progress.callback());
  print_plan(flags.common, machine.device,
             fmt::format("learn {} of {} on {} windows of {} tokens", active.name(), name_of(model),
                         windows.rows(), seqlen),
             plan(cpu, model, Job::calibrate, windows.rows(), seqlen, options, capture));

  progress.start("calibrate");
  ModelCalibration const found = calibrate(cpu, model, windows, options, capture);
  progress.finish();
  write_rotations(found, flags.output, active, windows, flags.source);
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  Json report{{"model", name_of(model)},    {"device", machine.device},  {"output", flags.output},
              {"rotations", active.name()}, {"windows", windows.rows()}, {"seqlen", seqlen},
              {"text", text.name()}};
  report.update(to_json(found));
  report["total_seconds"] = seconds;
  write_json(flags.common.json, report);
  fmt::print("{}, {}, {}, learned on {}\n{}", bold(name_of(model)), dartquant::name_of(found.method),
             active.name(), machine.device, describe(found));
  fmt::print("Wrote {} ({}) in {}\n", flags.output, format_bytes(std::filesystem::file_size(flags.output)),
             format_seconds(seconds));
}

}  // namespace

void add_calibrate(CLI::App& program) {
  auto const flags = std::make_shared<CalibrateFlags>();
  CLI::App* const command = program.add_subcommand(
      "calibrate", "Learn the rotations R1 and R2 from a text, or from one that the model writes");
  add_common_flags(*command, flags->common);
  add_device_flag(*command, flags->common);
  add_text_flags(*command, flags->source, "--text,--calibration", "--tokens,--calibration-tokens",
                 "to learn from; without one the model writes its own");
  command->add_option("--seqlen", flags->seqlen, "tokens per window; default min(2048, positions)")
      ->type_name("N");
  command->add_option("-o,--output", flags->output, "safetensors file to write")
      ->type_name("FILE")
      ->capture_default_str();
  command->add_option("--active", flags->active, "which of r1,r2 to learn")
      ->type_name("LIST")
      ->capture_default_str();
  add_method_flag(*command, flags->learning);
  add_learning_flags(*command, flags->learning);
  command->footer(calibrate_example);
  command->callback([flags] { run(*flags); });
}

}  // namespace dartquant::program
