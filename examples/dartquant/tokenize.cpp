// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/core.h>

#include <dartquant/core/error.hpp>
#include <dartquant/io/npy.hpp>
#include <dartquant/io/tokenizer.hpp>

#include "commands.hpp"
#include "flags.hpp"
#include "output.hpp"
#include "report.hpp"
#include "windows.hpp"

namespace dartquant::program {
namespace {

constexpr char const* tokenize_example =
    "Example:\n"
    "  dartquant tokenize my-model --text wikitext.txt -o wikitext.npy\n\n"
    "Of a folder only tokenizer.json is read; a GGUF file must hold a whole model. Other commands take the "
    "ids as\n"
    "--tokens.";

struct TokenizeFlags {
  CommonFlags common;
  std::string text, output;
};

Tokenizer tokenizer_of(std::filesystem::path const& model) {
  if (std::filesystem::is_directory(model)) return Tokenizer::load(model / "tokenizer.json");
  std::optional<std::string> const text = Model::open(model).tokenizer_text();
  if (!text) throw Error(Error::Kind::io, fmt::format("{} holds no tokenizer", model.string()));
  return Tokenizer::parse(*text, model.string());
}

void run(TokenizeFlags const& flags) {
  for (std::string const& file : {flags.output, flags.common.json})
    check_output_file(file, flags.common.model, {flags.text});
  std::vector<std::int32_t> const ids = encode(tokenizer_of(flags.common.model), flags.text);
  write_npy(flags.output, ids);
  write_json(flags.common.json, Json{{"text", flags.text}, {"tokens", ids.size()}});
  fmt::print("Wrote {}: {} tokens\n", flags.output, ids.size());
}

}  // namespace

void add_tokenize(CLI::App& program) {
  auto const flags = std::make_shared<TokenizeFlags>();
  CLI::App* const command = program.add_subcommand("tokenize", "Write the token ids of a text");
  add_common_flags(*command, flags->common);
  command->add_option("--text", flags->text, "text to encode as one document")->type_name("FILE")->required();
  command->add_option("-o,--output", flags->output, "one-dimensional .npy file of int32 to write")
      ->type_name("FILE.npy")
      ->required();
  command->footer(tokenize_example);
  command->callback([flags] { run(*flags); });
}

}  // namespace dartquant::program
