// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/quant/int_matrix.hpp>
#include <dartquant/quant/matmul_packed.hpp>
#include <dartquant/quant/packed.hpp>

namespace dartquant {
namespace detail {

/// The starts of the runs of channels in which neither the scale of X nor that of W changes, and the end.
[[nodiscard]] inline std::vector<index_t> scale_runs(index_t channels, index_t width_x, index_t width_w) {
  std::vector<index_t> starts;
  for (index_t j = 0; j < channels;) {
    starts.push_back(j);
    j = std::min({channels, (j / width_x + 1) * width_x, (j / width_w + 1) * width_w});
  }
  starts.push_back(channels);
  return starts;
}

/// W packed for a product with X whose scales hold for `width_x` channels; nothing where there are no
/// kernels, or none for these shapes and scales.
template <int BitsW>
[[nodiscard]] std::optional<PackedInt4> packed_for(Cpu const& cpu, index_t tokens, index_t width_x,
                                                   IntMatrix<BitsW> const& W) {
  if constexpr (BitsW == 4) {
    constexpr index_t most_channels = index_t{1} << 19;  // their 8-bit products fit into 32 bits
    bool const shaped = tokens > 0 && W.rows() > 0 && W.cols() > 0 && W.cols() <= most_channels;
    bool const scaled = W.block().rows == 1 || W.block().cols == W.cols();
    auto const group = shaped ? product_group(W.cols(), width_x, W.block().cols) : std::nullopt;
    if (cpu.kernels() != nullptr && scaled && group) return pack(cpu, W, {.group = *group});
  }
  return std::nullopt;
}

/// Rows [first, first + count) of Q as level - zero_point, which 16 bits hold for up to 8-bit levels.
template <int StorageBits>
[[nodiscard]] RowMatrix<std::int16_t> centered_levels(IntMatrix<StorageBits> const& Q, index_t first,
                                                      index_t count) {
  RowMatrix<std::int16_t> centered(count, Q.cols());
  for (index_t i = 0; i < count; ++i)
    for (index_t start = 0; start < Q.cols(); start += Q.block().cols) {
      int const zero_point = Q.zero_point(first + i, start);
      index_t const end = std::min(Q.cols(), start + Q.block().cols);
      for (index_t j = start; j < end; ++j)
        centered(i, j) = static_cast<std::int16_t>(Q.level(first + i, j) - zero_point);
    }
  return centered;
}

/// sum_j x_j w_j, exactly: products are below 2^16, so 32 bits hold the sum of 32768 of them.
[[nodiscard]] inline std::int64_t integer_dot(std::int16_t const* x, std::int16_t const* w, index_t count) {
  std::int64_t total = 0;
  for (index_t first = 0; first < count; first += 32768) {
    index_t const last = std::min(count, first + 32768);
    std::int32_t sum = 0;
    for (index_t j = first; j < last; ++j) sum += static_cast<std::int32_t>(x[j]) * w[j];
    total += sum;
  }
  return total;
}

template <int BitsX, int BitsW>
[[nodiscard]] RowMatrix<float> matmul(Cpu const& cpu, IntMatrix<BitsX> const& X, IntMatrix<BitsW> const& W,
                                      VectorView<float const> bias) {
  require_product(X.rows(), X.cols(), W.rows(), W.cols(), bias);
  RowMatrix<float> Y(X.rows(), W.rows());
  bool const columns = X.block().rows > 1 && X.block().cols < X.cols();
  if (auto const packed = columns ? std::nullopt : packed_for(cpu, X.rows(), X.block().cols, W)) {
    multiply(cpu, X, *packed, bias, Y);
    return Y;
  }
  auto const runs = scale_runs(X.cols(), X.block().cols, W.block().cols);
  constexpr index_t tile = 64;
  cpu.parallel_for(X.rows(), tile, [&](index_t first_x, index_t last_x) {
    auto const x = centered_levels(X, first_x, last_x - first_x);
    for (index_t first_w = 0; first_w < W.rows(); first_w += tile) {
      auto const w = centered_levels(W, first_w, std::min(tile, W.rows() - first_w));
      for (index_t i = 0; i < x.rows(); ++i)
        for (index_t o = 0; o < w.rows(); ++o) {
          double y = bias.size() > 0 ? static_cast<double>(bias[first_w + o]) : 0.0;
          for (std::size_t run = 0; run + 1 < runs.size(); ++run) {
            index_t const j = runs[run];
            auto const sum =
                integer_dot(x.data() + i * x.cols() + j, w.data() + o * w.cols() + j, runs[run + 1] - j);
            y += static_cast<double>(X.scale(first_x + i, j)) * static_cast<double>(W.scale(first_w + o, j)) *
                 static_cast<double>(sum);
          }
          Y(first_x + i, first_w + o) = static_cast<float>(y);
        }
    }
  });
  return Y;
}

template <int BitsW>
[[nodiscard]] RowMatrix<float> matmul(Cpu const& cpu, MatrixView<float const> X, IntMatrix<BitsW> const& W,
                                      VectorView<float const> bias) {
  require_product(X.rows(), X.cols(), W.rows(), W.cols(), bias);
  RowMatrix<float> Y(X.rows(), W.rows());
  if (auto const packed = fits_c_matrix(X) ? packed_for(cpu, X.rows(), X.cols(), W) : std::nullopt) {
    multiply(cpu, X, *packed, bias, Y);
    return Y;
  }
  RowMatrix<float> const weights = dequantize(cpu, W);
  cpu.gemm<float>(1.0f, X, Op::none, weights, Op::transpose, 0.0f, Y);
  if (bias.size() > 0) Y.rowwise() += as_eigen(bias);
  return Y;
}

}  // namespace detail

/// Y = X W^T + bias [tokens, out] for X [tokens, in], W [out, in]. For every run of channels under one scale
/// of X and one of W (any granularity) the integers
///   sum_j (qx_j - zx) (qw_j - zw)  =  sum qx qw - zx sum qw - zw sum qx + count zx zw
/// are exact; they are scaled by scale_x scale_w and added in FP64, then rounded once to float. The right
/// side is what a kernel computes from raw levels and row sums. A Cpu with compiled kernels packs W and runs
/// them where the scales allow (see product_group): the integers are the same, the scaled sum is in float
/// (see quant/matmul_packed.hpp; a W that is used again is better packed once). Errors: InvalidArgument when
/// the shapes do not fit.
[[nodiscard]] inline RowMatrix<float> matmul(Cpu const& cpu, Int4Matrix const& X, Int4Matrix const& W,
                                             VectorView<float const> bias = {}) {
  return detail::matmul(cpu, X, W, bias);
}

/// W4A8: activations of up to 8 bits, one per byte.
[[nodiscard]] inline RowMatrix<float> matmul(Cpu const& cpu, Int8Matrix const& X, Int4Matrix const& W,
                                             VectorView<float const> bias = {}) {
  return detail::matmul(cpu, X, W, bias);
}

/// W8A8.
[[nodiscard]] inline RowMatrix<float> matmul(Cpu const& cpu, Int8Matrix const& X, Int8Matrix const& W,
                                             VectorView<float const> bias = {}) {
  return detail::matmul(cpu, X, W, bias);
}

/// W4A16: float activations, dequantized weights, product in float. Memory: a float copy of W. With compiled
/// kernels a packed one, and the bound of matmul of PackedInt4.
[[nodiscard]] inline RowMatrix<float> matmul(Cpu const& cpu, MatrixView<float const> X, Int4Matrix const& W,
                                             VectorView<float const> bias = {}) {
  return detail::matmul(cpu, X, W, bias);
}

/// W8A16.
[[nodiscard]] inline RowMatrix<float> matmul(Cpu const& cpu, MatrixView<float const> X, Int8Matrix const& W,
                                             VectorView<float const> bias = {}) {
  return detail::matmul(cpu, X, W, bias);
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template RowMatrix<float> detail::matmul<4, 4>(Cpu const&, IntMatrix<4> const&,
                                                                  IntMatrix<4> const&,
                                                                  VectorView<float const>);
DARTQUANT_COMPILED template RowMatrix<float> detail::matmul<8, 4>(Cpu const&, IntMatrix<8> const&,
                                                                  IntMatrix<4> const&,
                                                                  VectorView<float const>);
DARTQUANT_COMPILED template RowMatrix<float> detail::matmul<8, 8>(Cpu const&, IntMatrix<8> const&,
                                                                  IntMatrix<8> const&,
                                                                  VectorView<float const>);
DARTQUANT_COMPILED template RowMatrix<float> detail::matmul<4>(Cpu const&, MatrixView<float const>,
                                                               IntMatrix<4> const&, VectorView<float const>);
DARTQUANT_COMPILED template RowMatrix<float> detail::matmul<8>(Cpu const&, MatrixView<float const>,
                                                               IntMatrix<8> const&, VectorView<float const>);
}  // namespace dartquant
#endif
