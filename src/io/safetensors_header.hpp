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

/// The checked content of a safetensors header. The tensors point into `names`, `dimensions` and the file.
struct SafetensorsHeader {
  std::vector<char> names;
  std::vector<index_t> dimensions;
  std::vector<Tensor> tensors;         ///< in the order of their data
  std::vector<std::uint32_t> by_name;  ///< indices into `tensors`, sorted by name
  std::map<std::string, std::string> metadata;
};

inline constexpr std::uint64_t largest_header = 100'000'000;  ///< bytes, as in the reference implementation
inline constexpr std::size_t largest_rank = 8;
inline constexpr std::size_t most_metadata_entries = 4096;

/// Parses and checks a whole file. `source` opens every sentence. Errors: see SafetensorsFile.
[[nodiscard]] SafetensorsHeader parse_safetensors(std::span<std::byte const> file, std::string const& source);

/// Bytes that `shape` elements of `dtype` take, or nothing when the product overflows 64 bits or is no whole
/// number of bytes.
[[nodiscard]] std::optional<std::uint64_t> checked_byte_size(Dtype dtype,
                                                             std::span<index_t const> shape) noexcept;

}  // namespace dartquant::detail
