// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace dartquant::detail {

/// A 64-bit checksum of a stream of bytes, the same for every way of cutting it into pieces. It finds damage
/// (flipped bits, zeroed or exchanged blocks), not forgery. About 4 GB/s.
class Checksum {
 public:
  void add(std::span<std::byte const> bytes) noexcept {
    while (filled_ != 0 && !bytes.empty()) {
      add_byte(bytes.front());
      bytes = bytes.subspan(1);
    }
    for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
      std::uint64_t word;
      std::memcpy(&word, bytes.data(), 8);
      mix(word);
      length_ += 8;
    }
    for (std::byte const byte : bytes) add_byte(byte);
  }

  [[nodiscard]] std::uint64_t value() const noexcept {
    Checksum last = *this;
    last.mix(pending_);
    last.mix(length_);
    return last.state_;
  }

 private:
  static_assert(std::endian::native == std::endian::little, "the file formats are little-endian");

  void add_byte(std::byte byte) noexcept {
    pending_ |= std::to_integer<std::uint64_t>(byte) << (8 * filled_);
    ++length_;
    if (++filled_ < 8) return;
    mix(pending_);
    pending_ = 0;
    filled_ = 0;
  }
  /// An odd multiplier and a shift are both invertible: two streams that differ in one word never meet again
  /// while the rest is equal.
  void mix(std::uint64_t word) noexcept {
    state_ = (state_ ^ word) * 0x9E3779B97F4A7C15u;
    state_ ^= state_ >> 32;
  }

  std::uint64_t state_ = 0x243F6A8885A308D3u, pending_ = 0, length_ = 0;
  unsigned filled_ = 0;
};

}  // namespace dartquant::detail
