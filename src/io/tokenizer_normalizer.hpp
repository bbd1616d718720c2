// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "io/json.hpp"
#include "io/tokenizer_normal_form.hpp"
#include "io/tokenizer_regex.hpp"

// Normalizers: what happens to a text before it is cut into pieces.
namespace dartquant::detail {

struct PrependStep {
  std::string prefix;
};
struct ReplaceStep {
  Regex pattern;
  std::string content;
};
struct StripStep {
  bool left;
  bool right;
};
struct LowercaseStep {};
struct NormalFormStep {
  NormalForm form;
};

/// Every match becomes `content`. Throws Error(memory) when the result exceeds `limit` bytes.
[[nodiscard]] std::string replace_all(std::string_view text, ReplaceStep const& step, std::size_t limit);

/// The size in bytes that a text of `size` bytes may grow to: 64-fold, or a little for short ones.
[[nodiscard]] std::size_t growth_limit(std::size_t size);

class Normalizer {
 public:
  /// Reads the member "normalizer", which may be null. Throws Error(format | unsupported).
  Normalizer(Json const* normalizer, std::string const& source);

  struct Result {
    std::string text;
    bool start_removed = false;  ///< white space was stripped at the front
  };

  /// Errors: Error(memory) for a text that grows too much.
  [[nodiscard]] Result apply(std::string text) const;

 private:
  using Step = std::variant<PrependStep, ReplaceStep, StripStep, LowercaseStep, NormalFormStep>;
  void add(Json const& step, std::string const& source);
  std::vector<Step> steps_;
};

}  // namespace dartquant::detail
