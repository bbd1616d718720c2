// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <dartquant/io/safetensors.hpp>

namespace dartquant::detail {

/// The checked content of a safetensors header.
struct SafetensorsHeader {
  TensorTable table;
  std::map<std::string, std::string> metadata;
};

inline constexpr std::uint64_t largest_header = 100'000'000;  ///< bytes, as in the reference implementation
inline constexpr std::size_t largest_rank = 8;
inline constexpr std::size_t most_metadata_entries = 4096;

/// Parses and checks a whole file. `source` opens every sentence. Errors: see SafetensorsFile.
[[nodiscard]] SafetensorsHeader parse_safetensors(std::span<std::byte const> file, std::string const& source);

}  // namespace dartquant::detail
