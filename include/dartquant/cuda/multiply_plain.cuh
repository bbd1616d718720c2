// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/float_product.cuh>
#include <dartquant/cuda/grid.hpp>
#include <dartquant/cuda/int_product.cuh>

namespace dartquant::cuda {

/// One output of packed weights, channel by channel.
struct PlainRow {
  Weights const& w;
  int out;
  [[nodiscard]] DARTQUANT_DEVICE int zero_point(int group) const {
    return w.zero_points == nullptr ? 0 : w.zero_points[w.cell(out / 16, group, out % 16)];
  }
  [[nodiscard]] DARTQUANT_DEVICE float scale(int group) const {
    return w.scales[w.cell(out / 16, group, out % 16)];
  }
  /// The level as it is stored: minus 8 where asymmetric.
  [[nodiscard]] DARTQUANT_DEVICE int level(int channel) const {
    int const lane = out % 8 * 4 + channel / 8 % 4, word = channel / 32 % 2 * 2 + out / 8 % 2;
    std::uint32_t const nibbles = w.fragment(out / 16, channel / 64, lane)->v[word];
    return static_cast<std::int32_t>(nibbles << (28 - channel % 8 * 4)) >> 28;
  }
};

/// The grid of the plain kernels: a thread per token and output, consecutive outputs side by side.
inline constexpr int plain_threads = 128;
[[nodiscard]] inline Grid plain_grid(Output const& y) {
  return {.blocks_x = (y.out + plain_threads - 1) / plain_threads,
          .blocks_y = y.tokens < 65535 ? y.tokens : 65535};
}

/// The values of Y of a thread: a <- add(row, token, group, first channel, end, a), group by group from 0 on.
template <class Thread, class Product, class Add>
DARTQUANT_DEVICE void multiply_plainly(Thread const& thread, Product const& p, Add const& add) {
  int const out = thread.block_x() * plain_threads + thread.index();
  if (out >= p.y.out) return;
  PlainRow const row{p.w, out};
  for (int token = thread.block_y(); token < p.y.tokens; token += thread.blocks_y()) {
    float a = 0;
    for (int group = 0; group < p.w.groups; ++group) {
      int const first = group * p.w.width, end = first + p.w.width < p.w.in ? first + p.w.width : p.w.in;
      a = add(row, token, group, first, end, a);
    }
    p.finish(thread, token, out, a);
  }
}

/// Integer products of any group and on any architecture: the definition, one thread per value of Y.
struct MultiplyPlain {
  static constexpr int threads = plain_threads;
  IntProduct p;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    multiply_plainly(thread, p, [&](PlainRow const& row, int token, int group, int first, int end, float a) {
      int const w_zero = row.zero_point(group),
                x_zero = p.x.zero_points == nullptr ? 0 : p.x.zero_point(token, first);
      std::int32_t n = 0;
      for (int channel = first; channel < end; ++channel)
        n += (x_level(token, channel) - x_zero) * (row.level(channel) - w_zero);
      float scale = row.scale(group);
      if (p.x.grouped) scale *= p.x.scales[token * p.x.scale_stride + group];
      return std::fma(static_cast<float>(n), scale, a);
    });
  }

 private:
  [[nodiscard]] DARTQUANT_DEVICE int x_level(int token, int channel) const {
    std::uint8_t const* const levels = p.x.levels + token * p.x.level_stride;
    bool const is_signed = p.x.zero_points == nullptr;
    if (p.x.bits == 8) return is_signed ? static_cast<std::int8_t>(levels[channel]) : levels[channel];
    int const nibble = levels[channel / 2] >> (channel % 2 * 4) & 15;
    return is_signed ? (nibble ^ 8) - 8 : nibble;
  }
};

/// Float products likewise: X of any type.
template <class T>
struct MultiplyFloatPlain {
  static constexpr int threads = plain_threads;
  FloatProduct<T> p;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    multiply_plainly(thread, p, [&](PlainRow const& row, int token, int group, int first, int end, float a) {
      int const zero = row.zero_point(group);
      float dot = 0;
      for (int channel = first; channel < end; ++channel)
        dot = std::fma(thread.to_float(*p.x.at(token, channel)),
                       static_cast<float>(row.level(channel) - zero), dot);
      return std::fma(dot, row.scale(group), a);
    });
  }
};

}  // namespace dartquant::cuda
