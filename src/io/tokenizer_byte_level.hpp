// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

// GPT-2's byte-level alphabet: each of the 256 bytes has a printable character of its own, so that a piece of
// the vocabulary is readable text. Printable Latin-1 bytes stand for themselves; the 68 others take U+0100
// ... U+0143 in order.
namespace dartquant::detail {

/// Every byte of `bytes` as its character, in UTF-8.
[[nodiscard]] std::string to_byte_level(std::string_view bytes);

/// The bytes of a valid UTF-8 text in that alphabet; nothing when a character is outside of it.
[[nodiscard]] std::optional<std::string> from_byte_level(std::string_view text);

}  // namespace dartquant::detail
