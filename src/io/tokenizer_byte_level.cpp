// SPDX-License-Identifier: Apache-2.0
#include "io/tokenizer_byte_level.hpp"

#include <array>

#include "io/tokenizer_utf8.hpp"

namespace dartquant::detail {
namespace {

constexpr int alphabet_end = 0x144;

struct Alphabet {
  std::array<char32_t, 256> character{};
  std::array<int, alphabet_end> byte{};  // -1: not in the alphabet
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.byte.fill(-1);
  char32_t next = 0x100;
  for (int b = 0; b < 256; ++b) {
    bool const printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    char32_t const c = printable ? static_cast<char32_t>(b) : next++;
    alphabet.character[static_cast<std::size_t>(b)] = c;
    alphabet.byte[c] = b;
  }
  return alphabet;
}

constexpr Alphabet alphabet = make_alphabet();

}  // namespace

std::string to_byte_level(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() + bytes.size() / 4);
  for (char const b : bytes) {
    char32_t const c = alphabet.character[static_cast<std::uint8_t>(b)];
    if (c < 0x80) text += static_cast<char>(c);
    else text += to_utf8(c);
  }
  return text;
}

std::optional<std::string> from_byte_level(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (std::size_t offset = 0; offset < text.size();) {
    CodePoint const next = code_point_at(text, offset);
    if (next.value >= alphabet_end || alphabet.byte[next.value] < 0) return std::nullopt;
    bytes += static_cast<char>(alphabet.byte[next.value]);
    offset += next.bytes;
  }
  return bytes;
}

}  // namespace dartquant::detail
