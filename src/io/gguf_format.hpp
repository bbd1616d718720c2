// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <dartquant/io/gguf.hpp>

// The numbers of the GGUF format that reader and writer share.
namespace dartquant::detail {

inline constexpr std::string_view gguf_magic = "GGUF";
inline constexpr std::uint32_t gguf_version = 3;
inline constexpr std::uint64_t gguf_default_alignment = 32, gguf_largest_alignment = 65536;
inline constexpr std::size_t gguf_longest_key = 65535, gguf_longest_name = 64, gguf_largest_rank = 4;

struct GgufTensorType {
  std::uint32_t id;
  Dtype dtype;
};
/// The tensor types that are read and written.
inline constexpr std::array<GgufTensorType, 5> gguf_tensor_types{
    {{0, Dtype::f32}, {1, Dtype::f16}, {2, Dtype::q4_0}, {8, Dtype::q8_0}, {30, Dtype::bf16}}};

/// Letters, digits, '_', '-' and '.', 1 to 65535 of them.
[[nodiscard]] bool is_gguf_key(std::string_view key) noexcept;

/// The smallest multiple of `alignment`, a power of two, that is at least `offset`; nothing beyond 64 bits.
[[nodiscard]] constexpr std::optional<std::uint64_t> aligned(std::uint64_t offset,
                                                             std::uint64_t alignment) noexcept {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(offset, alignment - 1, &sum)) return std::nullopt;
  return sum & ~(alignment - 1);
}

/// The checked content of a file.
struct GgufHeader {
  std::vector<GgufValue> metadata;  ///< sorted by key
  TensorTable table;
};

/// Parses and checks a whole file. `source` opens every sentence. Errors: see GgufFile.
[[nodiscard]] GgufHeader parse_gguf(std::span<std::byte const> file, std::string const& source);

}  // namespace dartquant::detail
