// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <dartquant/core/view.hpp>

namespace dartquant {

/// Element types of tensors in files: those of safetensors, and the two block types of GGUF. The 8-bit and
/// smaller floats and c64 are recognised (their sizes are checked) but not converted.
enum class Dtype : std::uint8_t {
  f64,
  f32,
  f16,
  bf16,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean,
  c64,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  f6_e2m3,
  f6_e3m2,
  f4,
  q8_0,  ///< blocks of 32 elements of a row: an f16 scale and 32 int8, 34 bytes
  q4_0   ///< blocks of 32 elements of a row: an f16 scale and 32 nibbles, 18 bytes
};

/// The name in the file: "F32", "BF16", "Q8_0"...
[[nodiscard]] std::string_view to_string(Dtype dtype) noexcept;
[[nodiscard]] std::optional<Dtype> parse_dtype(std::string_view name) noexcept;
/// Size of one element in bits; of a block type without its share of the scale.
[[nodiscard]] int bit_width(Dtype dtype) noexcept;
/// 32 for the block types, 1 for the others: rows are whole blocks.
[[nodiscard]] index_t block_elements(Dtype dtype) noexcept;
/// True for the types that are read as numbers: F64, F32, F16, BF16, Q8_0 and Q4_0.
[[nodiscard]] bool is_convertible(Dtype dtype) noexcept;

/// One tensor of an open file: views into that file's object, valid while it lives. `bytes` is row-major and
/// little-endian, and need not be aligned.
struct Tensor {
  std::string_view name;
  Dtype dtype = Dtype::f32;
  std::span<index_t const> shape;  ///< empty for a scalar
  std::span<std::byte const> bytes;
  /// Above 0: the rows of so many heads are stored as GGUF's llama has them, where RoPE turns neighbours:
  /// row 2 i + p of a head is row p * head_dim / 2 + i of the Hugging Face layout. Reading undoes it.
  index_t interleaved_heads = 0;
  float added = 0;  ///< what was added to the values before they were stored; reading subtracts it
};

/// "F32 [512, 64]"
[[nodiscard]] std::string describe(Tensor const& tensor);

/// What a reader does with NaN and infinity.
enum class NonFinite { refuse, allow };

/// Name, element type and shape of a tensor to be written.
struct TensorInfo {
  std::string name{};
  Dtype dtype = Dtype::f32;
  std::vector<index_t> shape{};
};

/// Size of the data of a tensor. Throws InvalidArgument for a negative dimension, a product beyond 64 bits,
/// a number of bits that is no multiple of 8, or rows of a block type that are no whole blocks.
[[nodiscard]] std::uint64_t byte_size(TensorInfo const& tensor);

}  // namespace dartquant
