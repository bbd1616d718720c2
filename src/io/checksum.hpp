// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace dartquant::detail {

/// XXH64 of a stream of bytes, the same for every way of cutting it into pieces. It finds damage (flipped
/// bits, zeroed or exchanged blocks), not forgery.
class Checksum {
 public:
  Checksum() noexcept { XXH64_reset(&state_, 0); }
  void add(std::span<std::byte const> bytes) noexcept { XXH64_update(&state_, bytes.data(), bytes.size()); }
  [[nodiscard]] std::uint64_t value() const noexcept { return XXH64_digest(&state_); }

 private:
  XXH64_state_t state_;
};

}  // namespace dartquant::detail
