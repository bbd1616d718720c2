// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/core.h>

#include <dartquant/io/npy.hpp>
#include <dartquant/io/tokenizer.hpp>
#include <dartquant/model/pipeline.hpp>

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

constexpr char const* generate_example =
    "Example, calibration without any text at hand:\n"
    "  dartquant generate  my-model -o own-text.npy\n"
    "  dartquant calibrate my-model --tokens own-text.npy -o rotations.safetensors\n\n"
    "Every window starts with --prompt tokens of --text, or without one with a token of its own, drawn from "
    "the whole\n"
    "vocabulary; the model goes on, token by token. What it writes lies where its activations lie, so that "
    "rotations\n"
    "learned on it hardly depend on the text it started from. All weights are in memory as 32-bit floats.";

struct GenerateFlags {
  CommonFlags common;
  OwnText text{.windows = calibration_samples};
  std::string output;
};

/// The beginning of what was written, on one line; nothing where the model has no tokenizer. Ids without a
/// piece (of a padded vocabulary) are left out, control characters become spaces.
std::optional<std::string> beginning(Model const& model, TokenWindows const& windows) {
  std::optional<std::string> const text = model.tokenizer_text();
  if (!text) return std::nullopt;
  constexpr index_t shown = 40;
  Tokenizer const tokenizer = Tokenizer::parse(*text, (model.folder() / "tokenizer.json").string());
  std::vector<std::int32_t> ids;
  for (index_t i = 0; i < std::min(shown, windows.cols()); ++i)
    if (tokenizer.piece_of(windows(0, i))) ids.push_back(windows(0, i));
  std::string result = tokenizer.decode(ids);
  for (std::size_t i = 0; i < result.size(); ++i) {
    auto const byte = static_cast<unsigned char>(result[i]);
    bool const high = byte == 0xc2 && static_cast<unsigned char>(result[i + 1]) < 0xa0;  // U+0080 to U+009F
    if (high) result[i + 1] = ' ';
    if (high || byte < 0x20 || byte == 0x7f) result[i] = ' ';
  }
  return result;
}

void run(GenerateFlags const& flags) {
  auto const started = std::chrono::steady_clock::now();
  check_output_file(flags.output, flags.common.model, {flags.text.source.file()});
  check_output_file(flags.common.json, flags.common.model, {flags.text.source.file(), flags.output});
  Machine const machine = flags.common.machine();
  Model const model = Model::open(flags.common.model);
  OwnText wanted = flags.text;
  wanted.seqlen = window_length(model, wanted.seqlen);
  ProgressDisplay progress(flags.common.detail());
  TokenWindows const windows = write_own_text(flags.common, machine, model, wanted, progress);
  TemporaryFiles const guard;
  write_npy(flags.output, std::vector<std::int32_t>(windows.data(), windows.data() + windows.size()));
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  Json report{{"model", name_of(model)},
              {"output", flags.output},
              {"windows", windows.rows()},
              {"seqlen", windows.cols()},
              {"prompt", wanted.source.given() ? wanted.prompt : 1},
              {"temperature", wanted.temperature},
              {"seed", flags.common.seed},
              {"total_seconds", seconds}};
  std::optional<std::string> const text = beginning(model, windows);
  if (text) report["beginning"] = *text;
  write_json(flags.common.json, report);
  if (text) fmt::print("{} wrote: {} ...\n", bold(name_of(model)), *text);
  fmt::print("Wrote {}: {} windows of {} tokens in {}; learn from it with --tokens {} --seqlen {}\n",
             flags.output, windows.rows(), windows.cols(), format_seconds(seconds), flags.output,
             windows.cols());
}

}  // namespace

void add_generate(CLI::App& program) {
  auto const flags = std::make_shared<GenerateFlags>();
  CLI::App* const command =
      program.add_subcommand("generate", "Let the model write its own text to learn from");
  add_common_flags(*command, flags->common);
  add_device_flag(*command, flags->common);
  add_text_flags(*command, flags->text.source, "--text", "--tokens",
                 "whose windows' first tokens begin those to write");
  command->add_option("--prompt", flags->text.prompt, "tokens of such a text in each window")
      ->type_name("N")
      ->check(at_least(2))
      ->capture_default_str();
  command->add_option("--windows,--samples", flags->text.windows, "windows to write, at most")
      ->type_name("N")
      ->check(at_least(1))
      ->capture_default_str();
  command->add_option("--seqlen", flags->text.seqlen, "tokens per window; default min(2048, positions)")
      ->type_name("N");
  command
      ->add_option("--temperature", flags->text.temperature,
                   "of the distribution that tokens are drawn from; 0: always the most likely")
      ->type_name("T")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("-o,--output", flags->output, "one-dimensional .npy file of int32 to write")
      ->type_name("FILE.npy")
      ->required();
  command->footer(generate_example);
  command->callback([flags, command] {
    detail::require(command->count("--prompt") == 0 || flags->text.source.given(), "--prompt ",
                    flags->text.prompt, ": there is no text to take tokens from; add --text or --tokens");
    run(*flags);
  });
}

}  // namespace dartquant::program
