// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/json.hpp"
#include "io/tokenizer_bpe.hpp"
#include "io/tokenizer_normalizer.hpp"
#include "io/tokenizer_split.hpp"

// Added tokens: strings that map to one id wherever they stand in the text, special (`<s>`) or not.
namespace dartquant::detail {

struct AddedToken {
  std::string content;
  std::int32_t id;
  bool single_word;  ///< only where no word character touches it
  bool lstrip;       ///< takes the white space on its left with it
  bool rstrip;       ///< and on its right
  bool normalized;   ///< looked for after normalization
  bool special;
};

/// A set of strings, searched for the longest one at a place of a text: a tree with one byte per edge.
class TokenTree {
 public:
  TokenTree() : nodes_(1) {}
  void insert(std::string_view content, std::size_t token);

  struct Match {
    std::size_t bytes = 0;
    std::size_t token = 0;
  };
  /// The longest string that begins at `offset`; 0 bytes when there is none.
  [[nodiscard]] Match longest_at(std::string_view text, std::size_t offset) const;

 private:
  struct Node {
    std::map<char, std::size_t> children;
    std::size_t token = 0;
    bool ends = false;
  };
  std::vector<Node> nodes_;
};

class AddedTokens {
 public:
  /// Reads the member "added_tokens", which may be null. An id may be that of the same piece of `model`, and
  /// is new otherwise. Throws Error(format).
  AddedTokens(Json const* added_tokens, BpeModel const& model, Normalizer const& normalizer,
              std::string const& source);

  enum class Stage { raw, normalized };

  /// Cuts a text at the tokens that are looked for at this stage: leftmost first, the longest on ties.
  /// Results are not empty.
  [[nodiscard]] std::vector<TextPiece> split(TextPiece const& piece, Stage stage) const;

  [[nodiscard]] std::vector<AddedToken> const& all() const { return tokens_; }

 private:
  [[nodiscard]] bool accepts(AddedToken const& token, std::string_view text, TextRange match) const;
  std::vector<AddedToken> tokens_;
  TokenTree raw_;
  TokenTree normalized_;
  Regex word_character_;
};

}  // namespace dartquant::detail
