// SPDX-License-Identifier: Apache-2.0
#include "io/tensor_values.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include <dartquant/kernels.h>
#include <dartquant/core/half.hpp>

#include "cpu/values.hpp"

namespace dartquant::detail {
namespace {

constexpr std::size_t block_size = 32;

/// The i-th element of raw bytes, which need not be aligned.
template <class T>
T load(std::byte const* bytes, std::size_t i) {
  T value;
  std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
  return value;
}

// Loops over values have no way out before their end, so that compilers vectorise them.
bool is_finite(double value) { return std::abs(value) <= std::numeric_limits<double>::max(); }
bool is_finite(float value) { return std::abs(value) <= std::numeric_limits<float>::max(); }
bool is_finite(BFloat16 value) { return (value.bits & 0x7F80) != 0x7F80; }
bool is_finite(Half value) { return (value.bits & 0x7C00) != 0x7C00; }

template <class To, class From>
To convert(From value) {
  if constexpr (std::is_same_v<From, double>) return static_cast<To>(value);
  else return static_cast<To>(to_float(value));
}

template <class From, class To>
std::size_t decode_all(std::byte const* bytes, std::size_t count, To* out) {
  bool finite = true;
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = convert<To>(load<From>(bytes, i));
    finite &= is_finite(out[i]);
  }
  if (finite) return count;
  return static_cast<std::size_t>(std::find_if_not(out, out + count, [](To x) { return is_finite(x); }) -
                                  out);
}

int level_of(dartquant_block_q8_0 const& block, std::size_t i) { return block.qs[i]; }
int level_of(dartquant_block_q4_0 const& block, std::size_t i) {
  return (i < 16 ? block.qs[i] & 15 : block.qs[i - 16] >> 4) - 8;
}

/// d * level has at most 11 + 8 bits: exact in float.
template <class Block, class To>
std::size_t decode_blocks(std::byte const* bytes, std::size_t count, To* out) {
  std::size_t bad = count;
  for (std::size_t b = 0; b < count / block_size; ++b) {
    auto const block = load<Block>(bytes, b);
    float const d = to_float(Half{block.d});
    if (!std::isfinite(d) && bad == count) bad = b * block_size;
    for (std::size_t i = 0; i < block_size; ++i)
      out[b * block_size + i] = static_cast<To>(d * static_cast<float>(level_of(block, i)));
  }
  return bad;
}

/// Rounds to float so that a second rounding to a shorter type gives what one rounding of the double would:
/// an inexact result gets an odd last bit (round to odd; Boldo and Melquiond 2008). NaN stays NaN.
float to_odd_float(double x) {
  float const near = static_cast<float>(x);
  auto const back = static_cast<double>(near);
  bool const beyond = std::abs(back) > std::abs(x), inexact = back != x;
  return std::bit_cast<float>((std::bit_cast<std::uint32_t>(near) - static_cast<std::uint32_t>(beyond)) |
                              static_cast<std::uint32_t>(inexact));
}

/// What a value becomes before it is rounded to To.
template <class To, class From>
auto prepared(From value) {
  if constexpr (std::is_floating_point_v<To>) return static_cast<To>(value);
  else if constexpr (std::is_same_v<From, double>) return to_odd_float(value);
  else return value;
}
template <class To, class Prepared>
To rounded(Prepared value) {
  if constexpr (std::is_floating_point_v<To>) return value;
  else return from_float<To>(value);
}

/// Short pieces and one thing per loop: compilers vectorise each loop, not all in one.
template <class To, class From>
std::size_t encode_all(From const* values, std::size_t count, std::byte* out) {
  constexpr std::size_t piece = 512;
  std::array<decltype(prepared<To>(From{})), piece> buffer;
  std::array<To, piece> result;
  for (std::size_t first = 0; first < count; first += piece) {
    std::size_t const part = std::min(piece, count - first);
    for (std::size_t i = 0; i < part; ++i) buffer[i] = prepared<To>(values[first + i]);
    for (std::size_t i = 0; i < part; ++i) result[i] = rounded<To>(buffer[i]);
    std::memcpy(out + first * sizeof(To), result.data(), part * sizeof(To));
    unsigned infinite = 0;
    for (std::size_t i = 0; i < part; ++i) infinite |= is_finite(result[i]) ? 0u : 1u;
    for (std::size_t i = 0; infinite != 0; ++i)
      if (!is_finite(result[i])) return first + i;
  }
  return count;
}

dartquant_status quantize(dartquant_matrix const& x, dartquant_block_q8_0* blocks) {
  return dartquant_quantize_q8_0(&x, blocks, x.cols / std::int64_t{block_size}, 0, 1);
}
dartquant_status quantize(dartquant_matrix const& x, dartquant_block_q4_0* blocks) {
  return dartquant_quantize_q4_0(&x, blocks, x.cols / std::int64_t{block_size}, 0, 1);
}

/// Quantizes whole blocks; false where one of them cannot be.
template <class Block, class From>
bool quantize_all(From const* values, std::size_t count, Block* blocks) {
  std::array<float, 4096> x;
  for (std::size_t i = 0; i < count; ++i) x[i] = static_cast<float>(values[i]);
  auto const width = static_cast<std::int64_t>(count);
  return quantize({x.data(), dartquant_float32, 1, width, width}, blocks) == 0;
}

template <class Block, class From>
std::size_t encode_blocks(From const* values, std::size_t count, std::byte* out) {
  constexpr std::size_t piece = 4096;
  std::array<Block, piece / block_size> blocks;
  for (std::size_t first = 0; first < count; first += piece) {
    std::size_t const part = std::min(piece, count - first);
    if (!quantize_all(values + first, part, blocks.data()))
      for (std::size_t at = first; at < first + part; at += block_size)
        if (!quantize_all(values + at, block_size, blocks.data())) return at;
    std::memcpy(out + first / block_size * sizeof(Block), blocks.data(), part / block_size * sizeof(Block));
  }
  return count;
}

/// The type as the kernels call it, where they take it.
std::optional<cpu::Type> kernel_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return cpu::Type::float32;
    case Dtype::f16:
      return cpu::Type::float16;
    case Dtype::bf16:
      return cpu::Type::bfloat16;
    default:
      return std::nullopt;
  }
}

/// The kernels of a conversion, where this machine has any.
cpu::ValueKernels const* kernels_for(Dtype dtype) {
  return kernel_type(dtype) ? cpu::value_kernels() : nullptr;
}

template <class T>
bool all_decoded(cpu::ValueKernels const& kernels, Dtype dtype, std::byte const* bytes, std::size_t count,
                 T* out) {
  auto const n = static_cast<std::int64_t>(count);
  if constexpr (std::is_same_v<T, float>) return kernels.decode_float(*kernel_type(dtype), bytes, n, out);
  else return kernels.decode_double(*kernel_type(dtype), bytes, n, out);
}
template <class T>
bool all_encoded(cpu::ValueKernels const& kernels, Dtype dtype, T const* values, std::size_t count,
                 std::byte* out) {
  auto const n = static_cast<std::int64_t>(count);
  if constexpr (std::is_same_v<T, float>) return kernels.encode_float(*kernel_type(dtype), values, n, out);
  else return kernels.encode_double(*kernel_type(dtype), values, n, out);
}

}  // namespace

template <class T>
std::size_t decode_plainly(Dtype dtype, std::byte const* bytes, std::size_t count, T* out) {
  switch (dtype) {
    case Dtype::f64:
      return decode_all<double>(bytes, count, out);
    case Dtype::f32:
      return decode_all<float>(bytes, count, out);
    case Dtype::f16:
      return decode_all<Half>(bytes, count, out);
    case Dtype::q8_0:
      return decode_blocks<dartquant_block_q8_0>(bytes, count, out);
    case Dtype::q4_0:
      return decode_blocks<dartquant_block_q4_0>(bytes, count, out);
    default:
      return decode_all<BFloat16>(bytes, count, out);  // callers let no other type through
  }
}
template std::size_t decode_plainly(Dtype, std::byte const*, std::size_t, float*);
template std::size_t decode_plainly(Dtype, std::byte const*, std::size_t, double*);

template <class T>
std::size_t decode(Dtype dtype, std::byte const* bytes, std::size_t count, T* out) {
  cpu::ValueKernels const* const kernels = kernels_for(dtype);
  if (kernels != nullptr && all_decoded(*kernels, dtype, bytes, count, out)) return count;
  return decode_plainly(dtype, bytes, count, out);  // which says where a value is not finite
}
template std::size_t decode(Dtype, std::byte const*, std::size_t, float*);
template std::size_t decode(Dtype, std::byte const*, std::size_t, double*);

template <class T>
std::size_t encode_plainly(Dtype dtype, T const* values, std::size_t count, std::byte* out) {
  switch (dtype) {
    case Dtype::f64:
      return encode_all<double>(values, count, out);
    case Dtype::f32:
      return encode_all<float>(values, count, out);
    case Dtype::f16:
      return encode_all<Half>(values, count, out);
    case Dtype::q8_0:
      return encode_blocks<dartquant_block_q8_0>(values, count, out);
    case Dtype::q4_0:
      return encode_blocks<dartquant_block_q4_0>(values, count, out);
    default:
      return encode_all<BFloat16>(values, count, out);  // callers let no other type through
  }
}
template std::size_t encode_plainly(Dtype, float const*, std::size_t, std::byte*);
template std::size_t encode_plainly(Dtype, double const*, std::size_t, std::byte*);

template <class T>
std::size_t encode(Dtype dtype, T const* values, std::size_t count, std::byte* out) {
  cpu::ValueKernels const* const kernels = kernels_for(dtype);
  if (kernels != nullptr && all_encoded(*kernels, dtype, values, count, out)) return count;
  return encode_plainly(dtype, values, count, out);
}
template std::size_t encode(Dtype, float const*, std::size_t, std::byte*);
template std::size_t encode(Dtype, double const*, std::size_t, std::byte*);

}  // namespace dartquant::detail
