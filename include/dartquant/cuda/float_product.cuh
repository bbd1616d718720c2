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
  [[nodiscard]] DARTQUANT_DEVICE std::uint32_t zero_pair(int panel, int group, int row) const {
    int const zero = 8 + (w.zero_points == nullptr ? 0 : w.zero_points[w.cell(panel, group, row)]);
    return float_base() + 0x00010001u * static_cast<std::uint32_t>(zero);
  }
  /// Two copies of a float whose last bit weighs 1: 1024 in binary16, 128 in bfloat16.
  [[nodiscard]] static DARTQUANT_DEVICE constexpr std::uint32_t float_base() {
    return std::is_same_v<T, Half> ? 0x64006400u : 0x43004300u;
  }
};

/// The eight levels of a word, minus the zero point, as four pairs of floats: channels 0 4, 1 5, 2 6, 3 7.
template <class T>
struct DequantizedPairs {
  std::uint32_t pair[4];
  template <class Thread>
  DARTQUANT_DEVICE DequantizedPairs(Thread const& thread, std::uint32_t word, std::uint32_t zero_pair) {
    word ^= 0x88888888u;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      pair[i] = subtract_pair(thread, T{}, (word >> (4 * i) & 0x000F000Fu) | FloatProduct<T>::float_base(),
                              zero_pair);
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
                                     DequantizedPairs<T> const& row_plus_8, ActivationPairs const& x) {
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    std::uint32_t const a[4] = {row.pair[i], row_plus_8.pair[i], row.pair[i + 1], row_plus_8.pair[i + 1]};
    multiply_floats(thread, T{}, dot, a, x.pair[i], x.pair[i + 1]);
  }
}

/// W4A16 for 8 TokenTiles tokens or fewer: as Decode, but the sums of the warps are floats and added in the
/// order of the warps.
template <class T, int TokenTiles>
struct DecodeFloat {
  static constexpr int threads = 256, warps = threads / 32;
  static constexpr int panels = 2, outputs = 16 * panels, fragments = panels * TokenTiles;
  FloatProduct<T> p;

  [[nodiscard]] static Grid grid(FloatProduct<T> const& p) {
    return {.blocks_x = (p.y.out + outputs - 1) / outputs, .shared_bytes = warps * fragments * 512};
  }

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    float sum[panels][TokenTiles][4] = {};
    Words4 next[panels];
    load(thread, thread.warp(), next);
    for (int tile = thread.warp(); tile < p.w.tiles_of_panel; tile += warps) {
      Words4 const current[panels] = {next[0], next[1]};
      load(thread, tile + warps, next);
#pragma unroll
      for (int step = 0; step < 2; ++step) multiply(thread, current, tile, step, sum);
    }
    auto* const sums = reinterpret_cast<float*>(thread.shared());
#pragma unroll
    for (int panel = 0; panel < panels; ++panel)
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          sums[(thread.warp() * fragments + panel * TokenTiles + j) * 128 + thread.lane() * 4 + i] =
              sum[panel][j][i];
    thread.synchronize();
    for (int index = thread.index(); index < fragments * 128; index += threads) {
      float a = 0;
      for (int warp = 0; warp < warps; ++warp) a += sums[warp * fragments * 128 + index];
      FragmentPlace const at = FragmentPlace::of(index % 128 / 4, index % 4);
      int const fragment = index / 128, panel = thread.block_x() * panels + fragment / TokenTiles;
      p.finish(thread, fragment % TokenTiles * 8 + at.token, panel * 16 + at.row, a);
    }
  }

 private:
  template <class Thread>
  DARTQUANT_DEVICE void load(Thread const& thread, int tile, Words4 (&weights)[panels]) const {
#pragma unroll
    for (int i = 0; i < panels; ++i) {
      int const panel = thread.block_x() * panels + i;
      weights[i] = panel < p.w.panels && tile < p.w.tiles_of_panel ? *p.w.fragment(panel, tile, thread.lane())
                                                                   : Words4{};
    }
  }
  template <class Thread>
  DARTQUANT_DEVICE void multiply(Thread const& thread, Words4 const (&weights)[panels], int tile, int step,
                                 float (&sum)[panels][TokenTiles][4]) const {
    int const channel = tile * 64 + step * 32, row = thread.lane() / 4;
    if (channel >= p.w.in) return;
    int const group = channel / p.w.width;
#pragma unroll
    for (int panel = 0; panel < panels; ++panel) {
      int const of = thread.block_x() * panels + panel;
      DequantizedPairs<T> const low(thread, weights[panel].v[2 * step], p.zero_pair(of, group, row));
      DequantizedPairs<T> const high(thread, weights[panel].v[2 * step + 1], p.zero_pair(of, group, row + 8));
      float const scales[2] = {p.w.scales[p.w.cell(of, group, row)],
                               p.w.scales[p.w.cell(of, group, row + 8)]};
#pragma unroll
      for (int j = 0; j < TokenTiles; ++j) {
        ActivationPairs const x(thread, p.x.eight(j * 8 + row, channel + thread.lane() % 4 * 8));
        float dot[4] = {};
        multiply_pairs(thread, dot, low, high, x);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[panel][j][i] = std::fma(dot[i], scales[i / 2], sum[panel][j][i]);
      }
    }
  }
};

}  // namespace dartquant::cuda
