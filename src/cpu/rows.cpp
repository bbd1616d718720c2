// SPDX-License-Identifier: Apache-2.0
// The calls on rows. A few rows at a time go through the workspace, so that every value is read from memory
// once and written once.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include <dartquant/kernels.h>
#include <dartquant/quant/scale.hpp>

#include "cpu/kernel_table.hpp"
#include "cpu/rows_plan.hpp"
#include "cpu/status.hpp"

namespace dartquant::cpu {
namespace {

/// The kernels of a call, each asking for rows to come where the instruction set can.
class Work {
 public:
  explicit Work(RowKernels const& kernels) : kernels_(kernels) {}

  /// The rows [first, first + rows) of X are next, all asked for after `requests` requests per 64 values.
  void next(dartquant_matrix const& x, std::int64_t first, std::int64_t rows, std::int64_t last,
            std::int64_t requests) {
    bool const any = kernels_.ahead != nullptr && first < last && x.stride < 2 * x.cols;
    std::int64_t const values = std::min(rows, last - first) * x.stride;  // with what lies between the rows
    std::int64_t const most = 64;
    if (any)
      ahead_ = {reinterpret_cast<char const*>(row_of(x, first)),
                std::min(most, values * element_bytes(x.type) * 64 / (requests * rows * x.cols))};
    asks_ = any;
  }
  void load(Type type, void const* x, std::int32_t const* permutation, float* y, std::int64_t count) {
    if (asks_) kernels_.ahead->load(type, x, permutation, y, count, &ahead_);
    else kernels_.load(type, x, permutation, y, count);
  }
  void store(Type type, float const* x, float factor, void* y, std::int64_t count) {
    if (asks_) kernels_.ahead->store(type, x, factor, y, count, &ahead_);
    else kernels_.store(type, x, factor, y, count);
  }
  void walsh(float* x, std::int64_t count, std::int64_t length) {
    if (asks_) kernels_.ahead->walsh(x, count, length, &ahead_);
    else kernels_.walsh(x, count, length);
  }
  Range range(float const* x, std::int64_t count) {
    return asks_ ? kernels_.ahead->range(x, count, &ahead_) : kernels_.range(x, count);
  }
  void quantize(float const* x, std::int64_t count, LevelMap const& map, std::int8_t* levels) {
    if (asks_) kernels_.ahead->quantize(x, count, &map, levels, &ahead_);
    else kernels_.quantize(x, count, &map, levels);
  }
  [[nodiscard]] RowKernels const& kernels() const { return kernels_; }

 private:
  RowKernels const& kernels_;
  Ahead ahead_{};
  bool asks_ = false;
};

/// Rows [first, first + rows) of X, permuted, as consecutive rows of floats.
void load_rows(Work& work, Plan const& plan, dartquant_matrix const& x, std::int64_t first, std::int64_t rows,
               float* values) {
  auto const type = static_cast<Type>(x.type);
  if (plan.permutation == nullptr && x.stride == x.cols)
    return work.load(type, row_of(x, first), nullptr, values, rows * x.cols);
  for (std::int64_t i = 0; i < rows; ++i)
    work.load(type, row_of(x, first + i), plan.permutation, values + i * x.cols, x.cols);
}

/// All of the transform that comes between the permutation and the factor.
void apply_blocks(Work& work, Plan const& plan, std::int64_t count, float* values, float* buffer) {
  if (plan.length > 1) work.walsh(values, count / plan.length, plan.length);
  if (plan.base == nullptr) return;
  std::int64_t const block = plan.order * plan.length;
  for (std::int64_t at = 0; at < count; at += block)
    work.kernels().multiply_base(plan.base, plan.order, plan.length, values + at, buffer);
}

void store_rows(Work& work, float factor, float const* values, dartquant_matrix const& y, std::int64_t first,
                std::int64_t rows) {
  auto const type = static_cast<Type>(y.type);
  if (y.stride == y.cols) return work.store(type, values, factor, row_of(y, first), rows * y.cols);
  for (std::int64_t i = 0; i < rows; ++i)
    work.store(type, values + i * y.cols, factor, row_of(y, first + i), y.cols);
}

/// Whether rows can be transformed where Y lies: consecutive floats on whole cache lines.
bool fits_in_place(Plan const& plan, dartquant_matrix const& x, dartquant_matrix const& y) {
  return y.type == dartquant_float32 && y.stride == y.cols && y.cols % 16 == 0 &&
         aligned(y.data, dartquant_alignment) && (plan.permutation == nullptr || !same(x, y));
}

/// The groups of a batch of rows, one after the other.
struct Groups {
  dartquant_quantized q;
  Workspace w;
  std::int64_t first;  ///< row of q that is row 0 of the workspace
  std::int64_t width = group_width(q), row = 0, channel = 0, index = 0;

  [[nodiscard]] std::int64_t count() const { return std::min(width, q.cols - channel); }
  [[nodiscard]] float const* values() const { return w.values + row * q.cols + channel; }
  /// Bytes go straight to their place, nibbles are packed later.
  [[nodiscard]] std::int8_t* levels() const {
    if (q.bits == 4) return w.levels + row * q.cols + channel;
    return static_cast<std::int8_t*>(q.levels) + (first + row) * q.level_stride + channel;
  }
  void keep(float scale, std::int32_t zero_point) const {
    q.scales[(first + row) * q.scale_stride + index] = scale;
    if (q.symmetry == dartquant_asymmetric)
      q.zero_points[(first + row) * q.zero_point_stride + index] = zero_point;
  }
  void next() {
    channel += width;
    ++index;
    if (channel < q.cols) return;
    channel = index = 0;
    ++row;
  }
};

/// Levels, scales and zero points of a batch of rows. Ranges, divisions and levels of many groups at a time
/// run one kind after the other: each kind's latencies overlap with those of its neighbours. Returns whether
/// everything was finite.
bool quantize_groups(Work& work, Groups groups, std::int64_t rows, float factor, float clip) {
  constexpr std::int64_t most = 64;
  Range ranges[most];
  LevelMap maps[most];
  auto const symmetry = static_cast<Symmetry>(groups.q.symmetry);
  bool finite = true;
  for (std::int64_t left = rows * groups_of(groups.q); left > 0; left -= most) {
    std::int64_t const count = std::min(most, left);
    Groups at = groups;
    for (std::int64_t g = 0; g < count; ++g, at.next()) ranges[g] = work.range(at.values(), at.count());
    at = groups;
    for (std::int64_t g = 0; g < count; ++g, at.next()) {
      // Rounding is monotone, so the factor of the range is the range of the products.
      Quantizer<float> const fit = range_quantizer(clip * (ranges[g].min * factor),
                                                   clip * (ranges[g].max * factor), groups.q.bits, symmetry);
      maps[g] = {factor, fit.inverse, fit.lowest, fit.highest, fit.zero_point};
      if (ranges[g].finite) at.keep(fit.scale, fit.zero_point);
      else at.keep(std::numeric_limits<float>::quiet_NaN(), 0);
    }
    for (std::int64_t g = 0; g < count; ++g, groups.next()) {
      finite = finite && ranges[g].finite;
      if (ranges[g].finite) work.quantize(groups.values(), groups.count(), maps[g], groups.levels());
      else std::memset(groups.levels(), 0, static_cast<std::size_t>(groups.count()));
    }
  }
  return finite;
}

void pack_rows(RowKernels const& kernels, Workspace const& w, dartquant_quantized const& q,
               std::int64_t first, std::int64_t rows) {
  auto* const bytes = static_cast<std::uint8_t*>(q.levels) + first * q.level_stride;
  if (q.cols % 2 == 0 && q.level_stride == q.cols / 2)
    return kernels.pack_nibbles(w.levels, rows * q.cols, bytes);
  for (std::int64_t i = 0; i < rows; ++i)
    kernels.pack_nibbles(w.levels + i * q.cols, q.cols, bytes + i * q.level_stride);
}

/// One row into the workspace's values, or straight to `y` where that is float.
void dequantize_row(RowKernels const& kernels, dartquant_quantized const& q, std::int64_t row,
                    Workspace const& w, float* y) {
  auto const* const bytes = static_cast<std::uint8_t const*>(q.levels) + row * q.level_stride;
  bool const is_signed = q.symmetry == dartquant_symmetric;
  if (q.bits == 4) kernels.unpack_nibbles(bytes, q.cols, is_signed, w.levels);
  auto const* const levels = q.bits == 4 ? w.levels : reinterpret_cast<std::int8_t const*>(bytes);
  std::int64_t const width = group_width(q);
  for (std::int64_t first = 0, g = 0; first < q.cols; first += width, ++g)
    kernels.dequantize(levels + first, std::min(width, q.cols - first), is_signed,
                       q.scales[row * q.scale_stride + g],
                       is_signed ? 0 : q.zero_points[row * q.zero_point_stride + g], y + first);
}

}  // namespace
}  // namespace dartquant::cpu

using namespace dartquant::cpu;

dartquant_status dartquant_rows_workspace_size(std::int64_t cols, std::size_t* bytes) {
  Checks checks;
  checks.require(cols >= 1, dartquant_arg_cols, dartquant_bad_size);
  checks.pointer(bytes, alignof(std::size_t), dartquant_arg_bytes);
  if (!checks.ok()) return checks.result();
  WorkspaceLayout const layout = workspace_layout(cols);
  if (!checks.require(layout.fits, dartquant_arg_cols, dartquant_overflow).ok()) return checks.result();
  *bytes = static_cast<std::size_t>(layout.bytes);
  return 0;
}

dartquant_status dartquant_hadamard(dartquant_cpu const* cpu, dartquant_transform const* transform,
                                    dartquant_matrix const* x, dartquant_matrix const* y, void* workspace,
                                    std::size_t workspace_bytes, std::int64_t part, std::int64_t parts) {
  Checks checks;
  RowKernels const* const kernels = checked_kernels(checks, cpu);
  checks.require(transform != nullptr, dartquant_arg_transform, dartquant_null);
  check(checks, x, dartquant_arg_x);
  check(checks, y, dartquant_arg_y);
  if (!checks.ok()) return checks.result();
  checks.require(x->rows == y->rows, dartquant_arg_rows, dartquant_bad_size);
  checks.require(x->cols == y->cols, dartquant_arg_cols, dartquant_bad_size);
  if (checks.ok()) checks.require(same_or_disjoint(*x, *y), dartquant_arg_y, dartquant_bad_value);
  check(checks, transform, x->cols);
  check_workspace(checks, x->cols, workspace, workspace_bytes);
  if (!checks.part(part, parts).ok()) return checks.result();

  Plan const plan = plan_of(transform);
  Workspace const w = workspace_at(workspace, x->cols);
  Share const mine = share(x->rows, part, parts);
  Work work(*kernels);
  bool const in_place = fits_in_place(plan, *x, *y), is_loaded = in_place && same(*x, *y);
  for (std::int64_t row = mine.first; row < mine.last; row += w.rows) {
    std::int64_t const rows = std::min(w.rows, mine.last - row);
    float* const values = in_place ? reinterpret_cast<float*>(row_of(*y, row)) : w.values;
    work.next(*x, row + rows, w.rows, mine.last, is_loaded ? 5 : 6);
    if (!is_loaded) load_rows(work, plan, *x, row, rows, values);
    apply_blocks(work, plan, rows * x->cols, values, w.buffer);
    store_rows(work, plan.factor, values, *y, row, rows);
  }
  return 0;
}

dartquant_status dartquant_quantize(dartquant_cpu const* cpu, dartquant_transform const* transform,
                                    dartquant_matrix const* x, float clip_ratio, dartquant_quantized const* q,
                                    void* workspace, std::size_t workspace_bytes, std::int64_t part,
                                    std::int64_t parts) {
  Checks checks;
  RowKernels const* const kernels = checked_kernels(checks, cpu);
  check(checks, x, dartquant_arg_x);
  checks.require(clip_ratio > 0 && clip_ratio <= 1, dartquant_arg_clip_ratio, dartquant_bad_value);
  check(checks, q);
  if (!checks.ok()) return checks.result();
  checks.require(x->rows == q->rows, dartquant_arg_rows, dartquant_bad_size);
  checks.require(x->cols == q->cols, dartquant_arg_cols, dartquant_bad_size);
  check(checks, transform, x->cols);
  check_workspace(checks, x->cols, workspace, workspace_bytes);
  if (!checks.part(part, parts).ok()) return checks.result();

  Plan const plan = plan_of(transform);
  Workspace const w = workspace_at(workspace, x->cols);
  Share const mine = share(x->rows, part, parts);
  Work work(*kernels);
  bool finite = true;
  for (std::int64_t row = mine.first; row < mine.last; row += w.rows) {
    std::int64_t const rows = std::min(w.rows, mine.last - row);
    work.next(*x, row + rows, w.rows, mine.last, plan.length > 1 ? 8 : 4);
    load_rows(work, plan, *x, row, rows, w.values);
    apply_blocks(work, plan, rows * x->cols, w.values, w.buffer);
    finite &= quantize_groups(work, Groups{*q, w, row}, rows, plan.factor, clip_ratio);
    if (q->bits == 4) pack_rows(*kernels, w, *q, row, rows);
  }
  return finite ? 0 : status(dartquant_arg_x, dartquant_not_finite);
}

dartquant_status dartquant_dequantize(dartquant_cpu const* cpu, dartquant_quantized const* q,
                                      dartquant_matrix const* y, void* workspace, std::size_t workspace_bytes,
                                      std::int64_t part, std::int64_t parts) {
  Checks checks;
  RowKernels const* const kernels = checked_kernels(checks, cpu);
  check(checks, q);
  check(checks, y, dartquant_arg_y);
  if (!checks.ok()) return checks.result();
  checks.require(q->rows == y->rows, dartquant_arg_rows, dartquant_bad_size);
  checks.require(q->cols == y->cols, dartquant_arg_cols, dartquant_bad_size);
  check_workspace(checks, q->cols, workspace, workspace_bytes);
  checks.part(part, parts);
  if (checks.ok()) checks.require(zero_points_in_range(*q), dartquant_arg_zero_points, dartquant_bad_value);
  if (!checks.ok()) return checks.result();

  Workspace const w = workspace_at(workspace, q->cols);
  Share const mine = share(q->rows, part, parts);
  bool const direct = y->type == dartquant_float32;
  for (std::int64_t row = mine.first; row < mine.last; ++row) {
    dequantize_row(*kernels, *q, row, w, direct ? reinterpret_cast<float*>(row_of(*y, row)) : w.values);
    if (!direct) kernels->store(static_cast<Type>(y->type), w.values, 1.0f, row_of(*y, row), q->cols);
  }
  return 0;
}
