// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include <dartquant/io/tensor.hpp>

// Elements of files to numbers and back, for the convertible types. Lengths are whole blocks.
namespace dartquant::detail {

/// Converts `count` elements; returns the index of the first one that is not finite, or `count`.
template <class T>
[[nodiscard]] std::size_t decode(Dtype dtype, std::byte const* bytes, std::size_t count, T* out);

/// Rounds `count` values to the type: floats to nearest even, blocks as ggml's reference quantizers. Returns
/// the index of the first value that is not finite in that type, or `count`.
template <class T>
[[nodiscard]] std::size_t encode(Dtype dtype, T const* values, std::size_t count, std::byte* out);

/// The same by plain loops: what the kernels of the machine are checked against.
template <class T>
[[nodiscard]] std::size_t decode_plainly(Dtype dtype, std::byte const* bytes, std::size_t count, T* out);
template <class T>
[[nodiscard]] std::size_t encode_plainly(Dtype dtype, T const* values, std::size_t count, std::byte* out);

/// Bytes that `shape` elements of `dtype` take, or nothing when the product overflows 64 bits, is no whole
/// number of bytes, or a row is no whole number of blocks.
[[nodiscard]] std::optional<std::uint64_t> checked_byte_size(Dtype dtype,
                                                             std::span<index_t const> shape) noexcept;

}  // namespace dartquant::detail
