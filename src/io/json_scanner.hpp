// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace dartquant::detail {

/// True when the bytes are well-formed UTF-8: no overlong form, no surrogate, nothing above U+10FFFF.
[[nodiscard]] bool is_utf8(std::string_view text) noexcept;

/// Walks over JSON text of a known grammar without allocating, so that the memory a hostile header costs is
/// decided by the caller. (A general parser holds each token twice and each value in a tree.) All members
/// throw Error(format) with the byte where the text is wrong. The text must be valid UTF-8.
class JsonScanner {
 public:
  JsonScanner(std::string_view text, std::string const& source) : text_(text), source_(source) {}

  /// Skips white space; consumes the character and returns true when it comes next.
  bool accept(char c);
  /// As `accept`, but anything else is an error.
  void expect(char c);
  /// A string; returns what stands between its quotes, escapes checked but not yet replaced.
  [[nodiscard]] std::string_view string();
  /// An integer without sign, fraction and exponent that fits 64 bits. `what` names it in the sentence.
  [[nodiscard]] std::uint64_t unsigned_integer(std::string_view what);
  /// Nothing but white space may be left.
  void expect_end();

  [[noreturn]] void refuse(std::string_view why) const;

 private:
  void skip_space();
  void escape();
  unsigned hex4();

  std::string_view text_;
  std::string const& source_;
  std::size_t at_ = 0;
};

/// Replaces the escapes of a string that JsonScanner returned. Never longer than `raw`; returns the end.
char* decode_json_string(std::string_view raw, char* out) noexcept;

}  // namespace dartquant::detail
