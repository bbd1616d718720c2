// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include <fmt/core.h>

#include <dartquant/core/error.hpp>
#include <dartquant/model/pipeline.hpp>

#include "active.hpp"
#include "commands.hpp"
#include "flags.hpp"
#include "output.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "terminal.hpp"
#include "units.hpp"
#include "written_check.hpp"

namespace dartquant::program {
namespace {

constexpr char const* fold_example =
    "Example:\n"
    "  dartquant fold my-model --rotations rotations.safetensors -o my-model-folded\n"
    "  dartquant fold my-model --rotations rotations.safetensors -o my-model-rotated.gguf --dtype f16\n\n"
    "The folded checkpoint computes the same as the original and runs in any Hugging Face reader: norms' "
    "gains and\n"
    "the rotations are multiplied into the weights in FP64, embeddings are untied. Before the folder is put "
    "in\n"
    "place its logits are compared with the original's; if they differ, nothing is written. With --active "
    "r1,r2,r4\n"
    "the reader must run the Hadamard transform of R4 before down_proj (dartquant does). A GGUF file is for "
    "llama.cpp\n"
    "and its quantizers; --dtype q8_0 and q4_0 quantize here, block by block.";

struct FoldFlags {
  CommonFlags common;
  TextSource source;
  std::string rotations, active, output, dtype, format;
  std::map<std::string, std::string> given;

  [[nodiscard]] FoldFormat fold_format() const {
    bool const gguf =
        format.empty() ? std::filesystem::path(output).extension() == ".gguf" : format == "gguf";
    return gguf ? FoldFormat::gguf : FoldFormat::hugging_face;
  }
  [[nodiscard]] std::unique_ptr<StagedOutput> staged(Model const& model, std::uint64_t bytes) const {
    if (fold_format() == FoldFormat::gguf) return std::make_unique<StagedFile>(output, model.folder(), bytes);
    return std::make_unique<StagedFolder>(output, model.folder(), bytes);
  }
};

Json report_of(Model const& model, std::string const& device, RotationSet active, FoldReport const& done,
               FoldCheck const& check, double bound) {
  return {{"model", name_of(model)},
          {"device", device},
          {"rotations", active.name()},
          {"bytes_written", done.bytes_written},
          {"r1_orthogonality", done.r1_orthogonality},
          {"r2_orthogonality", done.r2_orthogonality},
          {"max_relative_logit_error", check.max_error},
          {"bound", bound},
          {"tokens_checked", check.tokens},
          {"notes", done.notes}};
}

void run(FoldFlags const& flags) {
  check_output_file(flags.common.json, flags.common.model, {flags.rotations, flags.source.file()});
  Machine const machine = flags.common.machine();
  Cpu const& cpu = machine.cpu;
  Model const model = Model::open(flags.common.model);
  Rotations const rotations = read_rotations(flags.rotations, model.config());
  FoldOptions options;
  options.rotations = active_rotations(flags.active, rotations);
  options.dtype = dtype_of(flags.dtype);
  options.format = flags.fold_format();
  options.manifest = origin_of_rotations(flags.rotations);
  options.manifest.insert(flags.given.begin(), flags.given.end());
  detail::require(!options.rotations.r3, "--active ", flags.active,
                  ": R3 acts after RoPE and cannot be folded; leave it out");
  TokenWindows const windows = check_windows(model, flags.source);
  Plan job = plan(cpu, model, Job::fold, windows.rows(), windows.cols());
  job.disk_bytes = written_bytes(model, options.dtype);
  options.validate();
  std::unique_ptr<StagedOutput> const output = flags.staged(model, job.disk_bytes);
  print_plan(flags.common, machine.device,
             fmt::format("fold {} into {}", options.rotations.name(), name_of(model)), job);

  ProgressDisplay progress(flags.common.detail());
  options.progress = progress.callback();
  progress.start("fold");
  FoldReport const done = fold(cpu, model, rotations, output->path(), options);
  progress.finish();
  progress.start("check");
  Model const folded = Model::open(output->path());
  double const bound = logit_bound(folded);
  FoldCheck const check = check_fold(cpu, model, folded, windows, bound);
  progress.finish();
  output->commit();

  write_json(flags.common.json, report_of(model, machine.device, options.rotations, done, check, bound));
  fmt::print("{}, {} folded into {}, {}\n", bold(name_of(model)), options.rotations.name(), flags.output,
             format_bytes(done.bytes_written));
  fmt::print("Largest logit difference {:.2e} of the largest logit over {} tokens (bound {:.0e})\n",
             check.max_error, check.tokens, bound);
  fmt::print("Orthogonality |I - R'R| / (n eps): R1 {:.2g}, R2 {:.2g} (good below 30)\n{}",
             done.r1_orthogonality, done.r2_orthogonality, describe(done.notes));
}

}  // namespace

void add_fold(CLI::App& program) {
  auto const flags = std::make_shared<FoldFlags>();
  CLI::App* const command =
      program.add_subcommand("fold", "Write the checkpoint with rotations folded into its weights");
  add_common_flags(*command, flags->common);
  add_device_flag(*command, flags->common);
  command
      ->add_option("--rotations", flags->rotations,
                   "file written by `dartquant calibrate`; without it only the gains are folded")
      ->type_name("FILE");
  command
      ->add_option("-o,--output", flags->output,
                   "folder to write, or NAME.gguf: new, empty, or an earlier output")
      ->type_name("PATH")
      ->required();
  command->add_option("--active", flags->active, "which of r1,r2,r4 to fold; default those of the file")
      ->type_name("LIST");
  command
      ->add_option(
          "--dtype", flags->dtype,
          "f32, f16 or bf16, in GGUF also q8_0 or q4_0: type of the written weights; default as in MODEL")
      ->type_name("NAME")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8_0", "q4_0"}, CLI::ignore_case));
  command
      ->add_option("--format", flags->format,
                   "hf (a folder) or gguf (a file); default by the name of the output")
      ->type_name("NAME")
      ->check(CLI::IsMember({"hf", "gguf"}));
  add_text_flags(*command, flags->source, "--text", "--tokens",
                 "to check on (default: pseudo-random tokens)");
  command->footer(fold_example);
  command->callback([flags, command] {
    flags->given = given_options(*command);
    run(*flags);
  });
}

}  // namespace dartquant::program
