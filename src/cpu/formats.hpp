// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the converters share: codes (levels as unsigned numbers) of a plain row by 32-bit words, scales of any
// type, zero points.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include <dartquant/kernels.h>
#include <dartquant/core/half.hpp>

#include "cpu/status.hpp"

namespace dartquant::cpu {

static_assert(std::endian::native == std::endian::little);  // as the files are: bytes move as whole words

/// Outputs whose zero points share a word, and so the unit that is shared out to parts.
inline constexpr std::int64_t block_rows = 8;

/// The rows that fall to `part`, in whole blocks.
[[nodiscard]] constexpr Share share_rows(std::int64_t rows, std::int64_t part, std::int64_t parts) {
  Share const blocks = share((rows - 1) / block_rows + 1, part, parts);
  return {std::min(blocks.first * block_rows, rows), std::min(blocks.last * block_rows, rows)};
}

/// Element (i, j) of a matrix of any type.
[[nodiscard]] inline float load_value(dartquant_matrix const& m, std::int64_t i, std::int64_t j) {
  std::int64_t const at = i * m.stride + j;
  if (m.type == dartquant_float32) return static_cast<float const*>(m.data)[at];
  std::uint16_t const bits = static_cast<std::uint16_t const*>(m.data)[at];
  return m.type == dartquant_float16 ? to_float(Half{bits}) : to_float(BFloat16{bits});
}

/// Stores the value rounded to the type; whether what is stored is finite.
[[nodiscard]] inline bool store_value(dartquant_matrix const& m, std::int64_t i, std::int64_t j,
                                      float value) {
  std::int64_t const at = i * m.stride + j;
  if (m.type == dartquant_float32) static_cast<float*>(m.data)[at] = value;
  else
    static_cast<std::uint16_t*>(m.data)[at] =
        m.type == dartquant_float16 ? to_half(value).bits : to_bfloat16(value).bits;
  return std::isfinite(load_value(m, i, j));
}

/// What separates codes from levels: codes = levels ^ flip, for each byte of levels.
[[nodiscard]] constexpr std::uint8_t flip_of(dartquant_quantized const& q) {
  if (q.symmetry == dartquant_asymmetric) return 0;
  return q.bits == 4 ? 0x88 : 0x80;
}
[[nodiscard]] constexpr std::int64_t codes_of_word(dartquant_quantized const& q) { return 32 / q.bits; }
[[nodiscard]] constexpr std::int64_t words_of_row(dartquant_quantized const& q) {
  return (q.cols - 1) / codes_of_word(q) + 1;
}

/// Word `index` of the codes of a row, the first channel in the lowest bits, zeros behind the last one. It
/// has the bytes of the plain form, apart from the flip.
[[nodiscard]] inline std::uint32_t load_word(dartquant_quantized const& q, std::int64_t row,
                                             std::int64_t index) {
  auto const* const levels = static_cast<std::uint8_t const*>(q.levels) + row * q.level_stride;
  std::int64_t const count = std::min<std::int64_t>(row_bytes(q) - 4 * index, 4);
  std::uint32_t word = 0;
  for (std::int64_t b = 0; b < count; ++b)
    word |= static_cast<std::uint32_t>(levels[4 * index + b] ^ flip_of(q)) << (8 * b);
  std::int64_t const left = (q.cols - index * codes_of_word(q)) * q.bits;  // bits that mean something
  return left >= 32 ? word : word & ((1u << left) - 1);
}

/// The inverse; what lies behind the last channel is ignored.
inline void store_word(dartquant_quantized const& q, std::int64_t row, std::int64_t index,
                       std::uint32_t word) {
  auto* const levels = static_cast<std::uint8_t*>(q.levels) + row * q.level_stride;
  std::int64_t const count = std::min<std::int64_t>(row_bytes(q) - 4 * index, 4);
  for (std::int64_t b = 0; b < count; ++b)
    levels[4 * index + b] = static_cast<std::uint8_t>((word >> (8 * b) & 0xFF) ^ flip_of(q));
  if (q.bits == 4 && q.cols % 2 != 0 && index == words_of_row(q) - 1) levels[row_bytes(q) - 1] &= 0x0F;
}

/// Words [first, first + count) of the codes of a row. Whole words are copied, so that the loop vectorises.
inline void load_words(dartquant_quantized const& q, std::int64_t row, std::int64_t first, std::int64_t count,
                       std::uint32_t* to) {
  auto const* const from = static_cast<std::uint8_t const*>(q.levels) + row * q.level_stride + 4 * first;
  std::uint32_t const flips = flip_of(q) * 0x01010101u;
  std::int64_t const whole = std::min(count, q.cols / codes_of_word(q) - first);
  for (std::int64_t k = 0; k < whole; ++k) {
    std::uint32_t word;
    std::memcpy(&word, from + 4 * k, sizeof word);
    to[k] = word ^ flips;
  }
  for (std::int64_t k = std::max<std::int64_t>(whole, 0); k < count; ++k)
    to[k] = load_word(q, row, first + k);
}
inline void store_words(dartquant_quantized const& q, std::int64_t row, std::int64_t first,
                        std::int64_t count, std::uint32_t const* words) {
  auto* const to = static_cast<std::uint8_t*>(q.levels) + row * q.level_stride + 4 * first;
  std::uint32_t const flips = flip_of(q) * 0x01010101u;
  std::int64_t const whole = std::min(count, q.cols / codes_of_word(q) - first);
  for (std::int64_t k = 0; k < whole; ++k) {
    std::uint32_t const word = words[k] ^ flips;
    std::memcpy(to + 4 * k, &word, sizeof word);
  }
  for (std::int64_t k = std::max<std::int64_t>(whole, 0); k < count; ++k)
    store_word(q, row, first + k, words[k]);
}

/// The zero point of the codes: that of the levels, or what a symmetric level 0 is stored as.
[[nodiscard]] inline std::uint32_t zero_code(dartquant_quantized const& q, std::int64_t row,
                                             std::int64_t group) {
  if (q.symmetry == dartquant_symmetric) return 1u << (q.bits - 1);
  return static_cast<std::uint32_t>(q.zero_points[row * q.zero_point_stride + group]);
}

}  // namespace dartquant::cpu
