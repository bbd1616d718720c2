// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <dartquant/core/half.hpp>
#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/int_product.cuh>

namespace dartquant::cuda {

/// Float activations X [tokens, channels] for kernels.
template <class T>
struct FloatActivations {
  T const* data;
  std::int64_t stride;
  int tokens, channels;
  bool aligned;  ///< every row starts on a multiple of 16 bytes

  [[nodiscard]] DARTQUANT_DEVICE T const* at(int token, int channel) const {
    return data + token * stride + channel;
  }
  /// Whether channels channel .. channel + 7 of a token can be read as 16 bytes.
  [[nodiscard]] DARTQUANT_DEVICE bool whole(int token, int channel) const {
    return aligned && token < tokens && channel + 8 <= channels;
  }
  /// These channels, two in a word; 0 behind the last. T has 16 bits.
  [[nodiscard]] DARTQUANT_DEVICE Words4 eight(int token, int channel) const {
    if (whole(token, channel)) return *reinterpret_cast<Words4 const*>(at(token, channel));
    Words4 x{};
    if (token >= tokens) return x;
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (channel + i < channels)
        x.v[i / 2] |= static_cast<std::uint32_t>(at(token, channel + i)->bits) << (16 * (i % 2));
    return x;
  }
};

/// W4A16: what these products share. Levels minus zero points are integers that 16-bit floats hold exactly;
/// their products with activations are summed in float, group by group, then scaled.
template <class T>
struct FloatProduct {
  Weights w;
  FloatActivations<T> x;
  float const* bias;  ///< [out] or null
  Output y;

  template <class Thread>
  DARTQUANT_DEVICE void finish(Thread const& thread, int token, int out, float a) const {
    if (token < y.tokens && out < y.out)
      y.store(thread, token, out, a + (bias == nullptr ? 0.0f : bias[out]));
  }
  /// Two copies of the float that a level + 8, put into the last bits of `float_base`, is greater by than
  /// level - zero point.
  [[nodiscard]] DARTQUANT_DEVICE std::uint32_t zero_pair(std::int64_t cell) const {
    int const zero = 8 + (w.zero_points == nullptr ? 0 : w.zero_points[cell]);
    return float_base() + 0x00010001u * static_cast<std::uint32_t>(zero);
  }
  [[nodiscard]] DARTQUANT_DEVICE std::uint32_t zero_pair(int panel, int group, int row) const {
    return zero_pair(w.cell(panel, group, row));
  }
  /// Two copies of a float whose last bit weighs 1: 1024 in binary16, 128 in bfloat16.
  [[nodiscard]] static DARTQUANT_DEVICE constexpr std::uint32_t float_base() {
    return std::is_same_v<T, Half> ? 0x64006400u : 0x43004300u;
  }
};

/// What is subtracted from levels in the float form: zero_pair, and for binary16 also a 16th of what levels
/// have that lie four bits higher.
template <class T>
struct ZeroPair {
  std::uint32_t at_0 = 0, at_4 = 0;
  ZeroPair() = default;
  DARTQUANT_DEVICE explicit ZeroPair(std::uint32_t pair) : at_0(pair) {
    // 1024 + zero in binary16 becomes 64 + zero: the units of 64 .. 127 are 1 / 16.
    if constexpr (std::is_same_v<T, Half>) at_4 = ((pair & 0x003F003Fu) << 4) + 0x54005400u;
  }
};

/// The eight levels of a word, minus the zero point, as four pairs of floats: channels 0 4, 1 5, 2 6, 3 7. A
/// nibble becomes the last bits of a float, its sign bit flipped: that of level + 8. Binary16 has room for a
/// second nibble in place, as 1024 + 16 (level + 8), which a product with 1 / 16 brings to its size.
template <class T>
struct DequantizedPairs {
  std::uint32_t pair[4];
  template <class Thread>
  DARTQUANT_DEVICE DequantizedPairs(Thread const& thread, std::uint32_t word, ZeroPair<T> zero) {
    constexpr std::uint32_t base = FloatProduct<T>::float_base();
    if constexpr (std::is_same_v<T, Half>) {
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        std::uint32_t const two = word >> (4 * i);
        pair[i] = subtract_pair(thread, T{}, mask_and_flip(thread, two, 0x000F000Fu, base | 0x00080008u),
                                zero.at_0);
        pair[i + 1] = subtract_from_16th(thread, mask_and_flip(thread, two, 0x00F000F0u, base | 0x00800080u),
                                         zero.at_4);
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        pair[i] = subtract_pair(
            thread, T{}, mask_and_flip(thread, word >> (4 * i), 0x000F000Fu, base | 0x00080008u), zero.at_0);
    }
  }
};

/// Eight activations in the same pairs.
struct ActivationPairs {
  std::uint32_t pair[4];
  template <class Thread>
  DARTQUANT_DEVICE ActivationPairs(Thread const& thread, Words4 const& x)
      : pair{select_bytes(thread, x.v[0], x.v[2], 0x5410), select_bytes(thread, x.v[0], x.v[2], 0x7632),
             select_bytes(thread, x.v[1], x.v[3], 0x5410), select_bytes(thread, x.v[1], x.v[3], 0x7632)} {}
};

/// dot += 16 outputs x 32 channels of weights times 8 tokens.
template <class T, class Thread>
DARTQUANT_DEVICE void multiply_pairs(Thread const& thread, float (&dot)[4], DequantizedPairs<T> const& row,
                                     DequantizedPairs<T> const& row_plus_8, std::uint32_t const (&x)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    std::uint32_t const a[4] = {row.pair[i], row_plus_8.pair[i], row.pair[i + 1], row_plus_8.pair[i + 1]};
    multiply_floats(thread, T{}, dot, a, x[i], x[i + 1]);
  }
}

}  // namespace dartquant::cuda
