// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace dartquant::detail {

/// XXH3 of 64 bits. It finds damage (flipped bits, zeroed or exchanged blocks), not forgery.
[[nodiscard]] inline std::uint64_t checksum(std::span<std::byte const> bytes) noexcept {
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace dartquant::detail
