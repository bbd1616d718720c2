// SPDX-License-Identifier: Apache-2.0
#include "own_text.hpp"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include <fmt/core.h>

#include <dartquant/core/error.hpp>
#include <dartquant/io/tokenizer.hpp>
#include <dartquant/model/generate.hpp>
#include <dartquant/model/pipeline.hpp>

#include "peak_memory.hpp"
#include "report.hpp"
#include "units.hpp"
#include "windows.hpp"

namespace dartquant::program {
namespace {

/// Errors: InvalidArgument.
Plan fitting_plan(Machine const& machine, Model const& model, index_t windows, index_t seqlen) {
  constexpr index_t most = index_t{1} << 32;  // tokens; no product of sizes below overflows
  detail::require(windows <= most / seqlen, windows, " windows of ", seqlen, " tokens: at most ", most,
                  " tokens can be written");
  Plan needed = plan(machine.cpu, model, Job::generate, windows, seqlen);
  std::uint64_t const memory = machine_memory();
  detail::require(memory == 0 || needed.memory_bytes <= memory, name_of(model), " takes ",
                  format_bytes(needed.memory_bytes), " of memory to write ", windows, " windows of ", seqlen,
                  " tokens, and this machine has ", format_bytes(memory),
                  ": give a text to learn from (see --help), or ask for fewer windows or tokens");
  return needed;
}

/// Ids that text has: a vocabulary may be padded with rows that were never trained.
index_t used_vocabulary(Model const& model) {
  std::optional<std::string> const tokenizer = model.tokenizer_text();
  index_t const all = model.config().vocabulary;
  if (!tokenizer) return all;
  return std::min(all, Tokenizer::parse(*tokenizer, model.folder().string()).vocabulary_size());
}

}  // namespace

TokenWindows write_own_text(CommonFlags const& flags, Machine const& machine, Model const& model,
                            OwnText const& wanted, ProgressDisplay& progress) {
  bool const given = wanted.source.given();
  detail::require(!given || wanted.prompt < wanted.seqlen, "--prompt ", wanted.prompt, ": windows have ",
                  wanted.seqlen, " tokens, and nothing would be left to write");
  TokenWindows prompts;
  if (given) prompts = spread_windows(model, wanted.source, wanted.prompt, wanted.windows);
  index_t const windows = given ? prompts.rows() : wanted.windows;
  Plan const needed = fitting_plan(machine, model, windows, wanted.seqlen);
  if (!given) prompts = random_prompts(used_vocabulary(model), windows, flags.seed);
  print_plan(flags, machine.device,
             fmt::format("let {} write {} windows of {} tokens", name_of(model), windows, wanted.seqlen),
             needed);
  progress.start("generate");
  TokenWindows written = generate(machine.cpu, model, prompts,
                                  {.tokens = wanted.seqlen,
                                   .temperature = wanted.temperature,
                                   .seed = flags.seed,
                                   .progress = progress.callback()});
  progress.finish();
  return written;
}

std::string name_of_text(TextSource const& source) {
  return source.given() ? source.file() : "written by the model";
}

LearningText::LearningText(CommonFlags const& flags, Machine const& machine, Model const& model,
                           TextSource source, index_t seqlen, index_t samples, ProgressDisplay& progress)
    : flags_(flags),
      machine_(machine),
      model_(model),
      source_(std::move(source)),
      seqlen_(seqlen),
      samples_(samples),
      progress_(progress) {}

TokenWindows const& LearningText::windows() {
  if (!windows_)
    windows_ = source_.given() ? spread_windows(model_, source_, seqlen_, samples_)
                               : write_own_text(flags_, machine_, model_,
                                                {.windows = samples_, .seqlen = seqlen_}, progress_);
  return *windows_;
}

}  // namespace dartquant::program
