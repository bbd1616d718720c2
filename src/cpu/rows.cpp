// SPDX-License-Identifier: Apache-2.0
// The calls on rows. A few rows at a time go through the workspace, so that every value is read from memory
// once and written once.

#include <algorithm>
#include <bit>
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
    ahead_ = nothing_;
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
  void transform(Transform const& transform) { kernels_.transform(&transform, &ahead_); }
  void quantize_nibbles(float const* x, std::int64_t count, LevelMap const& map, std::uint8_t* bytes) {
    kernels_.quantize_nibbles(x, count, &map, bytes, &ahead_);
  }
  [[nodiscard]] RowKernels const& kernels() const { return kernels_; }
  /// Whether blocks of this plan are transformed while they are loaded.
  [[nodiscard]] bool transforms(Plan const& plan) const {
    return kernels_.transform != nullptr && plan.length >= 16;
  }

 private:
  RowKernels const& kernels_;
  Ahead nothing_{reinterpret_cast<char const*>(&kernels_), 0}, ahead_ = nothing_;
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

/// Rows [first, first + rows) of X, permuted or not, transformed straight to where they belong: float rows of
/// Y, or the workspace, from where they go to halves of Y.
void transform_rows(Work& work, Plan const& plan, dartquant_matrix const& x, std::int64_t first,
                    std::int64_t rows, dartquant_matrix const& y, float* values) {
  bool const permuted = plan.permutation != nullptr, straight = y.type == dartquant_float32;
  if (permuted) load_rows(work, plan, x, first, rows, values);
  for (std::int64_t i = 0; i < rows; ++i) {
    float* const own = values + i * x.cols;
    float* const to = straight ? reinterpret_cast<float*>(row_of(y, first + i)) : own;
    Type const type = permuted ? Type::float32 : static_cast<Type>(x.type);
    void const* const from = permuted ? own : static_cast<void const*>(row_of(x, first + i));
    work.transform(
        {type, from, to, x.cols / plan.length, plan.length, nullptr, straight ? plan.factor : 1.0f});
  }
  if (!straight) store_rows(work, plan.factor, values, y, first, rows);
}

/// Whether rows can be transformed where Y lies: consecutive floats on whole cache lines.
bool fits_in_place(Plan const& plan, dartquant_matrix const& x, dartquant_matrix const& y) {
  return y.type == dartquant_float32 && y.stride == y.cols && y.cols % 16 == 0 &&
         aligned(y.data, dartquant_alignment) && (plan.permutation == nullptr || !same(x, y));
}

/// What is quantized in one call, and in which steps: rows whose blocks lie within groups are loaded,
/// transformed and measured at once where the kernels can; floats that need no transform stay where they are;
/// nibbles are packed at once where groups begin on whole bytes.
struct Job {
  Work& work;
  Plan const& plan;
  dartquant_matrix const& x;
  dartquant_quantized const& q;
  Workspace w;
  std::int64_t width = group_width(q);
  bool transforms = work.transforms(plan) && plan.base == nullptr && width % plan.length == 0;
  bool stays = plan.length * plan.order == 1 && plan.permutation == nullptr && x.type == dartquant_float32;
  bool packs =
      q.bits == 4 && work.kernels().quantize_nibbles != nullptr && (width % 2 == 0 || width == q.cols);

  /// Requests per 64 values.
  [[nodiscard]] std::int64_t requests() const {
    if (transforms) return 4 + 2 + (plan.permutation != nullptr ? 1 : 0);
    return 2 + 2 + (stays ? 0 : 1) + (plan.length > 1 ? 4 : 0);
  }
};

/// The groups of a batch of rows, one after the other.
struct Groups {
  Job const* job;
  std::int64_t first;  ///< row of q that is row 0 of the workspace
  std::int64_t row = 0, channel = 0, index = 0;

  [[nodiscard]] std::int64_t count() const { return std::min(job->width, job->q.cols - channel); }
  [[nodiscard]] float* workspace() const { return job->w.values + row * job->q.cols + channel; }
  [[nodiscard]] void const* source() const {
    return row_of(job->x, first + row) + channel * element_bytes(job->x.type);
  }
  [[nodiscard]] float const* values() const {
    return job->stays ? static_cast<float const*>(source()) : workspace();
  }
  [[nodiscard]] Range range() const {
    if (!job->transforms) return job->work.range(values(), count());
    bool const permuted = job->plan.permutation != nullptr;
    Range found{};
    job->work.transform({permuted ? Type::float32 : static_cast<Type>(job->x.type),
                         permuted ? workspace() : source(), workspace(), count() / job->plan.length,
                         job->plan.length, &found, 1.0f});
    return found;
  }
  void keep(float scale, std::int32_t zero_point) const {
    job->q.scales[(first + row) * job->q.scale_stride + index] = scale;
    if (job->q.symmetry == dartquant_asymmetric)
      job->q.zero_points[(first + row) * job->q.zero_point_stride + index] = zero_point;
  }
  /// Levels by `map`; zeros without one.
  void quantize(LevelMap const* map) const {
    auto* const to = static_cast<std::uint8_t*>(job->q.levels) + (first + row) * job->q.level_stride;
    if (job->packs) {
      if (map != nullptr) job->work.quantize_nibbles(values(), count(), *map, to + channel / 2);
      else std::memset(to + channel / 2, 0, static_cast<std::size_t>((count() + 1) / 2));
      return;
    }
    auto* const levels = job->q.bits == 4 ? job->w.levels + row * job->q.cols + channel  // packed later
                                          : reinterpret_cast<std::int8_t*>(to) + channel;
    if (map != nullptr) job->work.quantize(values(), count(), *map, levels);
    else std::memset(levels, 0, static_cast<std::size_t>(count()));
  }
  void next() {
    channel += job->width;
    ++index;
    if (channel < job->q.cols) return;
    channel = index = 0;
    ++row;
  }
};

/// The map of values within +-widest / factor. Between the limits neither x factor nor the quotient over- or
/// underflows, but for quotients that round to 0; a factor 2^k then changes no rounding, and goes into the
/// inverse.
LevelMap map_of(Quantizer<float> const& fit, float factor, float clip, float widest) {
  LevelMap map{factor, fit.inverse, fit.lowest, fit.highest, fit.zero_point};
  map.bounded = clip >= 0x1p-16f && widest >= 0x1p-60f && widest <= 0x1p60f;
  if (map.bounded && (std::bit_cast<std::uint32_t>(factor) & 0x7FFFFFu) == 0) {
    map.inverse *= factor;
    map.factor = 1.0f;
  }
  return map;
}

/// Levels, scales and zero points of a batch of rows. Ranges, divisions and levels of many groups at a time
/// run one kind after the other: each kind's latencies overlap with those of its neighbours. Returns whether
/// everything was finite.
bool quantize_groups(Groups groups, std::int64_t rows, float clip) {
  constexpr std::int64_t most = 64;
  Range ranges[most];
  LevelMap maps[most];
  dartquant_quantized const& q = groups.job->q;
  float const factor = groups.job->plan.factor;
  bool finite = true;
  for (std::int64_t left = rows * groups_of(q); left > 0; left -= most) {
    std::int64_t const count = std::min(most, left);
    Groups at = groups;
    for (std::int64_t g = 0; g < count; ++g, at.next()) ranges[g] = at.range();
    at = groups;
    for (std::int64_t g = 0; g < count; ++g, at.next()) {
      // Rounding is monotone, so the factor of the range is the range of the products.
      float const min = ranges[g].min * factor, max = ranges[g].max * factor;
      Quantizer<float> const fit =
          range_quantizer(clip * min, clip * max, q.bits, static_cast<Symmetry>(q.symmetry));
      maps[g] = map_of(fit, factor, clip, std::max(-min, max));
      if (ranges[g].finite) at.keep(fit.scale, fit.zero_point);
      else at.keep(std::numeric_limits<float>::quiet_NaN(), 0);
    }
    for (std::int64_t g = 0; g < count; ++g, groups.next()) {
      finite = finite && ranges[g].finite;
      groups.quantize(ranges[g].finite ? &maps[g] : nullptr);
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
  bool const transforms = work.transforms(plan) && plan.base == nullptr;
  bool const in_place = fits_in_place(plan, *x, *y), is_loaded = in_place && same(*x, *y);
  for (std::int64_t row = mine.first; row < mine.last; row += w.rows) {
    std::int64_t const rows = std::min(w.rows, mine.last - row);
    if (transforms) {
      work.next(*x, row + rows, w.rows, mine.last, 4);
      transform_rows(work, plan, *x, row, rows, *y, w.values);
      continue;
    }
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
  Job const job{work, plan, *x, *q, w};
  bool finite = true;
  for (std::int64_t row = mine.first; row < mine.last; row += w.rows) {
    std::int64_t const rows = std::min(w.rows, mine.last - row);
    work.next(*x, row + rows, w.rows, mine.last, job.requests());
    if (!job.stays && (!job.transforms || plan.permutation != nullptr))
      load_rows(work, plan, *x, row, rows, w.values);
    if (!job.transforms) apply_blocks(work, plan, rows * x->cols, w.values, w.buffer);
    finite &= quantize_groups({&job, row}, rows, clip_ratio);
    if (q->bits == 4 && !job.packs) pack_rows(*kernels, w, *q, row, rows);
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
