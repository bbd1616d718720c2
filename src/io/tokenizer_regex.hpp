// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.hpp"

// Regular expressions of tokenizer files, on PCRE2. RE2 cannot serve: the GPT-2, Llama-3, cl100k, o200k and
// Qwen patterns need look-ahead.
namespace dartquant::detail {

/// Bytes [begin, end) of a text.
struct TextRange {
  std::size_t begin;
  std::size_t end;
};

class Regex {
 public:
  enum class Syntax { pattern, literal };

  /// Compiles with Unicode properties. Files are written for Oniguruma, so `\s` is the property White_Space,
  /// `\w` is Alphabetic, Mark, Decimal_Number and Connector_Punctuation, and `^`, `$` match at every line.
  /// Throws Error(format) on a malformed pattern, Error(unsupported) on syntax that PCRE2 reads in another
  /// way.
  Regex(std::string_view pattern, Syntax syntax, std::string const& source);

  /// A pattern as tokenizer files write it: {"Regex": "..."} or {"String": "..."}.
  [[nodiscard]] static Regex read(Json const& pattern, std::string const& source);

  /// All matches in a valid UTF-8 text, left to right, without overlap. An empty match right after another
  /// match is passed over. Throws Error(unsupported) when the pattern exceeds the limit of steps on this
  /// text.
  [[nodiscard]] std::vector<TextRange> find_all(std::string_view text) const;

 private:
  std::string pattern_;
  std::string source_;
  std::shared_ptr<void const> code_;
};

}  // namespace dartquant::detail
