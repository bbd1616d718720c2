// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace dartquant {

/// SHA-256 (FIPS 180-4) of some bytes in 64 hexadecimal digits: what `sha256sum` prints.
[[nodiscard]] std::string sha256(std::span<std::byte const> bytes);

}  // namespace dartquant
