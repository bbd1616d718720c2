// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/quant/clip_search.hpp>
#include <dartquant/quant/options.hpp>
#include <dartquant/quant/scale.hpp>

namespace dartquant::detail {

/// The smallest and the largest value of a block; a NaN or an infinity in the block shows in one of them.
template <class T>
struct Range {
  T min = 0, max = 0;

  [[nodiscard]] bool finite() const { return std::isfinite(min) && std::isfinite(max); }
};

template <class T>
[[nodiscard]] Range<T> range_of(MatrixView<T const> X) {
  Range<T> all;
  for (index_t i = 0; i < X.rows(); ++i) {
    auto const row = as_eigen(X.row(i)).array();
    T const low = row.template minCoeff<Eigen::PropagateNaN>();
    T const high = row.template maxCoeff<Eigen::PropagateNaN>();
    if (!std::isfinite(low) || !std::isfinite(high)) return {low, high};
    all = {std::min(all.min, low), std::max(all.max, high)};  // starts at 0, where every range does
  }
  return all;
}

/// Throws with the place of the first value of the block that is not finite; (row, col) is the block's
/// corner.
template <class T>
[[noreturn]] void fail_not_finite(char const* function, MatrixView<T const> X, index_t row, index_t col) {
  for (index_t i = 0; i < X.rows(); ++i)
    for (index_t j = 0; j < X.cols(); ++j)
      require(std::isfinite(X(i, j)), "[", function, "] the value at row ", row + i, ", channel ", col + j,
              " is ", X(i, j), ": only finite values can be quantized");
  throw InvalidArgument(sentence("[", function, "] a value changed while it was quantized"));
}

/// The quantizer of one block of values that share a scale; (row, col) is the block's corner.
template <class T>
[[nodiscard]] Quantizer<T> fit_block(Cpu const& cpu, MatrixView<T const> X, Range<T> const& range,
                                     QuantizeOptions const& options, char const* function, index_t row,
                                     index_t col) {
  if (!range.finite()) fail_not_finite(function, X, row, col);
  if (options.clip_search == ClipSearch::mse)
    return search_clip(cpu, X, range.min, range.max, options.bits, options.symmetry);
  T const clip = static_cast<T>(options.clip_ratio);
  return range_quantizer(clip * range.min, clip * range.max, options.bits, options.symmetry);
}

/// Rows of one task: about 16384 values, whatever the number of threads.
[[nodiscard]] inline index_t row_grain(index_t cols) {
  return std::max<index_t>(1, 16384 / std::max<index_t>(1, cols));
}

/// Fits every scale of X and visits every run of values under it:
///   keep(scale index, quantizer) once per scale, index in the row-major order of the matrix of scales;
///   visit(row, first channel, channels, quantizer) for every part of a row under one scale, after the fit.
/// Scales inside a row are fitted and visited row by row, while the row is in the cache.
template <class T, class Keep, class Visit>
void fit_and_visit(Cpu const& cpu, MatrixView<T const> X, QuantizeOptions const& options,
                   char const* function, Keep const& keep, Visit const& visit) {
  options.validate();
  if (X.rows() == 0 || X.cols() == 0) return;
  index_t const width = scale_block(options.granularity, X.rows(), X.cols()).cols;
  index_t const grain = row_grain(X.cols());
  index_t const scales_across = (X.cols() + width - 1) / width;
  if (options.granularity.kind == Granularity::Kind::row ||
      options.granularity.kind == Granularity::Kind::group) {
    cpu.parallel_for(X.rows(), grain, [&](index_t first, index_t last) {
      Cpu const serial(1);
      for (index_t i = first; i < last; ++i)
        for (index_t k = 0; k < scales_across; ++k) {
          index_t const j = k * width, count = std::min(width, X.cols() - j);
          auto const values = X.block(i, j, 1, count);
          auto const quantizer = fit_block(serial, values, range_of(values), options, function, i, j);
          keep(i * scales_across + k, quantizer);
          visit(i, j, count, quantizer);
        }
    });
    return;
  }
  // One scale for all rows: of the tensor or of each column.
  std::vector<Quantizer<T>> fitted(static_cast<std::size_t>(scales_across));
  auto const fit = [&](Cpu const& machine, index_t k) {
    auto const values = X.columns(k * width, width);
    fitted[static_cast<std::size_t>(k)] =
        fit_block(machine, values, range_of(values), options, function, 0, k * width);
    keep(k, fitted[static_cast<std::size_t>(k)]);
  };
  if (scales_across == 1) fit(cpu, 0);
  else cpu.for_each(scales_across, fit);
  cpu.parallel_for(X.rows(), grain, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i)
      for (index_t k = 0; k < scales_across; ++k)
        visit(i, k * width, width, fitted[static_cast<std::size_t>(k)]);
  });
}

}  // namespace dartquant::detail
