// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "io/json.hpp"
#include "io/tokenizer_normalizer.hpp"

// Decoders: how the pieces of a list of ids become text again.
namespace dartquant::detail {

struct ByteLevelDecoder {};     ///< characters of the byte-level alphabet back to bytes, all pieces joined
struct ByteFallbackDecoder {};  ///< runs of <0xNN> become the text of those bytes
struct FuseDecoder {};          ///< joins the pieces
struct StripDecoder {           ///< takes `content` off, at most so many times at either end of every piece
  std::string content;
  std::int64_t start;
  std::int64_t stop;
};
struct MetaspaceDecoder {
  std::string replacement;
  bool drop_first;  ///< the first piece loses its replacements, the others get spaces
};

class Decoder {
 public:
  /// Reads the member "decoder"; null joins the pieces with spaces. Throws Error(format | unsupported).
  Decoder(Json const* decoder, std::string const& source);

  /// The text of `pieces`, valid UTF-8.
  [[nodiscard]] std::string apply(std::vector<std::string> pieces) const;

 private:
  using Step = std::variant<ByteLevelDecoder, ByteFallbackDecoder, FuseDecoder, ReplaceStep, StripDecoder,
                            MetaspaceDecoder>;
  void add(Json const& step, std::string const& source);
  std::vector<Step> steps_;
  std::string separator_;
};

}  // namespace dartquant::detail
