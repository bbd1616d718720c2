// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <optional>

#include <dartquant/cuda/quantize_strip.cuh>
#include <dartquant/cuda/row_plan.hpp>

// Which calls the kernels on strips take, and how rows are cut into strips: plain functions, so that tests
// need no device.

namespace dartquant::cuda {

/// Rows cut into strips of 64 * threads channels.
struct StripPlan {
  StripRows rows;
  int log_length = 0, threads = 0;
};

namespace detail {

/// m of a Sylvester transform of blocks of 2^m whole channels of plain rows; 0 where there is another.
[[nodiscard]] inline int strip_log_length(RowTransform const& transform, ConstRows const& x) {
  auto const block = static_cast<std::uint64_t>(std::max<index_t>(transform.block, 0));
  bool const fits = transform.permutation == nullptr && transform.base == nullptr && block >= 64 && block <= 32768 &&
                    std::has_single_bit(block) && x.cols % transform.block == 0 && aligned_to(x.data, 16) &&
                    x.stride * element_bytes(x.type) % 16 == 0;
  return fits ? std::countr_zero(block) : 0;
}

/// Strips of x: `flat` where rows follow one another without gaps, in x and in what is written.
[[nodiscard]] inline std::optional<StripPlan> strips_of(ConstRows const& x, int log_length, int threads, bool flat) {
  StripPlan plan{{x.data, x.stride, x.cols, 0, {}}, log_length, threads};
  index_t const values = 64 * threads, rows = flat ? 1 : x.rows;
  if (flat) plan.rows.cols = x.rows * x.cols;
  index_t const row_strips = (plan.rows.cols - 1) / values + 1;
  if (rows > ((index_t{1} << 31) - 1) / row_strips) return std::nullopt;
  plan.rows.strips = static_cast<std::uint32_t>(rows * row_strips);
  plan.rows.row_strips = Divider(static_cast<std::uint32_t>(row_strips));
  return plan;
}

[[nodiscard]] inline int strip_threads(index_t channels) {
  return std::max(32, static_cast<int>(std::bit_ceil(static_cast<std::uint64_t>(channels)) / 64));
}

}  // namespace detail

/// The strips of a Hadamard transform of whole rows; nothing where the kernels on tiles are to do it.
[[nodiscard]] inline std::optional<StripPlan> plan_strips(RowTransform const& transform, ConstRows const& x,
                                                          Rows const& y) {
  int const log_length = detail::strip_log_length(transform, x);
  if (log_length == 0 || y.type != x.type || !detail::aligned_to(y.data, 16) ||
      y.stride * element_bytes(y.type) % 16 != 0)
    return std::nullopt;
  return detail::strips_of(x, log_length, detail::strip_threads(transform.block),
                           x.stride == x.cols && y.stride == x.cols);
}

/// The same with levels after it.
[[nodiscard]] inline std::optional<StripPlan> plan_strips(RowTransform const& transform, ConstRows const& x,
                                                          QuantizedRows const& q) {
  bool const plain = transform.block == 0;
  int const log_length = detail::strip_log_length(plain ? RowTransform{transform.permutation, 64, transform.base} : transform, x);
  bool const whole = q.group == 0 || q.group >= q.cols;
  if (log_length == 0 || !(whole || q.group == 128) || x.cols > 32768 || !detail::aligned_to(q.levels, 8) ||
      q.level_stride % 8 != 0 || (q.group == 128 && x.cols % 128 != 0))
    return std::nullopt;
  bool const flat = !whole && x.stride == x.cols && q.level_stride == q.cols * q.bits / 8 &&
                    q.scale_stride == q.cols / 128 &&
                    (q.symmetry == Symmetry::symmetric || q.zero_point_stride == q.cols / 128);
  return detail::strips_of(x, plain ? 0 : log_length,
                           detail::strip_threads(whole ? x.cols : plain ? 4096 : transform.block), flat);
}

}  // namespace dartquant::cuda
