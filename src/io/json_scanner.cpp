// SPDX-License-Identifier: Apache-2.0
#include "io/json_scanner.hpp"

#include <dartquant/core/error.hpp>

namespace dartquant::detail {
namespace {

unsigned hex_digit(char c) noexcept {
  if ('0' <= c && c <= '9') return static_cast<unsigned>(c - '0');
  if ('a' <= c && c <= 'f') return static_cast<unsigned>(c - 'a' + 10);
  if ('A' <= c && c <= 'F') return static_cast<unsigned>(c - 'A' + 10);
  return 16;
}

unsigned hex4_at(std::string_view raw, std::size_t at) noexcept {
  return hex_digit(raw[at]) << 12 | hex_digit(raw[at + 1]) << 8 | hex_digit(raw[at + 2]) << 4 |
         hex_digit(raw[at + 3]);
}

char* put_utf8(unsigned code, char* out) noexcept {
  auto const put = [&out](unsigned byte) { *out++ = static_cast<char>(static_cast<unsigned char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6), put(0x80 | (code & 63));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 63)), put(0x80 | (code & 63));
  } else {
    put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 63)), put(0x80 | (code >> 6 & 63)),
        put(0x80 | (code & 63));
  }
  return out;
}

/// The number of bytes of the UTF-8 sequence at the start of `text`, 0 when it is malformed.
std::size_t utf8_length(std::string_view text) noexcept {
  auto const byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  unsigned const first = byte(0);
  if (first < 0x80) return 1;
  std::size_t const length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xC0) != 0x80) return 0;
  unsigned const second = byte(1);
  bool const overlong = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
  bool const surrogate = first == 0xED && second >= 0xA0;
  bool const too_large = first == 0xF4 && second >= 0x90;
  return overlong || surrogate || too_large ? 0 : length;
}

}  // namespace

bool is_utf8(std::string_view text) noexcept {
  while (!text.empty()) {
    std::size_t const length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

void JsonScanner::refuse(std::string_view why) const {
  fail(Error::Kind::format, source_, ": not valid JSON at byte ", at_, " of the header: ", why);
}

void JsonScanner::skip_space() {
  while (at_ < text_.size() && std::string_view(" \t\n\r").find(text_[at_]) != std::string_view::npos) ++at_;
}

bool JsonScanner::accept(char c) {
  skip_space();
  if (at_ == text_.size() || text_[at_] != c) return false;
  ++at_;
  return true;
}

void JsonScanner::expect(char c) {
  if (!accept(c)) refuse(std::string("'") + c + "' is missing here");
}

void JsonScanner::expect_end() {
  skip_space();
  if (at_ != text_.size()) refuse("text after the end");
}

std::string_view JsonScanner::string() {
  expect('"');
  std::size_t const begin = at_;
  while (at_ < text_.size() && text_[at_] != '"') {
    if (static_cast<unsigned char>(text_[at_]) < 0x20) refuse("a control character inside a string");
    if (text_[at_++] == '\\') escape();
  }
  if (at_ == text_.size()) refuse("a string without end");
  return text_.substr(begin, at_++ - begin);
}

void JsonScanner::escape() {
  char const kind = at_ < text_.size() ? text_[at_++] : '\0';
  if (kind == 'u') {
    unsigned const code = hex4();
    if (0xDC00 <= code && code < 0xE000) refuse("a lone surrogate");
    if (0xD800 <= code && code < 0xDC00) {
      if (text_.substr(at_, 2) != "\\u") refuse("a lone surrogate");
      at_ += 2;
      unsigned const low = hex4();
      if (low < 0xDC00 || low >= 0xE000) refuse("a lone surrogate");
    }
  } else if (kind == '\0' || std::string_view("\"\\/bfnrt").find(kind) == std::string_view::npos) {
    refuse("an unknown escape");
  }
}

unsigned JsonScanner::hex4() {
  if (text_.size() - at_ < 4) refuse("an escape without end");
  for (std::size_t i = 0; i < 4; ++i)
    if (hex_digit(text_[at_ + i]) > 15) refuse("an escape that is not hexadecimal");
  at_ += 4;
  return hex4_at(text_, at_ - 4);
}

std::uint64_t JsonScanner::unsigned_integer(std::string_view what) {
  skip_space();
  std::size_t const begin = at_;
  std::uint64_t value = 0;
  bool fits = true;
  for (; at_ < text_.size() && '0' <= text_[at_] && text_[at_] <= '9'; ++at_) {
    auto const digit = static_cast<std::uint64_t>(text_[at_] - '0');
    fits = fits && !__builtin_mul_overflow(value, std::uint64_t{10}, &value) &&
           !__builtin_add_overflow(value, digit, &value);
  }
  bool const other_number =
      at_ < text_.size() && std::string_view(".eE-+").find(text_[at_]) != std::string_view::npos;
  if (at_ == begin || other_number) refuse(std::string(what) + " must be a non-negative integer");
  if (text_[begin] == '0' && at_ - begin > 1) refuse("a number with a leading zero");
  if (!fits) refuse(std::string(what) + " does not fit 64 bits");
  return value;
}

char* decode_json_string(std::string_view raw, char* out) noexcept {
  for (std::size_t at = 0; at < raw.size();) {
    char const c = raw[at++];
    if (c != '\\') {
      *out++ = c;
      continue;
    }
    char const kind = raw[at++];
    if (kind == 'u') {
      unsigned code = hex4_at(raw, at);
      at += 4;
      if (0xD800 <= code && code < 0xDC00) {
        code = 0x10000 + ((code - 0xD800) << 10) + (hex4_at(raw, at + 2) - 0xDC00);
        at += 6;
      }
      out = put_utf8(code, out);
    } else {
      std::string_view const from = "bfnrt", to = "\b\f\n\r\t";
      std::size_t const place = from.find(kind);
      *out++ = place == std::string_view::npos ? kind : to[place];
    }
  }
  return out;
}

}  // namespace dartquant::detail
