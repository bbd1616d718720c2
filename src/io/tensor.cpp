// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/tensor.hpp>

#include <algorithm>
#include <array>

#include <dartquant/core/error.hpp>

#include "io/posix.hpp"
#include "io/tensor_values.hpp"

namespace dartquant {
namespace {

struct DtypeRow {
  Dtype dtype;
  std::string_view name;
  int bits;
};

constexpr std::array<DtypeRow, 24> dtype_table{{{Dtype::f64, "F64", 64},
                                                {Dtype::f32, "F32", 32},
                                                {Dtype::f16, "F16", 16},
                                                {Dtype::bf16, "BF16", 16},
                                                {Dtype::i64, "I64", 64},
                                                {Dtype::i32, "I32", 32},
                                                {Dtype::i16, "I16", 16},
                                                {Dtype::i8, "I8", 8},
                                                {Dtype::u64, "U64", 64},
                                                {Dtype::u32, "U32", 32},
                                                {Dtype::u16, "U16", 16},
                                                {Dtype::u8, "U8", 8},
                                                {Dtype::boolean, "BOOL", 8},
                                                {Dtype::c64, "C64", 64},
                                                {Dtype::f8_e4m3, "F8_E4M3", 8},
                                                {Dtype::f8_e5m2, "F8_E5M2", 8},
                                                {Dtype::f8_e8m0, "F8_E8M0", 8},
                                                {Dtype::f8_e4m3fnuz, "F8_E4M3FNUZ", 8},
                                                {Dtype::f8_e5m2fnuz, "F8_E5M2FNUZ", 8},
                                                {Dtype::f6_e2m3, "F6_E2M3", 6},
                                                {Dtype::f6_e3m2, "F6_E3M2", 6},
                                                {Dtype::f4, "F4", 4},
                                                {Dtype::q8_0, "Q8_0", 8},
                                                {Dtype::q4_0, "Q4_0", 4}}};

constexpr bool table_follows_enumeration() {
  for (std::size_t i = 0; i < dtype_table.size(); ++i)
    if (static_cast<std::size_t>(dtype_table[i].dtype) != i) return false;
  return true;
}
static_assert(table_follows_enumeration());

DtypeRow const& row_of(Dtype dtype) noexcept { return dtype_table[static_cast<std::size_t>(dtype)]; }

}  // namespace

std::string_view to_string(Dtype dtype) noexcept { return row_of(dtype).name; }

std::optional<Dtype> parse_dtype(std::string_view name) noexcept {
  auto const row =
      std::find_if(dtype_table.begin(), dtype_table.end(), [&](auto& r) { return r.name == name; });
  return row == dtype_table.end() ? std::nullopt : std::optional(row->dtype);
}

int bit_width(Dtype dtype) noexcept { return row_of(dtype).bits; }

index_t block_elements(Dtype dtype) noexcept { return dtype == Dtype::q8_0 || dtype == Dtype::q4_0 ? 32 : 1; }

bool is_convertible(Dtype dtype) noexcept {
  return dtype <= Dtype::bf16 || dtype == Dtype::q8_0 || dtype == Dtype::q4_0;
}

std::string describe(Tensor const& tensor) {
  std::string text(to_string(tensor.dtype));
  text += " [";
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    if (i != 0) text += ", ";
    text += std::to_string(tensor.shape[i]);
  }
  return text + "]";
}

std::uint64_t byte_size(TensorInfo const& tensor) {
  std::optional<std::uint64_t> const size = detail::checked_byte_size(tensor.dtype, tensor.shape);
  detail::require(
      size.has_value(), "[byte_size] tensor '", detail::printable(tensor.name),
      "': a negative dimension, a size beyond 64 bits or of no whole number of bytes, or a row of "
      "no whole number of blocks");
  return *size;
}

namespace detail {

std::optional<std::uint64_t> checked_byte_size(Dtype dtype, std::span<index_t const> shape) noexcept {
  std::uint64_t elements = 1;
  for (index_t const size : shape)
    if (size < 0 || __builtin_mul_overflow(elements, static_cast<std::uint64_t>(size), &elements))
      return std::nullopt;
  std::uint64_t bits = 0;
  if (index_t const block = block_elements(dtype); block > 1) {
    if (shape.empty() || shape.back() % block != 0) return std::nullopt;
    constexpr std::uint64_t scale_bits = 16;
    std::uint64_t const block_bits = static_cast<std::uint64_t>(block * bit_width(dtype)) + scale_bits;
    if (__builtin_mul_overflow(elements / static_cast<std::uint64_t>(block), block_bits, &bits))
      return std::nullopt;
  } else if (__builtin_mul_overflow(elements, static_cast<std::uint64_t>(bit_width(dtype)), &bits)) {
    return std::nullopt;
  }
  if (bits % 8 != 0) return std::nullopt;
  return bits / 8;
}

}  // namespace detail
}  // namespace dartquant
