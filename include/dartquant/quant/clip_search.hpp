// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/quant/options.hpp>
#include <dartquant/quant/scale.hpp>

namespace dartquant::detail {

/// The number of factors tried: 1.00, 0.99, ..., 0.21.
inline constexpr index_t clip_candidates = 80;

[[nodiscard]] inline double clip_candidate(index_t index) { return 1.0 - static_cast<double>(index) / 100.0; }

/// |e|^2.4 = a^1.2 with a = e^2, relative error below 1e-6 for a >= 1e-30: y = a^(-1/5) by Newton from a
/// guess on the exponent bits, then a^1.2 = a^2 y^4. Arithmetic only, so that the compiler can vectorise it
/// and no C library decides a near tie.
[[nodiscard]] inline float power_2_4(float error) {
  float const a = error * error;
  auto const bits = static_cast<float>(std::bit_cast<std::int32_t>(a));
  float y = std::bit_cast<float>(std::int32_t{0x4C2F7000} - static_cast<std::int32_t>(bits * 0.2f));
  for (int step = 0; step < 3; ++step) {
    float const y2 = y * y;
    y *= 1.2f - 0.2f * (a * (y2 * y2) * y);
  }
  float const y2 = y * y;
  return a * (a * (y2 * y2));
}

/// sum |(x - Q(x)) / unit|^2.4 over a block. The order of the sum depends on the shape alone.
template <class T>
[[nodiscard]] double clip_error(MatrixView<T const> X, Quantizer<T> const& quantizer, T unit) {
  constexpr index_t width = 256;
  std::array<float, width> cost{};
  std::array<double, 4> sum{};
  T const per_unit = T(1) / unit;
  for (index_t i = 0; i < X.rows(); ++i)
    for (index_t first = 0; first < X.cols(); first += width) {
      T const* x = X.data() + i * X.stride() + first;
      index_t const count = std::min(width, X.cols() - first);
      for (index_t j = 0; j < count; ++j)
        cost[static_cast<std::size_t>(j)] =
            power_2_4(static_cast<float>((x[j] - quantizer.round_trip(x[j])) * per_unit));
      for (index_t j = 0; j < count; ++j)
        sum[static_cast<std::size_t>(j) % 4] += static_cast<double>(cost[static_cast<std::size_t>(j)]);
    }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/// The quantizer of the best clip factor of a block whose values lie in [min, max]. The factors are tried in
/// parallel; the first best wins. Cost: 80 quantizations of the block.
template <class T>
[[nodiscard]] Quantizer<T> search_clip(Cpu const& cpu, MatrixView<T const> X, T min, T max, int bits,
                                       Symmetry symmetry) {
  auto const candidate = [&](index_t index) {
    T const factor = static_cast<T>(clip_candidate(index));
    return range_quantizer(factor * min, factor * max, bits, symmetry);
  };
  T const unit = candidate(0).scale;
  std::array<double, clip_candidates> error{};
  cpu.parallel_for(clip_candidates, 1, [&](index_t index, index_t) {
    error[static_cast<std::size_t>(index)] = clip_error(X, candidate(index), unit);
  });
  auto const best = std::min_element(error.begin(), error.end());
  return candidate(best - error.begin());
}

}  // namespace dartquant::detail

#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant {
DARTQUANT_COMPILED template Quantizer<float> detail::search_clip<float>(Cpu const&, MatrixView<float const>,
                                                                        float, float, int, Symmetry);
DARTQUANT_COMPILED template Quantizer<double> detail::search_clip<double>(Cpu const&,
                                                                          MatrixView<double const>, double,
                                                                          double, int, Symmetry);
}  // namespace dartquant
#endif
