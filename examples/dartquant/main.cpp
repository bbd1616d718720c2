// SPDX-License-Identifier: Apache-2.0
// dartquant: learned rotations for 4-bit quantization of Llama-type checkpoints.
#include <string>

#include <fmt/core.h>
#include <CLI/CLI.hpp>

#include <dartquant/core/error.hpp>
#include <dartquant/version.hpp>

#include "commands.hpp"
#include "exit_code.hpp"
#include "interrupt.hpp"

namespace {

using namespace dartquant::program;

constexpr char const* description =
    "dartquant: learned rotations for 4-bit quantization of Llama-type checkpoints.\n\n"
    "A Hugging Face checkpoint folder and a text go in; learned rotations, a folded checkpoint that computes "
    "the\n"
    "same, and a measured 4-bit result come out. Start with `compare` to see what rotations gain on your "
    "model.";

constexpr char const* example =
    "Example, from a checkpoint to a rotated one:\n"
    "  dartquant inspect   my-model --text my-text.txt\n"
    "  dartquant calibrate my-model --text my-text.txt -o rotations.safetensors\n"
    "  dartquant fold      my-model --rotations rotations.safetensors -o my-model-folded\n\n"
    "`dartquant COMMAND --help` explains each with an example.\n\n";

/// The sub-command that the command line names, or the program itself.
CLI::App const& chosen(CLI::App const& program) {
  auto const commands = program.get_subcommands();
  return commands.empty() ? program : *commands.front();
}

/// CLI11's sentence without its line breaks.
std::string one_line(std::string text) {
  for (char& c : text)
    if (c == '\n') c = ' ';
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  watch_signals();
  CLI::App program(description, "dartquant");
  program.set_version_flag("--version", "dartquant " + dartquant::version());
  program.footer(example + std::string(exit_code_help()));
  program.require_subcommand(1);
  program.get_formatter()->column_width(32);
  add_inspect(program);
  add_calibrate(program);
  add_fold(program);
  add_quantize(program);
  add_eval(program);
  add_compare(program);
  add_tokenize(program);
  add_generate(program);

  ExitCode const code = run_reporting_errors([&] {
    try {
      program.parse(argc, argv);
    } catch (CLI::CallForHelp const&) {
      CLI::App const& command = chosen(program);
      fmt::print("{}", command.help(&command == &program ? "" : "dartquant"));
    } catch (CLI::CallForVersion const& version) {
      fmt::print("{}\n", version.what());
    } catch (CLI::ParseError const& error) {
      CLI::App const& command = chosen(program);
      if (&command == &program && argc > 1 && argv[1][0] != '-')
        throw dartquant::InvalidArgument(
            fmt::format("there is no command '{}' (see dartquant --help)", argv[1]));
      std::string const name = &command == &program ? "" : " " + command.get_name();
      throw dartquant::InvalidArgument(
          fmt::format("{} (see dartquant{} --help)", one_line(error.what()), name));
    }
  });
  return static_cast<int>(code);
}
