// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/quant/fit.hpp>
#include <dartquant/quant/options.hpp>

namespace dartquant {
namespace detail {

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
  detail::fake_quantize(cpu, X, options);
}

/// The same in double: scale, quotient and value are formed in double.
inline void fake_quantize(Cpu const& cpu, MatrixView<double> X, QuantizeOptions const& options = {}) {
  detail::fake_quantize(cpu, X, options);
}

}  // namespace dartquant
