// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include <dartquant/core/error.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// Which values of a matrix share one scale. Activations [tokens, channels]: per_row is per token; weights
/// [out, in]: per_row is per output channel.
struct Granularity {
  enum class Kind { tensor, row, column, group };

  Kind kind = Kind::row;
  index_t group = 0;  ///< channels of a group; only for Kind::group

  /// Errors: InvalidArgument for a group that is not positive.
  void validate() const {
    detail::require(kind != Kind::group || group >= 1, "[per_group] group of ", group,
                    " channels: at least one is needed");
  }
  friend bool operator==(Granularity const&, Granularity const&) = default;
};

inline constexpr Granularity per_tensor{Granularity::Kind::tensor, 0};
inline constexpr Granularity per_row{Granularity::Kind::row, 0};
inline constexpr Granularity per_column{Granularity::Kind::column, 0};

/// `size` consecutive channels inside a row; the last group of a row may be shorter.
[[nodiscard]] constexpr Granularity per_group(index_t size) { return {Granularity::Kind::group, size}; }

/// The shape of the block of values that shares a scale: the scales of a matrix form the matrix
/// [ceil(rows / block rows), ceil(cols / block cols)].
struct ScaleBlock {
  index_t rows = 1, cols = 1;
};

/// The block of `granularity` in a matrix [rows, cols]; at least 1 by 1.
[[nodiscard]] inline ScaleBlock scale_block(Granularity granularity, index_t rows, index_t cols) {
  index_t const all_rows = std::max<index_t>(1, rows), all_cols = std::max<index_t>(1, cols);
  switch (granularity.kind) {
    case Granularity::Kind::tensor:
      return {all_rows, all_cols};
    case Granularity::Kind::column:
      return {all_rows, 1};
    case Granularity::Kind::group:
      return {1, std::min(granularity.group, all_cols)};
    case Granularity::Kind::row:
      break;
  }
  return {1, all_cols};
}

}  // namespace dartquant
