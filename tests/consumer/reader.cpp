// SPDX-License-Identifier: Apache-2.0
// What an engine does with the compiled part: open a checkpoint, tokenize, measure: reader <checkpoint
// folder>
#include <dartquant/dartquant.hpp>

#include <cstdio>
#include <filesystem>

namespace dq = dartquant;

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  std::filesystem::path const folder = argv[1];
  dq::Cpu const cpu(2);
  dq::Model const model = dq::Model::open(folder);
  dq::Tokenizer const tokenizer = dq::Tokenizer::load(folder / "tokenizer.json");
  std::string story;
  for (int i = 0; i < 40; ++i) story += "once upon a time, there was a little boy named tim. ";
  auto const ids = tokenizer.encode(story);
  auto const result = dq::evaluate(cpu, model, dq::windows_of(ids, 64, 4));
  std::printf("%td layers, %zu ids, perplexity %.3f\n", model.config().layers, ids.size(), result.perplexity);
  return result.perplexity > 1 && result.perplexity < 1000 ? 0 : 1;
}
