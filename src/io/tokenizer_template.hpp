// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/json.hpp"

// Post-processors: the special tokens that stand around the ids of one text.
namespace dartquant::detail {

class TokenTemplate {
 public:
  /// Reads the member "post_processor", which may be null: every id must be below `vocabulary_size`. Throws
  /// Error(format | unsupported).
  TokenTemplate(Json const* post_processor, std::int64_t vocabulary_size, std::string const& source);

  [[nodiscard]] std::vector<std::int32_t> apply(std::vector<std::int32_t> const& ids) const;

 private:
  void add(Json const& step, std::string const& source);
  void add_template(Json const& step, std::string const& source);
  void surround(std::vector<std::int32_t> const& front, std::vector<std::int32_t> const& back,
                std::string const& source);
  [[nodiscard]] std::int32_t read_id(Json const& id, std::string const& source) const;

  std::vector<std::int32_t> front_;
  std::vector<std::int32_t> back_;
  std::int64_t vocabulary_size_;
};

}  // namespace dartquant::detail
