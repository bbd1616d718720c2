// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

// UTF-8 text as a sequence of code points.
namespace dartquant::detail {

struct CodePoint {
  char32_t value;
  std::size_t bytes;
};

/// Offset of the first byte that begins no well-formed sequence (RFC 3629: no overlong forms, no surrogates,
/// nothing above U+10FFFF); npos when the whole text is valid.
[[nodiscard]] std::size_t find_invalid_utf8(std::string_view text);

/// The code point at `offset` < text.size() of a valid text, and the one that ends before `offset` > 0.
[[nodiscard]] CodePoint code_point_at(std::string_view text, std::size_t offset);
[[nodiscard]] CodePoint code_point_before(std::string_view text, std::size_t offset);

/// The UTF-8 form of one code point.
[[nodiscard]] std::string to_utf8(char32_t value);

/// Every maximal invalid part becomes U+FFFD (Unicode 15, table 3-8).
[[nodiscard]] std::string replace_invalid_utf8(std::string bytes);

/// The Unicode property White_Space.
[[nodiscard]] bool is_white_space(char32_t value);

/// Bytes of white space at the front and at the end of a valid text.
[[nodiscard]] std::size_t leading_white_space(std::string_view text);
[[nodiscard]] std::size_t trailing_white_space(std::string_view text);

}  // namespace dartquant::detail
