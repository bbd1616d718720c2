// SPDX-License-Identifier: Apache-2.0
// Rows become levels: transform, range, scale, quantization and packing, a few rows at a time.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

#include <dartquant/kernels.h>
#include <dartquant/quant/scale.hpp>

#include "cpu/rows_work.hpp"
#include "cpu/status.hpp"

namespace dartquant::cpu {
namespace {

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

}  // namespace
}  // namespace dartquant::cpu

using namespace dartquant::cpu;

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
