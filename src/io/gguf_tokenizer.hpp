// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <dartquant/core/view.hpp>
#include <dartquant/io/gguf.hpp>

#include "io/json.hpp"

// The tokenizer inside a GGUF file and the tokenizer.json that gives the same ids. Two models are known:
// "llama", pieces with scores, the pair of neighbours whose union has the best score merged first, bytes for
// what is left; and "gpt2", byte-level with merges and a named pre-tokenizer.
namespace dartquant::detail {

/// How a pre-tokenizer that llama.cpp knows by name cuts a text.
struct GgufPreTokenizer {
  std::string_view name;     ///< tokenizer.ggml.pre
  std::string_view pattern;  ///< words; empty: those of GPT-2
  bool single_digits;        ///< digits are cut off one by one first
  bool ignore_merges;        ///< a word that is a piece is taken whole
  bool add_bos;              ///< where the file does not say
  std::string_view normalizer;
};
[[nodiscard]] std::vector<GgufPreTokenizer> const& gguf_pre_tokenizers();

/// The text of a tokenizer.json; nothing where the file has no tokenizer (model "no_vocab", or no key).
/// Errors: Error(unsupported) for another model or an unknown pre-tokenizer, Error(format) for arrays that
/// are missing or of different lengths, a repeated piece, ids beyond the vocabulary, text that is no UTF-8.
[[nodiscard]] std::optional<std::string> tokenizer_json_of(GgufFile const& file);

/// Ids that a Hugging Face folder names in its configuration.
struct SpecialIds {
  std::optional<std::int64_t> bos{}, eos{}, unknown{}, padding{};
};

struct GgufTokenizer {
  std::vector<GgufEntry> entries;
  std::string note;  ///< a sentence where the tokenizer could not be written; otherwise empty
};
/// The keys of a tokenizer.json for a vocabulary of `size` ids; ids without a piece are filled. Where the
/// tokenizer has no counterpart in GGUF, the file says "no_vocab" and the note why. Errors: Error(format) as
/// Tokenizer for a malformed file.
[[nodiscard]] GgufTokenizer gguf_tokenizer(std::string_view tokenizer_json, std::string const& source,
                                           SpecialIds ids, index_t size);

}  // namespace dartquant::detail
