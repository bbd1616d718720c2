// SPDX-License-Identifier: Apache-2.0
#pragma once

// Quantized operands of every kind, the CPU's product of them, and the same operands as the GPU takes them.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include <dartquant/kernels.h>
#include <dartquant/cuda/int_product.cuh>
#include <dartquant/cuda/packed_weights.hpp>

#include "cpu/exact.hpp"
#include "support/catch.hpp"

namespace dartquant::test {

struct ProductCase {
  std::int64_t tokens, out, in, group = 0;
  int x_bits = 4;
  bool w_asymmetric = false, x_asymmetric = false, x_grouped = false, bias = false;
  std::int64_t extra = 0;  ///< of all strides
};

inline dartquant_symmetry symmetry_of(bool asymmetric) {
  return asymmetric ? dartquant_asymmetric : dartquant_symmetric;
}

inline void fill_random(kernel_test::Plain const& q, unsigned seed) {
  std::mt19937 random(seed);
  std::memset(q.levels.data(), 0, q.levels.size());
  int const codes = 1 << q.q.bits;
  for (std::int64_t i = 0; i < q.q.rows; ++i) {
    for (std::int64_t j = 0; j < q.q.cols; ++j) q.set_code(i, j, static_cast<int>(random()) & (codes - 1));
    for (std::int64_t g = 0; g < q.groups(); ++g) {
      q.scale(i, g) = 0.01f + static_cast<float>(random() % 1000) / 7919.0f;
      if (q.q.symmetry == dartquant_asymmetric)
        q.zero_point(i, g) = static_cast<std::int32_t>(random()) & (codes - 1);
    }
  }
}

/// The exact product of float activations and dequantized weights, and what its float sums may be off.
struct FloatReference {
  std::vector<double> y, bound;
};

/// The operands of a case.
struct Operands {
  ProductCase c;
  kernel_test::Plain w, x;
  std::vector<float> bias;
  cuda::WeightShape shape;

  static kernel_test::PlainShape plain_shape(std::int64_t rows, std::int64_t cols, int bits, bool asymmetric,
                                             std::int64_t group, std::int64_t extra) {
    return {.rows = rows,
            .cols = cols,
            .bits = bits,
            .symmetry = symmetry_of(asymmetric),
            .group = group,
            .extra = extra};
  }

  explicit Operands(ProductCase const& of)
      : c(of),
        w(plain_shape(c.out, c.in, 4, c.w_asymmetric, c.group, c.extra)),
        x(plain_shape(c.tokens, c.in, c.x_bits, c.x_asymmetric, c.x_grouped ? c.group : 0, c.extra)),
        shape{c.out, c.in, c.group, c.w_asymmetric ? Symmetry::asymmetric : Symmetry::symmetric, true} {
    fill_random(w, 1 + static_cast<unsigned>(c.out * 31 + c.in));
    fill_random(x, 2 + static_cast<unsigned>(c.tokens * 17 + c.in));
    for (std::int64_t i = 0; c.bias && i < c.out; ++i) bias.push_back(static_cast<float>(i % 7) - 2.5f);
  }

  /// Y [tokens, out] by the CPU's reference kernel.
  std::vector<float> expected() const {
    dartquant_cpu cpu{};
    REQUIRE(dartquant_cpu_detect(&cpu) == 0);
    REQUIRE(dartquant_cpu_choose(&cpu, dartquant_isa_portable) == 0);
    dartquant_weights const weights{c.out, c.in, c.group, symmetry_of(c.w_asymmetric), 1};
    std::size_t packed_bytes = 0, bytes = 0;
    REQUIRE(dartquant_packed_size(&weights, &packed_bytes) == 0);
    REQUIRE(dartquant_matmul_workspace_size(&weights, c.tokens, c.x_bits, &bytes) == 0);
    kernel_test::Exact const packed(packed_bytes), workspace(bytes);
    REQUIRE(dartquant_pack(&weights, &w.q, packed.data(), packed_bytes, 0, 1) == 0);
    std::vector<float> y(static_cast<std::size_t>(c.tokens * c.out));
    dartquant_matrix const m{y.data(), dartquant_float32, c.tokens, c.out, c.out};
    REQUIRE(dartquant_matmul(&cpu, &weights, packed.data(), packed_bytes, &x.q,
                             c.bias ? bias.data() : nullptr, &m, workspace.data(), bytes, 0, 1) == 0);
    return y;
  }

  /// W4A16 of X [tokens, in], with the bound of kernels.h and one more rounding for the bias.
  template <class T>
  FloatReference expected(std::vector<T> const& values, std::int64_t stride) const {
    FloatReference all;
    for (std::int64_t t = 0; t < c.tokens; ++t)
      for (std::int64_t i = 0; i < c.out; ++i) {
        double y = c.bias ? bias[static_cast<std::size_t>(i)] : 0.0, size = std::abs(y);
        for (std::int64_t j = 0; j < c.in; ++j) {
          std::int64_t const g = c.group == 0 ? 0 : j / c.group;
          int const zero = c.w_asymmetric ? w.zero_point(i, g) : 8;
          double const x_value = to_float(values[static_cast<std::size_t>(t * stride + j)]);
          double const term = x_value * (w.code(i, j) - zero) * w.scale(i, g);
          y += term;
          size += std::abs(term);
        }
        all.y.push_back(y);
        all.bound.push_back(static_cast<double>(c.in + w.groups() + 8) * std::ldexp(size, -24));
      }
    return all;
  }
  template <class T>
  std::vector<T> float_values(std::int64_t stride) const {
    std::mt19937 random(static_cast<unsigned>(5 + c.in));
    std::vector<T> values(static_cast<std::size_t>(c.tokens * stride));
    for (T& v : values)
      v = from_float<T>(static_cast<float>(static_cast<int>(random() % 4001) - 2000) / 517.0f);
    return values;
  }

  /// The weights in layout 2.
  kernel_test::Exact packed() const {
    std::size_t const bytes = cuda::packed_weight_bytes(shape);
    kernel_test::Exact memory(bytes);
    cuda::pack_weights(shape, plain_weights(), reinterpret_cast<std::byte*>(memory.data()), bytes);
    return memory;
  }
  cuda::PlainWeights plain_weights() const {
    return {static_cast<std::uint8_t const*>(w.q.levels),
            w.q.level_stride,
            w.q.scales,
            w.q.scale_stride,
            w.q.zero_points,
            w.q.zero_point_stride};
  }

  cuda::Activations activations() const {
    auto const* const levels = static_cast<std::uint8_t const*>(x.q.levels);
    auto const width = c.group == 0 || c.group > c.in ? c.in : c.group;
    return {levels,
            x.q.level_stride,
            x.q.scales,
            x.q.scale_stride,
            x.q.zero_points,
            x.q.zero_point_stride,
            static_cast<int>(c.tokens),
            static_cast<int>(c.in),
            c.x_bits,
            static_cast<int>(width),
            x.groups() > 1,
            reinterpret_cast<std::uintptr_t>(levels) % 4 == 0 && x.q.level_stride % 4 == 0};
  }
};

}  // namespace dartquant::test
