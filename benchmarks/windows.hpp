// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fstream>
#include <iterator>
#include <string>

#include <dartquant/io/tokenizer.hpp>
#include <dartquant/model/pipeline.hpp>

namespace dartquant::bench {

/// A text file in the tokens of a model, cut into windows.
[[nodiscard]] inline TokenWindows windows_of_text(Model const& model, std::string const& file,
                                                  index_t seqlen) {
  std::ifstream in(file, std::ios::binary);
  std::string const text{std::istreambuf_iterator<char>(in), {}};
  return windows_of(Tokenizer::parse(model.tokenizer_text().value(), "tokenizer.json").encode(text), seqlen);
}

/// `count` windows spread over all of them.
[[nodiscard]] inline TokenWindows spread(TokenWindows const& all, index_t count) {
  if (count >= all.rows()) return all;
  TokenWindows some(count, all.cols());
  for (index_t i = 0; i < count; ++i) some.row(i) = all.row(i * all.rows() / count);
  return some;
}

}  // namespace dartquant::bench
