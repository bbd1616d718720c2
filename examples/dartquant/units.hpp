// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace dartquant::program {

/// Such as "2.7 MB" (powers of 1000).
[[nodiscard]] std::string format_bytes(std::uint64_t bytes);
/// Such as "0.4 s", "12 s", "3 min 20 s", "2 h 5 min".
[[nodiscard]] std::string format_seconds(double seconds);
/// Such as "1.35 M", "260 k".
[[nodiscard]] std::string format_count(double count);

}  // namespace dartquant::program
