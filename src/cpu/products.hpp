// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the products share: checks, shares of the work, and how a workspace is laid out.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <dartquant/kernels.h>

#include "cpu/kernel_table.hpp"
#include "cpu/packed_weights.hpp"
#include "cpu/status.hpp"

namespace dartquant::cpu {

/// The part of Y that one call computes: panels of columns and rows.
struct Region {
  Share panels, rows;
};

/// Columns are shared out first, so that every weight is read by one part; rows where there are more parts
/// than panels.
[[nodiscard]] inline Region region_of(std::int64_t panels, std::int64_t rows, std::int64_t part,
                                      std::int64_t parts) {
  std::int64_t const across = std::min(panels, parts), down = std::max<std::int64_t>(1, parts / across);
  if (part >= across * down) return {{0, 0}, {0, 0}};
  return {share(panels, part % across, across), share(rows, part / across, down)};
}

/// Bytes from row to row of int8 activations. An odd number of units of 64: rows a power of two apart would
/// all fall into the same sets of the caches.
[[nodiscard]] inline std::int64_t row_stride(dartquant_weights const& weights) {
  return Size(weights.in).round_up(64).value() | 64;  // in <= 2^20
}

/// Hands out the parts of a workspace one behind the other, on whole cache lines.
class Layout {
 public:
  /// Where the next `bytes` bytes lie.
  std::int64_t take(Size bytes) {
    std::int64_t const at = end_.value();
    end_ = end_ + bytes.round_up(64);
    return at;
  }
  [[nodiscard]] Size end() const { return end_; }

 private:
  Size end_{static_cast<std::int64_t>(scratch_bytes)};  // the scratch of the kernels comes first
};

/// Of dartquant_matmul_float, see there.
[[nodiscard]] Size float_workspace(dartquant_weights const& weights, std::int64_t tokens);

/// The checks that both products make of what is not X.
void check_product(Checks& checks, dartquant_weights const& weights, void const* packed,
                   std::size_t packed_bytes, std::int64_t tokens, std::int64_t channels, float const* bias,
                   dartquant_matrix const* y);

}  // namespace dartquant::cpu
