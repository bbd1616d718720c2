// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "io/json.hpp"
#include "io/tokenizer_regex.hpp"

// Pre-tokenizers: how a text is cut into the pieces that the model encodes one by one.
namespace dartquant::detail {

/// A part of the text on its way to ids.
struct TextPiece {
  std::string text;
  bool at_start = false;    ///< it begins where the whole text begins
  std::int32_t token = -1;  ///< the id of the added token that it is, or -1
};

/// What becomes of a delimiter that a Split finds.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

struct SplitStep {
  Regex delimiter;
  SplitBehavior behavior;
  bool invert;  ///< the text between the matches is the delimiter
};

struct ByteLevelStep {
  bool add_prefix_space;
  std::vector<SplitStep> words;  ///< the GPT-2 pattern, or none
};

enum class PrependScheme { always, first, never };

struct MetaspaceStep {
  std::string replacement;
  PrependScheme prepend;
  std::vector<SplitStep> words;  ///< cuts in front of the replacement, or none
};

class PreTokenizer {
 public:
  /// Reads the member "pre_tokenizer", which may be null. Throws Error(format | unsupported).
  PreTokenizer(Json const* pre_tokenizer, std::string const& source);

  /// Cuts one piece; the results are not empty.
  [[nodiscard]] std::vector<TextPiece> apply(TextPiece piece) const;

 private:
  using Step = std::variant<SplitStep, ByteLevelStep, MetaspaceStep>;
  void add(Json const& step, std::string const& source);
  void add_step(Step step, std::string const& source);
  std::vector<Step> steps_;
};

}  // namespace dartquant::detail
