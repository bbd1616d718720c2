// SPDX-License-Identifier: Apache-2.0
#include "io/tokenizer_utf8.hpp"

#include <algorithm>
#include <cstdint>

namespace dartquant::detail {
namespace {

constexpr std::string_view replacement_character = "\xEF\xBF\xBD";

std::uint8_t byte_at(std::string_view text, std::size_t offset) {
  return static_cast<std::uint8_t>(text[offset]);
}

struct Sequence {
  std::size_t valid_bytes;  // how many bytes fit the pattern of one character
  bool complete;
};

/// Examines the sequence that begins at `offset` (table 3-7 of the Unicode Standard).
Sequence examine(std::string_view text, std::size_t offset) {
  std::uint8_t const first = byte_at(text, offset);
  if (first < 0x80) return {1, true};
  if (first < 0xC2 || first > 0xF4) return {0, false};
  std::size_t const length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  for (std::size_t i = 1; i < length; ++i) {
    std::uint8_t low = 0x80;
    std::uint8_t high = 0xBF;
    if (i == 1 && first == 0xE0) low = 0xA0;   // overlong
    if (i == 1 && first == 0xED) high = 0x9F;  // surrogates
    if (i == 1 && first == 0xF0) low = 0x90;   // overlong
    if (i == 1 && first == 0xF4) high = 0x8F;  // above U+10FFFF
    if (offset + i >= text.size() || byte_at(text, offset + i) < low || byte_at(text, offset + i) > high)
      return {i, false};
  }
  return {length, true};
}

}  // namespace

std::size_t find_invalid_utf8(std::string_view text) {
  for (std::size_t offset = 0; offset < text.size();) {
    Sequence const sequence = examine(text, offset);
    if (!sequence.complete) return offset;
    offset += sequence.valid_bytes;
  }
  return std::string_view::npos;
}

CodePoint code_point_at(std::string_view text, std::size_t offset) {
  std::uint8_t const first = byte_at(text, offset);
  if (first < 0x80) return {first, 1};
  std::size_t const length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  char32_t value = first & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) value = (value << 6) | (byte_at(text, offset + i) & 0x3Fu);
  return {value, length};
}

CodePoint code_point_before(std::string_view text, std::size_t offset) {
  std::size_t begin = offset - 1;
  while (begin > 0 && (byte_at(text, begin) & 0xC0u) == 0x80u) --begin;
  return code_point_at(text, begin);
}

std::string to_utf8(char32_t value) {
  auto const tail = [value](int shift) { return static_cast<char>(0x80u | ((value >> shift) & 0x3Fu)); };
  if (value < 0x80) return {static_cast<char>(value)};
  if (value < 0x800) return {static_cast<char>(0xC0u | (value >> 6)), tail(0)};
  if (value < 0x10000) return {static_cast<char>(0xE0u | (value >> 12)), tail(6), tail(0)};
  return {static_cast<char>(0xF0u | (value >> 18)), tail(12), tail(6), tail(0)};
}

std::string replace_invalid_utf8(std::string bytes) {
  if (find_invalid_utf8(bytes) == std::string::npos) return bytes;
  std::string text;
  for (std::size_t offset = 0; offset < bytes.size();) {
    Sequence const sequence = examine(bytes, offset);
    if (sequence.complete) text.append(bytes, offset, sequence.valid_bytes);
    else text += replacement_character;
    offset += std::max<std::size_t>(1, sequence.valid_bytes);
  }
  return text;
}

bool is_white_space(char32_t value) {
  if (value <= 0x20) return value == 0x20 || (value >= 0x09 && value <= 0x0D);
  return value == 0x85 || value == 0xA0 || value == 0x1680 || (value >= 0x2000 && value <= 0x200A) ||
         value == 0x2028 || value == 0x2029 || value == 0x202F || value == 0x205F || value == 0x3000;
}

std::size_t leading_white_space(std::string_view text) {
  std::size_t bytes = 0;
  while (bytes < text.size()) {
    CodePoint const next = code_point_at(text, bytes);
    if (!is_white_space(next.value)) break;
    bytes += next.bytes;
  }
  return bytes;
}

std::size_t trailing_white_space(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    CodePoint const last = code_point_before(text, end);
    if (!is_white_space(last.value)) break;
    end -= last.bytes;
  }
  return text.size() - end;
}

}  // namespace dartquant::detail
