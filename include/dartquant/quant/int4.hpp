// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// Two 4-bit levels in one byte: the level of the even channel in the low nibble, that of the odd channel in
/// the high one. Signed levels (-8..7) are stored in two's complement, unsigned ones (0..15) as they are:
/// packing keeps the four low bits of each and is the same for both. This is QuaRot's layout.
[[nodiscard]] DARTQUANT_HD constexpr std::uint8_t pack_int4(int even, int odd) {
  return static_cast<std::uint8_t>((static_cast<unsigned>(even) & 0xFu) |
                                   ((static_cast<unsigned>(odd) & 0xFu) << 4));
}

/// The signed level of the even channel, -8..7.
[[nodiscard]] DARTQUANT_HD constexpr int int4_even(std::uint8_t byte) {
  return static_cast<int>((byte & 0xFu) ^ 8u) - 8;
}

/// The signed level of the odd channel, -8..7.
[[nodiscard]] DARTQUANT_HD constexpr int int4_odd(std::uint8_t byte) {
  return static_cast<int>((static_cast<unsigned>(byte) >> 4) ^ 8u) - 8;
}

/// The unsigned level of the even channel, 0..15.
[[nodiscard]] DARTQUANT_HD constexpr int uint4_even(std::uint8_t byte) {
  return static_cast<int>(byte & 0xFu);
}

/// The unsigned level of the odd channel, 0..15.
[[nodiscard]] DARTQUANT_HD constexpr int uint4_odd(std::uint8_t byte) {
  return static_cast<int>(static_cast<unsigned>(byte) >> 4);
}

/// Bytes that hold `channels` 4-bit levels; the last high nibble of an odd count is unused and zero.
[[nodiscard]] DARTQUANT_HD constexpr index_t int4_bytes(index_t channels) { return (channels + 1) / 2; }

}  // namespace dartquant
