// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/quant/fit.hpp>
#include <dartquant/quant/int_matrix.hpp>
#include <dartquant/quant/options.hpp>
#include <dartquant/quant/row_kernels.hpp>

namespace dartquant {
namespace detail {

/// By way of the levels, in 4 or 8 bits. Precondition: has_quantize_kernel.
template <int Bits>
void fake_quantize_in_kernels(Cpu const& cpu, MatrixView<float> X, QuantizeOptions const& options) {
  cpu.parallel_for(X.rows(), row_grain(X.cols()), [&](index_t first, index_t last) {
    MatrixView<float> const rows = X.rows(first, last - first);
    IntMatrix<Bits> Q(rows.rows(), rows.cols(), options);
    quantize_rows(*cpu.kernels(), rows, options.clip_ratio, "fake_quantize", first, Q, 0);
    dequantize_rows(*cpu.kernels(), Q, 0, rows);
  });
}

template <class T>
void fake_quantize(Cpu const& cpu, MatrixView<T> X, QuantizeOptions const& options) {
  fit_and_visit(
      cpu, MatrixView<T const>(X), options, "fake_quantize", [](index_t, Quantizer<T> const&) {},
      [&](index_t row, index_t first, index_t count, Quantizer<T> const quantizer) {
        T* const x = X.data() + row * X.stride() + first;
        for (index_t j = 0; j < count; ++j) x[j] = quantizer.round_trip(x[j]);
      });
}

}  // namespace detail

/// Quantizes and dequantizes X [tokens, channels] in place: the values that integer arithmetic would see,
/// bit for bit dequantize(quantize(X)). Cost: two passes over each row while it is in the cache.
/// Errors: InvalidArgument for bad options, or with the row and the channel of a value that is not finite; X
/// is then partly quantized.
inline void fake_quantize(Cpu const& cpu, MatrixView<float> X, QuantizeOptions const& options = {}) {
  options.validate();
  if (!detail::has_quantize_kernel(cpu, X, options)) detail::fake_quantize(cpu, X, options);
  else if (options.bits == 4) detail::fake_quantize_in_kernels<4>(cpu, X, options);
  else detail::fake_quantize_in_kernels<8>(cpu, X, options);
}

/// The same in double: scale, quotient and value are formed in double.
inline void fake_quantize(Cpu const& cpu, MatrixView<double> X, QuantizeOptions const& options = {}) {
  detail::fake_quantize(cpu, X, options);
}

}  // namespace dartquant

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template void detail::fake_quantize_in_kernels<4>(Cpu const&, MatrixView<float>,
                                                                     QuantizeOptions const&);
DARTQUANT_COMPILED template void detail::fake_quantize_in_kernels<8>(Cpu const&, MatrixView<float>,
                                                                     QuantizeOptions const&);
DARTQUANT_COMPILED template void detail::fake_quantize<float>(Cpu const&, MatrixView<float>,
                                                              QuantizeOptions const&);
DARTQUANT_COMPILED template void detail::fake_quantize<double>(Cpu const&, MatrixView<double>,
                                                               QuantizeOptions const&);
}  // namespace dartquant
#endif
