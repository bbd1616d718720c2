// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/sha256.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace dartquant {
namespace {

/// The first 32 fractional bits of a square or cube root of a prime, found by integer bisection.
template <int Power>
constexpr std::uint32_t fractional_root(std::uint64_t prime) {
  using Wide = unsigned __int128;
  std::uint64_t low = 0, high = std::uint64_t{1} << 37;  // root * 2^32 for roots below 32
  while (high - low > 1) {
    std::uint64_t const middle = low + (high - low) / 2;
    // middle^Power <= prime * 2^(32 Power), without overflow: divide once.
    Wide const square = static_cast<Wide>(middle) * middle;
    bool below;
    if constexpr (Power == 2) below = square <= static_cast<Wide>(prime) << 64;
    else below = square <= (static_cast<Wide>(prime) << 96) / middle;
    (below ? low : high) = middle;
  }
  return static_cast<std::uint32_t>(low);
}

template <int Power, std::size_t Count>
constexpr std::array<std::uint32_t, Count> fractional_roots() {
  std::array<std::uint32_t, Count> roots{};
  std::size_t found = 0;
  for (std::uint64_t n = 2; found < Count; ++n) {
    bool prime = true;
    for (std::uint64_t d = 2; d * d <= n; ++d) prime = prime && n % d != 0;
    if (prime) roots[found++] = fractional_root<Power>(n);
  }
  return roots;
}

constexpr auto constants = fractional_roots<3, 64>();
constexpr auto initial_state = fractional_roots<2, 8>();
static_assert(initial_state[0] == 0x6A09E667 && constants[0] == 0x428A2F98 && constants[63] == 0xC67178F2);

using State = std::array<std::uint32_t, 8>;

void add_block(State& state, std::byte const* block) {
  std::array<std::uint32_t, 64> words;
  for (std::size_t i = 0; i < 16; ++i) {
    words[i] = 0;
    for (std::size_t j = 0; j < 4; ++j)
      words[i] = words[i] << 8 | std::to_integer<std::uint32_t>(block[4 * i + j]);
  }
  for (std::size_t i = 16; i < 64; ++i) {
    std::uint32_t const a = words[i - 15], b = words[i - 2];
    words[i] = words[i - 16] + words[i - 7] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) +
               (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
  }
  auto [a, b, c, d, e, f, g, h] = state;
  for (std::size_t i = 0; i < 64; ++i) {
    std::uint32_t const first = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) +
                                ((e & f) ^ (~e & g)) + constants[i] + words[i];
    std::uint32_t const second =
        (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
  }
  State const rounds{a, b, c, d, e, f, g, h};
  for (std::size_t i = 0; i < state.size(); ++i) state[i] += rounds[i];
}

}  // namespace

std::string sha256(std::span<std::byte const> bytes) {
  State state = initial_state;
  std::size_t const whole = bytes.size() / 64 * 64, rest = bytes.size() - whole;
  for (std::size_t at = 0; at < whole; at += 64) add_block(state, bytes.data() + at);
  std::array<std::byte, 128> tail{};
  std::copy(bytes.begin() + static_cast<std::ptrdiff_t>(whole), bytes.end(), tail.begin());
  tail[rest] = std::byte{0x80};
  std::size_t const length = rest < 56 ? 64 : 128;
  std::uint64_t const bits = static_cast<std::uint64_t>(bytes.size()) * 8;
  for (std::size_t i = 0; i < 8; ++i) tail[length - 1 - i] = static_cast<std::byte>(bits >> (8 * i) & 255);
  for (std::size_t at = 0; at < length; at += 64) add_block(state, tail.data() + at);
  std::string text;
  for (std::uint32_t const word : state)
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  return text;
}

}  // namespace dartquant
