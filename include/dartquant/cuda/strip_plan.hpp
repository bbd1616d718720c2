// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <optional>

#include <dartquant/cuda/base_strip.cuh>
#include <dartquant/cuda/quantize_strip.cuh>
#include <dartquant/cuda/row_plan.hpp>

// Which calls the kernels on strips take, and how rows are cut into strips: plain functions, so that tests
// need no device. Everything else is left to the kernels on tiles.

namespace dartquant::cuda {

/// How a call is done by strips.
struct StripPlan {
  StripRows rows;
  int log_length = 0;  ///< m of blocks of order * 2^m channels; 0: no transform
  int order = 1;
  int outputs = 0, groups = 0, signs_at = 0;  ///< of a base, see BaseStrip
  std::int8_t const* base = nullptr;
  int group = 0;  ///< 0: a strip has one scale, or none is asked for
  int norm = 0;
  double epsilon = 0;
  float factor = 1;
  bool flat = false;  ///< rows are strips of a matrix without gaps
  Grid grid;          ///< a block of threads per strip
  int resident = 0;   ///< blocks of threads that the device holds at a time
};

/// Outputs of a base that a thread forms, as many as registers hold: 12, 20 and 28 have kernels of their own.
[[nodiscard]] constexpr int strip_outputs(int order, bool quantizes) {
  return order == 12 ? 12 : order == 20 ? (quantizes ? 10 : 20) : order == 28 ? 14 : 16;
}

namespace detail {

/// Threads of a strip that holds so many channels, 64 each.
[[nodiscard]] constexpr int strip_threads(index_t channels) {
  return std::max(32, static_cast<int>(std::bit_ceil(static_cast<std::uint64_t>(channels)) / 64));
}

/// Rows of x as strips of `values` channels.
[[nodiscard]] inline bool cut_strips(StripPlan& plan, ConstRows const& x, index_t values, bool flat) {
  index_t const total = x.rows * x.cols, strips = ((flat ? total : x.cols) - 1) / values + 1;
  index_t const rows = flat ? strips : x.rows, columns = flat ? 1 : strips;
  if (values > 32768 || rows >= index_t{1} << 31 || columns > 65535 || x.cols >= index_t{1} << 31)
    return false;
  plan.flat = flat;
  plan.rows.x = x.data;
  plan.rows.stride = flat ? values : x.stride;
  plan.rows.rows = static_cast<std::uint32_t>(rows);
  plan.rows.values = static_cast<int>(values);
  plan.rows.short_row = flat ? static_cast<std::uint32_t>(rows - 1) : 0xFFFFFFFFu;
  plan.rows.short_column = flat ? 1 : static_cast<int>(columns - 1);
  plan.rows.short_count = static_cast<int>((flat ? total : x.cols) - (strips - 1) * values);
  plan.grid.blocks_x = static_cast<int>(rows);
  plan.grid.blocks_y = static_cast<int>(columns);
  return true;
}

/// Threads, shared memory and strips of a Sylvester transform, or of none.
[[nodiscard]] inline bool place_sylvester(StripPlan& plan, ConstRows const& x, bool whole, bool flat) {
  bool const transforms = plan.log_length > 0;
  int const threads = strip_threads(whole ? x.cols : transforms ? index_t{1} << plan.log_length : 4096);
  if (threads > 512 || !cut_strips(plan, x, 64 * threads, flat)) return false;
  plan.grid.threads = threads;
  plan.rows.fetched_at = transforms ? strip_bytes(plan.rows.values) : 0;
  plan.rows.scratch_at = plan.rows.fetched_at + (transforms ? element_bytes(x.type) * plan.rows.values : 0);
  plan.grid.shared_bytes =
      static_cast<std::size_t>(plan.rows.scratch_at + 512);  // ranges, and the norm's sums
  return true;
}

/// The same with a base: of 1 to 4 blocks per strip the number with the fewest threads per block.
[[nodiscard]] inline bool place_base(StripPlan& plan, ConstRows const& x, index_t block, bool whole,
                                     bool flat) {
  plan.groups = (plan.order - 1) / plan.outputs + 1;
  auto const threads_of = [&](index_t blocks) {
    return round_up(std::max(blocks * block / 64, (blocks * plan.groups) << (plan.log_length - 2)), 32);
  };
  index_t blocks = whole ? x.cols / block : 1;
  for (index_t more = 2; !whole && more <= 4; ++more)
    if (threads_of(more) <= 256 && threads_of(more) * blocks < threads_of(blocks) * more) blocks = more;
  if (threads_of(blocks) > 512 || !cut_strips(plan, x, blocks * block, flat)) return false;
  plan.grid.threads = static_cast<int>(threads_of(blocks));
  plan.rows.fetched_at = static_cast<int>(round_up(strip_bytes(plan.rows.values), 128));
  plan.rows.scratch_at = plan.rows.fetched_at + element_bytes(x.type) * plan.rows.values;
  plan.signs_at = plan.rows.scratch_at + 512;
  plan.grid.shared_bytes = static_cast<std::size_t>(
      plan.signs_at + plan.order * plan.groups * static_cast<int>(round_up(plan.outputs, 4)) + 16);
  return true;
}

}  // namespace detail

/// The strips of a call that `quantizes` or not: `whole` where a strip must be a row, for its norm or scale;
/// `flat` where the rows of what is written follow one another without gaps. Nothing where the kernels on
/// tiles are to do it.
[[nodiscard]] inline std::optional<StripPlan> plan_strips(RowTransform const& transform, RowNorm const* norm,
                                                          ConstRows const& x, bool quantizes, bool whole,
                                                          bool flat, RowDevice const& device) {
  index_t const block = std::max<index_t>(transform.block, 0);
  bool const aligned = detail::aligned_to(x.data, 16) && x.stride * element_bytes(x.type) % 16 == 0;
  bool const plain_norm =
      norm == nullptr || (norm->gain == nullptr && block != 0 && transform.base == nullptr);
  if (!aligned || !plain_norm || transform.permutation != nullptr ||
      x.cols % std::max<index_t>(block, 64) != 0)
    return std::nullopt;
  StripPlan plan;
  plan.base = transform.base;
  plan.order = plan.base == nullptr ? 1 : static_cast<int>(transform.base_order);
  plan.outputs = strip_outputs(plan.order, quantizes);
  if (block != 0) {
    plan.log_length = std::countr_zero(static_cast<std::uint64_t>(block / plan.order));
    plan.factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
    if (plan.log_length < 6 || plan.log_length > (plan.order > 1 ? 10 : 15)) return std::nullopt;
    if (plan.order > 1 && plan.order % 4 != 0) return std::nullopt;
  }
  if (norm != nullptr) {
    plan.norm = 1;
    plan.epsilon = norm->epsilon;
    whole = true;
  }
  bool const as_one = flat && !whole && x.stride == x.cols && x.rows > 0;
  bool const placed = plan.order > 1 ? detail::place_base(plan, x, block, whole, as_one)
                                     : detail::place_sylvester(plan, x, whole, as_one);
  if (!placed || plan.grid.shared_bytes > static_cast<std::size_t>(device.shared_bytes)) return std::nullopt;
  int const by_threads = 512 / plan.grid.threads;  // of 128 registers
  int const by_memory = (device.shared_bytes + 1024) / (static_cast<int>(plan.grid.shared_bytes) + 1024);
  plan.resident = device.multiprocessors * std::max(1, std::min(by_threads, by_memory));
  return plan;
}

/// Of a Hadamard transform.
[[nodiscard]] inline std::optional<StripPlan> plan_strips(RowTransform const& transform, RowNorm const* norm,
                                                          ConstRows const& x, Rows const& y,
                                                          RowDevice const& device) {
  if (transform.block == 0 || y.type != x.type || !detail::aligned_to(y.data, 16) ||
      y.stride * element_bytes(y.type) % 16 != 0)
    return std::nullopt;
  return plan_strips(transform, norm, x, false, false, y.stride == y.cols, device);
}

/// Of a transform, or none, and levels after it.
[[nodiscard]] inline std::optional<StripPlan> plan_strips(RowTransform const& transform, RowNorm const* norm,
                                                          ConstRows const& x, QuantizedRows const& q,
                                                          RowDevice const& device) {
  index_t const block = transform.block, length = block / std::max<index_t>(transform.base_order, 1);
  index_t const group = q.group == 0 || q.group > q.cols ? q.cols : q.group;
  bool const grouped = group == 128 || (group == 1024 && block == 1024 && transform.base == nullptr);
  if (!detail::aligned_to(q.levels, 8) || q.level_stride % 8 != 0 || (!grouped && group != q.cols) ||
      q.cols % group != 0 || (transform.base != nullptr && grouped && length < 128))
    return std::nullopt;
  index_t const groups = q.cols / group;
  bool const flat = q.level_stride == q.cols * q.bits / 8 && q.scale_stride == groups &&
                    (q.symmetry == Symmetry::symmetric || q.zero_point_stride == groups);
  auto plan = plan_strips(transform, norm, x, true, !grouped, flat, device);
  if (plan) plan->group = grouped ? static_cast<int>(group) : 0;
  return plan;
}

// The kernels' parameters.

template <class Transform>
[[nodiscard]] Transform strip_transform(StripPlan const& plan) {
  if constexpr (requires(Transform t) { t.base; })
    return {plan.rows, plan.factor, plan.base, plan.order, plan.log_length, plan.groups, plan.signs_at};
  else if constexpr (requires(Transform t) { t.norm; })
    return {plan.rows, plan.factor, plan.norm, plan.epsilon};
  else return {plan.rows, plan.factor};
}

template <class Body, class T>
[[nodiscard]] Body hadamard_strips(StripPlan const& plan, Rows const& y) {
  return {strip_transform<typename Body::Transform>(plan), static_cast<T*>(y.data),
          plan.flat ? plan.rows.values : y.stride};
}

template <class Body>
[[nodiscard]] Body quantize_strips(StripPlan const& plan, QuantizedRows const& q, float clip_ratio) {
  index_t const values = plan.rows.values, groups = plan.group == 0 ? 1 : values / plan.group;
  QuantizeStep const step{q.levels,      plan.flat ? values * q.bits / 8 : q.level_stride,
                          q.scales,      plan.flat ? groups : q.scale_stride,
                          q.zero_points, plan.flat ? groups : q.zero_point_stride,
                          q.bits,        q.symmetry,
                          clip_ratio,    1};
  return {strip_transform<typename Body::Transform>(plan), step, plan.rows.scratch_at + 144};
}

/// run<Body>() with the kernel of a plan for elements T.
template <class T, class Run>
void with_hadamard_strips(StripPlan const& plan, Run const& run) {
  switch (plan.order) {
    case 1:
      break;
    case 12:
      return run.template operator()<HadamardBaseStrips<BaseStrip<T, 12, 12, 512>, T, 1>>();
    case 20:
      return run.template operator()<HadamardBaseStrips<BaseStrip<T, 20, 20, 512>, T, 1>>();
    case 28:
      return run.template operator()<HadamardBaseStrips<BaseStrip<T, 28, 14, 512>, T, 1>>();
    default:
      return run.template operator()<HadamardBaseStrips<BaseStrip<T, 0, 16, 512>, T, 1>>();
  }
  switch (plan.log_length) {
    case 6:
      return run.template operator()<HadamardStrips<T, 6, 512, 1>>();
    case 7:
      return run.template operator()<HadamardStrips<T, 7, 512, 1>>();
    case 8:
      return run.template operator()<HadamardStrips<T, 8, 512, 1>>();
    case 9:
      return run.template operator()<HadamardStrips<T, 9, 512, 1>>();
    case 10:
      return run.template operator()<HadamardStrips<T, 10, 512, 1>>();
    case 11:
      return run.template operator()<HadamardStrips<T, 11, 512, 1>>();
    case 12:
      return run.template operator()<HadamardStrips<T, 12, 512, 1>>();
    case 13:
      return run.template operator()<HadamardStrips<T, 13, 512, 1>>();
    case 14:
      return run.template operator()<HadamardStrips<T, 14, 512, 1>>();
    default:
      return run.template operator()<HadamardStrips<T, 15, 512, 1>>();
  }
}

namespace detail {

template <class Transform, class Run>
void with_group(StripPlan const& plan, Run const& run) {
  if (plan.group == 0) return run.template operator()<QuantizeStrips<Transform, 0, 1>>();
  return run.template operator()<QuantizeStrips<Transform, 128, 1>>();
}

}  // namespace detail

template <class T, class Run>
void with_quantize_strips(StripPlan const& plan, Run const& run) {
  switch (plan.order) {
    case 1:
      break;
    case 12:
      return detail::with_group<BaseStrip<T, 12, 12, 512>>(plan, run);
    case 20:
      return detail::with_group<BaseStrip<T, 20, 10, 512>>(plan, run);
    case 28:
      return detail::with_group<BaseStrip<T, 28, 14, 512>>(plan, run);
    default:
      return detail::with_group<BaseStrip<T, 0, 16, 512>>(plan, run);
  }
  switch (plan.log_length) {
    case 0:
      return detail::with_group<PlainStrip<T, 512>>(plan, run);
    case 6:
      return detail::with_group<StripTransform<T, 6, 512>>(plan, run);
    case 7:
      return detail::with_group<StripTransform<T, 7, 512>>(plan, run);
    case 8:
      return detail::with_group<StripTransform<T, 8, 512>>(plan, run);
    case 9:
      return detail::with_group<StripTransform<T, 9, 512>>(plan, run);
    case 10:
      if (plan.group == 1024)
        return run.template operator()<QuantizeStrips<StripTransform<T, 10, 512>, 1024, 1>>();
      return detail::with_group<StripTransform<T, 10, 512>>(plan, run);
    case 11:
      return detail::with_group<StripTransform<T, 11, 512>>(plan, run);
    case 12:
      return detail::with_group<StripTransform<T, 12, 512>>(plan, run);
    case 13:
      return detail::with_group<StripTransform<T, 13, 512>>(plan, run);
    case 14:
      return detail::with_group<StripTransform<T, 14, 512>>(plan, run);
    default:
      return detail::with_group<StripTransform<T, 15, 512>>(plan, run);
  }
}

}  // namespace dartquant::cuda
