// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>

#include <fmt/core.h>

#include <dartquant/core/error.hpp>
#include <dartquant/io/safetensors.hpp>
#include <dartquant/model/pipeline.hpp>
#include <dartquant/model/quantized_folder.hpp>

#include "active.hpp"
#include "commands.hpp"
#include "flags.hpp"
#include "integers.hpp"
#include "output.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "rounding.hpp"
#include "terminal.hpp"
#include "windows.hpp"

namespace dartquant::program {
namespace {

constexpr char const* eval_example =
    "Examples:\n"
    "  dartquant eval my-model --text wikitext.txt\n"
    "  dartquant eval my-model --text wikitext.txt --scheme w4a4kv4 --rotations rotations.safetensors\n"
    "  dartquant eval my-model --text wikitext.txt --scheme w4a8 --weight-group 128 --integers\n"
    "  dartquant eval my-model --text wikitext.txt --scheme w4a16 --weights gptq --calibration train.txt\n"
    "  dartquant eval my-model-folded --original my-model --text wikitext.txt\n"
    "  dartquant eval my-model-int4 --original my-model --text wikitext.txt --integers\n\n"
    "Perplexity is over consecutive windows of --seqlen tokens, each on its own; the first token of a window "
    "is\n"
    "context only. The error is the standard error over windows. KL is the mean KL(original || this) per "
    "token.";

struct EvalFlags {
  CommonFlags common;
  TextSource calibration, source;
  index_t seqlen = 0, windows = 0, samples = calibration_samples;
  SchemeFlags scheme;
  bool integers = false;
  std::string rotations, active, original, reference;
};

/// max |a - b| / max |a| of the logits of the first tokens against those of a file.
struct ReferenceCheck {
  double error = 0;
  index_t tokens = 0;
};

TokenWindows reference_ids(SafetensorsFile const& file, TokenWindows const& windows, index_t count,
                           index_t vocabulary) {
  TokenWindows ids(1, count);
  Tensor const* const tensor = file.find("input_ids");
  if (tensor == nullptr) {
    detail::require(count <= windows.cols(), file.path().string(), " has logits of ", count,
                    " tokens and no input_ids: ", "--seqlen ", windows.cols(), " must be at least that");
    ids = windows.topLeftCorner(1, count);
    return ids;
  }
  std::vector<std::int64_t> const values = file.read_integers(*tensor);
  if (static_cast<index_t>(values.size()) != count)
    detail::fail(Error::Kind::format, file.path().string(), ": ", values.size(), " input_ids and ", count,
                 " rows of logits");
  for (index_t i = 0; i < count; ++i) {
    std::int64_t const id = values[static_cast<std::size_t>(i)];
    if (id < 0 || id >= vocabulary)
      detail::fail(Error::Kind::format, file.path().string(), ": input id ", i, " is ", id,
                   ", outside the vocabulary of ", vocabulary);
    ids(0, i) = static_cast<std::int32_t>(id);
  }
  return ids;
}

ReferenceCheck check_reference(Cpu const& cpu, Model const& model, std::string const& path,
                               TokenWindows const& windows, ForwardOptions const& options) {
  SafetensorsFile const file(path);
  Tensor const* const tensor = file.find("logits");
  if (tensor == nullptr)
    detail::fail(Error::Kind::format, path,
                 " has no tensor named logits: it needs logits [tokens, vocabulary]");
  RowMatrix<float> const expected = file.read_matrix<float>(*tensor);
  index_t const vocabulary = model.config().vocabulary;
  if (expected.cols() != vocabulary || expected.rows() < 1)
    detail::fail(Error::Kind::format, path, ": ", describe(*tensor), " does not fit a vocabulary of ",
                 vocabulary);
  RowMatrix<float> const found =
      logits(cpu, model, reference_ids(file, windows, expected.rows(), vocabulary), options);
  double const largest = expected.cwiseAbs().maxCoeff(),
               difference = (expected - found).cwiseAbs().maxCoeff();
  return {largest > 0 ? difference / largest : difference, expected.rows()};
}

Evaluation measure(Cpu const& cpu, Model const& model, TokenWindows const& windows, ForwardOptions options,
                   std::optional<Model> const& original, ProgressDisplay& progress) {
  options.progress = progress.callback();
  std::optional<Baseline> baseline;
  if (original) {
    progress.start("original");
    baseline = baseline_of(cpu, *original, windows, progress.callback());
    progress.finish();
  }
  progress.start("evaluate");
  Evaluation result = evaluate(cpu, model, windows, options, baseline ? &*baseline : nullptr);
  progress.finish();
  return result;
}

void print_evaluation(Evaluation const& found, index_t seqlen, std::string const& what) {
  fmt::print("{}, {} windows of {} tokens\n", what, found.windows, seqlen);
  fmt::print("perplexity  {}\n", bold(format_perplexity(found)));
  if (found.has_kl)
    fmt::print(
        "KL          mean {:.3g}, median {:.3g}, 90 % {:.3g}, 99 % {:.3g}, max {:.3g}\n"
        "same top-1  {:.2f} %\n",
        found.kl, found.kl_median, found.kl_p90, found.kl_p99, found.kl_max, 100 * found.top1_agreement);
  fmt::print("{}", describe(found.notes));
}

void report_reference(ReferenceCheck const& check) {
  fmt::print("logits      largest relative error {:.2e} over {} tokens (max |a - b| / max |a|)\n",
             check.error, check.tokens);
}

/// A folder of packed weights says itself how it runs; --scheme may choose other bits for activations and
/// cache.
ForwardOptions packed_forward(EvalFlags const& flags, Model const& model) {
  FolderQuantization const& folder = *model.quantized();
  detail::require(
      flags.rotations.empty() && flags.active.empty() && flags.scheme.weights == "rtn",
      model.folder().string(),
      " holds packed weights with their rotations: leave --rotations, --active and --weights out");
  ForwardOptions options;
  options.quantization = folder.quantization;
  if (flags.scheme.scheme != SchemeFlags{}.scheme) {
    options.quantization = flags.scheme.quantization();
    options.quantization.scheme.weights = folder.quantization.scheme.weights;
    options.quantization.weight_group = folder.quantization.weight_group;
    options.quantization.weight_symmetry = folder.quantization.weight_symmetry;
  }
  options.active.r3 = folder.online.r3 && options.quantization.scheme.kv < 16;
  return options;
}

void run(EvalFlags const& flags) {
  constexpr double reference_bound = 1e-4;
  require_given(flags.source, "--text TEXT or --tokens FILE.npy");
  check_output_file(flags.common.json, flags.common.model,
                    {flags.source.file(), flags.calibration.file(), flags.rotations, flags.reference});
  Machine const machine = flags.common.machine();
  Cpu const& cpu = machine.cpu;
  Model const model = Model::open(flags.common.model, Weights::any);
  bool const packed = model.quantized() != nullptr;
  Rotations const rotations = read_rotations(flags.rotations, model.config());
  ForwardOptions options = packed ? packed_forward(flags, model)
                                  : rotated_forward(rotations, active_rotations(flags.active, rotations),
                                                    flags.scheme.quantization());
  if (flags.integers) (void)on_integers(options.quantization);  // fails before the work
  bool const changed = options.active != RotationSet{} || options.quantization.scheme != Scheme{};
  std::optional<Model> original;
  if (!flags.original.empty()) original = Model::open(flags.original);
  else if (changed && !packed) original = model;
  index_t const seqlen = window_length(model, flags.seqlen);
  TokenWindows const windows = first_windows(model, flags.source, seqlen, flags.windows);
  ProgressDisplay progress(flags.common.detail());
  LearningText learning(flags.common, machine, model, flags.calibration, seqlen, flags.samples, progress);
  TokenWindows const text = rounding_windows(learning, options.quantization.weights());
  options.hessian_windows = &text;
  char const* const passes = !original ? "" : flags.integers ? ", three passes" : ", two passes";
  print_plan(flags.common, machine.device,
             fmt::format("{} windows of {} tokens{}", windows.rows(), seqlen, passes),
             with_rounding(plan(cpu, model, Job::evaluate, windows.rows(), seqlen), cpu, model, text,
                           flags.integers ? 2 : 1));

  std::optional<ReferenceCheck> check;
  if (!flags.reference.empty()) check = check_reference(cpu, model, flags.reference, windows, options);
  Evaluation const found = measure(cpu, model, windows, options, original, progress);
  std::optional<IntegerResult> integers;
  if (flags.integers) integers = measure_integers(cpu, model, windows, options, found, progress);

  Json report{{"model", name_of(model)},
              {"device", machine.device},
              {"scheme", options.quantization.scheme.name()},
              {"weights", flags.scheme.weights},
              {"rotations", options.active.name()},
              {"seqlen", seqlen}};
  report.update(to_json(found));
  if (integers) report["integers"] = to_json(*integers);
  if (check) report["reference"] = {{"max_relative_error", check->error}, {"tokens", check->tokens}};
  write_json(flags.common.json, report);
  print_evaluation(found, seqlen,
                   fmt::format("{}, {}, rotations {}", name_of(model), options.quantization.scheme.name(),
                               options.active.name()));
  if (integers) fmt::print("integers    {}\n", describe(*integers));
  if (check) report_reference(*check);
  if (check && !changed && check->error > reference_bound)
    detail::fail(Error::Kind::numerics, "the logits differ from ", flags.reference, " by ", check->error,
                 ", more than ", reference_bound, ": is it of this model and these tokens?");
}

}  // namespace

void add_eval(CLI::App& program) {
  auto const flags = std::make_shared<EvalFlags>();
  CLI::App* const command =
      program.add_subcommand("eval", "Measure perplexity and the KL divergence to the original");
  add_common_flags(*command, flags->common);
  add_device_flag(*command, flags->common);
  add_text_flags(*command, flags->source, "--text", "--tokens", "to measure on");
  add_text_flags(*command, flags->calibration, "--calibration", "--calibration-tokens",
                 "for --weights gptq and lwc to look at; without one the model writes its own");
  add_samples_flag(*command, flags->samples);
  command->add_option("--seqlen", flags->seqlen, "tokens per window; default min(2048, positions)")
      ->type_name("N");
  command->add_option("--windows,--chunks", flags->windows, "measure on the first N windows; 0: all")
      ->type_name("N")
      ->check(at_least(0))
      ->capture_default_str();
  add_scheme_flags(*command, flags->scheme,
                   "bits of weights, activations and KV cache (2..8, 16: off), rounded on the fly");
  add_integers_flag(*command, flags->integers);
  command->add_option("--rotations", flags->rotations, "file written by `dartquant calibrate`")
      ->type_name("FILE");
  command->add_option("--active", flags->active, "which of r1,r2,r3,r4 act; default those of the file")
      ->type_name("LIST");
  command
      ->add_option("--original", flags->original,
                   "checkpoint to compare with, for KL; default MODEL as it is")
      ->type_name("FOLDER");
  command
      ->add_option(
          "--reference", flags->reference,
          "safetensors file with `logits` [tokens, vocabulary] and perhaps `input_ids` to compare with")
      ->type_name("FILE");
  command->footer(eval_example);
  command->callback([flags] { run(*flags); });
}

}  // namespace dartquant::program
