// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/core.h>

#include <dartquant/core/error.hpp>
#include <dartquant/model/pipeline.hpp>
#include <dartquant/model/quantized_folder.hpp>

#include "active.hpp"
#include "commands.hpp"
#include "engines.hpp"
#include "flags.hpp"
#include "integers.hpp"
#include "output.hpp"
#include "own_text.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "rounding.hpp"
#include "terminal.hpp"
#include "units.hpp"
#include "windows.hpp"
#include "written_check.hpp"

namespace dartquant::program {
namespace {

constexpr char const* quantize_example =
    "Examples:\n"
    "  dartquant quantize my-model --calibration train.txt --text test.txt --scheme w4a16 -o my-model-w4\n"
    "  dartquant quantize my-model --rotations rotations.safetensors --scheme w4a4kv4 -o my-model-w4\n"
    "  dartquant quantize my-model --calibration train.txt --scheme w4a16 --weights gptq --weight-group 128 "
    "-o my-model-w4\n"
    "  dartquant quantize my-model --rotations rotations.safetensors --scheme w4a8 --active r1,r2,r4 "
    "--weight-group 128 \\\n"
    "      --format compressed-tensors -o my-model-w4a8\n"
    "  dartquant quantize my-model --rotations rotations.safetensors --scheme w4a8kv8 --format native -o "
    "my-model-int4\n\n"
    "Learns rotations (or takes those of a file), folds them, rounds the linear layers' weights to the grid "
    "of the\n"
    "scheme and writes them. Without --calibration the model writes the text to learn from, with all weights "
    "in\n"
    "memory (see dartquant generate). --format checkpoint: as values in --dtype, which any Hugging Face "
    "reader loads;\n"
    "compressed-tensors: INT4 as vLLM reads it, with the online R4 in transform_config; native: INT4 in the "
    "layout\n"
    "that the kernels multiply from, which eval and examples/engine run. In a checkpoint the bits of "
    "activations and KV cache are not in the folder: they are "
    "what\n"
    "--text is measured with, R3 included; R4 is folded and its reader must run it online (dartquant does).\n"
    "--integers measures the same levels with their float32 scales, before --dtype rounds the written "
    "values.";

struct QuantizeFlags {
  CommonFlags common;
  TextSource calibration, source;
  index_t seqlen = 0, windows = 0;
  LearningFlags learning;
  SchemeFlags scheme{.scheme = "w4a16kv16"};
  bool integers = false;
  std::string rotations, active, output, dtype, format = "checkpoint";
  std::map<std::string, std::string> given;

  [[nodiscard]] bool packed() const { return format != "checkpoint"; }
  [[nodiscard]] Quantization quantization() const {
    SchemeFlags flags = scheme;
    if (format == "compressed-tensors") flags.symmetric = true;  // the only kind it can ask an engine for
    return flags.quantization();
  }
};

struct Measured {
  Evaluation before, after;
  std::optional<IntegerResult> integers{};
};

/// Where no file was given: from the calibration text. R3 and R4 need no calibration.
Rotations find_rotations(Machine const& machine, Model const& model, QuantizeFlags const& flags,
                         LearningText& text, ProgressDisplay& progress) {
  if (!flags.rotations.empty()) return load_rotations(flags.rotations, model.config());
  RotationSet active =
      flags.active.empty() ? RotationSet{.r1 = true, .r2 = true} : RotationSet::parse(flags.active);
  active.r3 = active.r4 = false;
  ModelCalibrationOptions options = flags.learning.options(active, flags.common.seed);
  options.learners = machine.learners;
  MethodTraits const& method = traits(options.method);
  detail::require(
      method.sites == SiteChain::none || flags.format == "native", "--method ", method.name,
      " transforms inputs online, which only --format native can hold: choose that, or measure it with "
      "`dartquant calibrate` and `eval --rotations`, or choose another method");
  if (!method.transforms() && (!method.rotates() || active == RotationSet{})) return {};
  TokenWindows const& windows = text.windows();
  CaptureOptions const capture = flags.learning.capture(flags.common.seed, progress.callback());
  print_plan(
      flags.common, machine.device,
      fmt::format("learn {} on {} windows of {} tokens", active.name(), windows.rows(), windows.cols()),
      plan(machine.cpu, model, Job::calibrate, windows.rows(), windows.cols(), options, capture));
  progress.start("calibrate");
  ModelCalibration found = calibrate(machine.cpu, model, windows, options, capture);
  progress.finish();
  return std::move(found.rotations);
}

std::map<std::string, std::string> manifest_of(QuantizeFlags const& flags, LearningText const& text) {
  std::map<std::string, std::string> manifest = origin_of_rotations(flags.rotations);
  manifest.insert(flags.given.begin(), flags.given.end());
  manifest["scheme"] = flags.quantization().scheme.name();
  if (flags.rotations.empty()) {
    manifest["method"] = flags.learning.method;
    manifest["seed"] = std::to_string(flags.common.seed);
  }
  if (text.is_written()) manifest["calibration"] = text.name();
  return manifest;
}

FoldOptions fold_options(QuantizeFlags const& flags, RotationSet active, TokenWindows const& text,
                         std::map<std::string, std::string> manifest, Progress progress) {
  FoldOptions options;
  options.rotations = active;
  options.rotations.r3 = false;
  options.dtype = dtype_of(flags.dtype);
  options.weights = flags.quantization().weights();
  options.hessian_windows = &text;
  options.manifest = std::move(manifest);
  options.progress = std::move(progress);
  return options;
}

QuantizedFolderOptions packed_options(QuantizeFlags const& flags, RotationSet active,
                                      TokenWindows const& text, std::map<std::string, std::string> manifest,
                                      Progress progress) {
  QuantizedFolderOptions options;
  options.format = flags.format == "native" ? FolderFormat::native : FolderFormat::compressed_tensors;
  options.rotations = active;
  options.quantization = flags.quantization();
  options.dtype = dtype_of(flags.dtype);
  options.hessian_windows = &text;
  options.manifest = std::move(manifest);
  options.progress = std::move(progress);
  return options;
}

/// The rotations as the folder holds them. In a packed folder R4 is a transform of its layers.
struct Held {
  Rotations rotations;
  RotationSet active;
};

Held held_in_folder(QuantizeFlags const& flags, Model const& model, Rotations const& rotations,
                    RotationSet active) {
  if (!flags.packed()) return {without_shifts(rotations), active};
  TokenWindows const none;
  Held held{rotations_in_folder(rotations, model.config(), packed_options(flags, active, none, {}, {})),
            active};
  held.active.r4 = false;
  return held;
}

/// A forward pass that folds and rounds in memory what the folder holds: gains folded, with and without
/// rotations.
ForwardOptions in_memory(Rotations const& rotations, RotationSet active, Quantization const& quantization,
                         TokenWindows const& text) {
  ForwardOptions options = rotated_forward(rotations, active, quantization);
  options.hessian_windows = &text;
  options.gains = NormGains::folded;
  return options;
}

/// Perplexity of the original, of the written folder with activations and KV cache rounded on the fly, and of
/// the integers behind the written weights.
Measured measure(Cpu const& cpu, Model const& model, Model const& written, TokenWindows const& windows,
                 QuantizeFlags const& flags, ForwardOptions const& integers, ProgressDisplay& progress) {
  progress.start("original");
  Baseline const baseline = baseline_of(cpu, model, windows, progress.callback());
  ForwardOptions plain;
  plain.progress = progress.callback();
  Measured result;
  result.before = evaluate(cpu, model, windows, plain);
  progress.finish();
  progress.start("quantized");
  Rotations const none;
  ForwardOptions online = rotated_forward(none, {.r3 = integers.active.r3}, integers.quantization);
  online.quantization.scheme.weights = 16;
  online.progress = progress.callback();
  result.after = evaluate(cpu, written, windows, online, &baseline);
  progress.finish();
  if (flags.integers)
    result.integers = measure_integers(cpu, model, windows, integers, result.after, progress);
  return result;
}

void print_report(QuantizeFlags const& flags, Model const& model, Scheme scheme, RotationSet active,
                  FoldReport const& done, FoldCheck const& check, std::optional<Measured> const& measured) {
  fmt::print("{}, {}, {} written to {}, {}\n", bold(name_of(model)), scheme.name(), active.name(),
             flags.output, format_bytes(done.bytes_written));
  fmt::print(
      "Written logits differ by {:.2e} of the largest from the same rounding in memory, over {} tokens\n",
      check.max_error, check.tokens);
  fmt::print("{}", describe(done.notes));
  if (!measured) return;
  fmt::print("original    perplexity {}\n", format_perplexity(measured->before));
  fmt::print("quantized   perplexity {}, KL {:.5f}, same top-1 {:.2f} %\n",
             bold(format_perplexity(measured->after)), measured->after.kl,
             100 * measured->after.top1_agreement);
  if (measured->integers) fmt::print("integers    perplexity {}\n", describe(*measured->integers));
}

std::vector<std::string> notes_of(QuantizeFlags const& flags, RotationSet active, FoldReport const& done) {
  OutputKind const kind{flags.format, active, flags.quantization()};
  std::vector<std::string> notes = done.notes;
  for (std::string& note : engine_notes(kind)) notes.push_back(std::move(note));
  if (std::string note = small_group_note(kind); !note.empty()) notes.push_back(std::move(note));
  return notes;
}

Json report_of(Model const& model, std::string const& device, std::string const& format, Scheme scheme,
               RotationSet active, FoldReport const& done, FoldCheck const& check,
               std::optional<Measured> const& measured) {
  Json report{{"model", name_of(model)},
              {"device", device},
              {"scheme", scheme.name()},
              {"rotations", active.name()},
              {"bytes_written", done.bytes_written},
              {"max_relative_logit_error", check.max_error},
              {"format", format},
              {"notes", done.notes}};
  if (measured) report["baseline"] = to_json(measured->before);
  if (measured) report["quantized"] = to_json(measured->after);
  if (measured && measured->integers) report["integers"] = to_json(*measured->integers);
  return report;
}

void run(QuantizeFlags const& flags) {
  Quantization const quantization = flags.quantization();
  detail::require(quantization.scheme.weights < 16, "--scheme ", flags.scheme.scheme,
                  " leaves the weights as they are: use `dartquant fold`");
  if (flags.integers) {
    (void)on_integers(quantization);  // fails before the work
    require_given(flags.source, "--text TEXT or --tokens FILE.npy for --integers to measure on");
  }
  check_output_file(flags.common.json, flags.common.model,
                    {flags.rotations, flags.calibration.file(), flags.source.file()});
  Machine const machine = flags.common.machine();
  Cpu const& cpu = machine.cpu;
  Model const model = Model::open(flags.common.model);
  TokenWindows windows;
  if (flags.source.given())
    windows = first_windows(model, flags.source, window_length(model, flags.seqlen), flags.windows);
  std::uint64_t const disk_bytes = written_bytes(model, dtype_of(flags.dtype));
  { StagedFolder const probe(flags.output, model.folder(), disk_bytes); }  // fails before the learning
  ProgressDisplay progress(flags.common.detail());
  LearningText learning(flags.common, machine, model, flags.calibration, window_length(model, flags.seqlen),
                        flags.learning.samples, progress);
  TokenWindows const text = rounding_windows(learning, quantization.weights());
  Plan job = with_rounding(plan(cpu, model, Job::fold, 2, calibration_seqlen(model.config())), cpu, model,
                           text, flags.integers ? 3 : 2);  // written, checked, on integers
  job.disk_bytes = disk_bytes;
  Rotations const rotations = find_rotations(machine, model, flags, learning, progress);
  RotationSet const active = active_rotations(flags.active, rotations);
  print_plan(flags.common, machine.device,
             fmt::format("fold {}, round to {}, write", active.name(), quantization.scheme.name()), job);

  StagedFolder output(flags.output, model.folder(), job.disk_bytes);
  progress.start("quantize");
  FoldReport done =
      flags.packed()
          ? write_quantized(
                cpu, model, rotations, output.path(),
                packed_options(flags, active, text, manifest_of(flags, learning), progress.callback()))
          : fold(cpu, model, rotations, output.path(),
                 fold_options(flags, active, text, manifest_of(flags, learning), progress.callback()));
  progress.finish();
  done.notes = notes_of(flags, active, done);
  Model const written = Model::open(output.path(), Weights::any);
  Quantization weights_only = quantization;
  weights_only.scheme = {.weights = quantization.scheme.weights};
  Held const held = held_in_folder(flags, model, rotations, active);
  RotationSet folded = held.active;
  folded.r3 = false;
  FoldCheck const check = check_written(cpu, model, in_memory(held.rotations, folded, weights_only, text),
                                        written, check_windows(model, flags.source));
  std::optional<Measured> measured;
  if (windows.size() > 0)
    measured = measure(cpu, model, written, windows, flags,
                       in_memory(held.rotations, held.active, quantization, text), progress);
  output.commit();
  write_json(flags.common.json, report_of(model, machine.device, flags.format, quantization.scheme, active,
                                          done, check, measured));
  print_report(flags, model, quantization.scheme, active, done, check, measured);
}

}  // namespace

void add_quantize(CLI::App& program) {
  auto const flags = std::make_shared<QuantizeFlags>();
  CLI::App* const command =
      program.add_subcommand("quantize", "Calibrate, fold, round the weights, write and measure");
  add_common_flags(*command, flags->common);
  add_device_flag(*command, flags->common);
  add_text_flags(*command, flags->calibration, "--calibration", "--calibration-tokens",
                 "to learn from; without one the model writes its own");
  add_text_flags(*command, flags->source, "--text", "--tokens",
                 "to measure on (default: nothing is measured)");
  command->add_option("--seqlen", flags->seqlen, "tokens per window; default min(2048, positions)")
      ->type_name("N");
  command->add_option("--windows", flags->windows, "measure on the first N windows; 0: all")
      ->type_name("N")
      ->check(at_least(0))
      ->capture_default_str();
  command->add_option("-o,--output", flags->output, "folder to write: new, empty, or an earlier output")
      ->type_name("FOLDER")
      ->required();
  add_scheme_flags(*command, flags->scheme, "bits of weights, activations and KV cache (2..8, 16: off)");
  add_integers_flag(*command, flags->integers);
  command->add_option("--rotations", flags->rotations, "take R1 and R2 of this file instead of learning them")
      ->type_name("FILE");
  command
      ->add_option("--active", flags->active, "which of r1,r2,r3,r4 act; default r1,r2, or those of the file")
      ->type_name("LIST");
  add_dtype_flag(*command, flags->dtype);
  command->add_option("--format", flags->format, "checkpoint, compressed-tensors or native, see below")
      ->check(CLI::IsMember({"checkpoint", "compressed-tensors", "native"}))
      ->type_name("NAME")
      ->capture_default_str();
  add_method_flag(*command, flags->learning);
  add_learning_flags(*command, flags->learning);
  command->footer(quantize_example);
  command->callback([flags, command] {
    flags->given = given_options(*command);
    run(*flags);
  });
}

}  // namespace dartquant::program
