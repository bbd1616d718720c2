// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/quant/fake_quantize.hpp>
#include <dartquant/quant/fit.hpp>
#include <dartquant/quant/int_matrix.hpp>
#include <dartquant/quant/options.hpp>
#include <dartquant/quant/quantization_error.hpp>
#include <dartquant/quant/row_kernels.hpp>

namespace dartquant {
namespace detail {

template <int StorageBits>
[[nodiscard]] IntMatrix<StorageBits> quantize(Cpu const& cpu, MatrixView<float const> X,
                                              QuantizeOptions const& options, char const* function) {
  IntMatrix<StorageBits> Q(X.rows(), X.cols(), options);
  if (options.bits == StorageBits && has_quantize_kernel(cpu, X, options)) {
    cpu.parallel_for(X.rows(), row_grain(X.cols()), [&](index_t first, index_t last) {
      quantize_rows(*cpu.kernels(), X.rows(first, last - first), options.clip_ratio, function, first, Q,
                    first);
    });
    return Q;
  }
  float* const scales = Q.scales().data();
  std::int32_t* const zero_points = Q.zero_points().data();
  fit_and_visit(
      cpu, X, options, function,
      [&](index_t at, Quantizer<float> const& quantizer) {
        scales[at] = quantizer.scale;
        zero_points[at] = quantizer.zero_point;
      },
      [&](index_t row, index_t first, index_t count, Quantizer<float> const& quantizer) {
        for (index_t j = first; j < first + count; ++j) Q.set_level(row, j, quantizer.level(X(row, j)));
      });
  return Q;
}

}  // namespace detail

/// X [rows, cols] as packed 4-bit levels with one float scale per block of the granularity:
///   Int4Matrix W4 = quantize(cpu, W, {.granularity = per_group(128)});
/// Errors: InvalidArgument for bad options, more than 4 bits, or with the row and the channel of a value that
/// is not finite. Cost: a pass for the ranges and a pass for the levels; 80 more with the clip search.
[[nodiscard]] inline Int4Matrix quantize(Cpu const& cpu, MatrixView<float const> X,
                                         QuantizeOptions const& options = {}) {
  return detail::quantize<4>(cpu, X, options, "quantize");
}

/// The same with one level per byte, for 2..8 bits: quantize_int8(cpu, X, {.bits = 8}).
[[nodiscard]] inline Int8Matrix quantize_int8(Cpu const& cpu, MatrixView<float const> X,
                                              QuantizeOptions const& options = {}) {
  return detail::quantize<8>(cpu, X, options, "quantize_int8");
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template IntMatrix<4> detail::quantize<4>(Cpu const&, MatrixView<float const>,
                                                             QuantizeOptions const&, char const*);
DARTQUANT_COMPILED template IntMatrix<8> detail::quantize<8>(Cpu const&, MatrixView<float const>,
                                                             QuantizeOptions const&, char const*);
}  // namespace dartquant
#endif
