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
/// many groups are quantized, and packed, at once where the kernels can and groups begin on whole bytes.
struct Job {
  Work& work;
  Plan const& plan;
  dartquant_matrix const& x;
  dartquant_quantized const& q;
  Workspace w;
  std::int64_t width = group_width(q), groups = groups_of(q);
  std::int64_t whole = q.cols / width,
               tail = q.cols % width;  // groups of full width, and what is left of a row
  bool transforms = work.transforms(plan) && plan.base == nullptr && width % plan.length == 0;
  bool stays = plan.length * plan.order == 1 && plan.permutation == nullptr && x.type == dartquant_float32;
  bool at_once =
      work.kernels().quantize_groups != nullptr && (q.bits == 8 || width % 2 == 0 || width >= q.cols);
  bool dense = tail == 0 && x.stride == x.cols && q.level_stride * 8 == q.cols * q.bits;

  /// Requests per 64 values.
  [[nodiscard]] std::int64_t requests() const {
    if (transforms) return 4 + 2 + (plan.permutation != nullptr ? 1 : 0);
    return 2 + 2 + (stays ? 0 : 1) + (plan.length > 1 ? 4 : 0);
  }
};

/// A place among the groups of a batch of rows.
struct Place {
  std::int64_t row = 0, index = 0;
};

/// Groups of one width whose values, sources and levels follow each other.
struct Run {
  Place from;
  std::int64_t count, width;
};

/// The rows of q from `first` on that are in the workspace.
struct Batch {
  Job const& job;
  std::int64_t first;

  /// The run that starts here, of at most `most` groups.
  [[nodiscard]] Run run(Place at, std::int64_t most) const {
    if (at.index == job.whole) return {at, 1, job.tail};
    return {at, job.dense ? most : std::min(most, job.whole - at.index), job.width};
  }
  [[nodiscard]] Place after(Run const& run) const {
    std::int64_t const index = run.from.index + run.count;
    if (index < job.groups) return {run.from.row, index};
    return {run.from.row + index / job.groups, index % job.groups};
  }
  [[nodiscard]] Place next(Place at) const {
    return at.index + 1 < job.groups ? Place{at.row, at.index + 1} : Place{at.row + 1, 0};
  }
  [[nodiscard]] std::int64_t offset(Place at) const { return at.row * job.q.cols + at.index * job.width; }
  [[nodiscard]] float* workspace(Place at) const { return job.w.values + offset(at); }
  [[nodiscard]] void const* source(Place at) const {
    return row_of(job.x, first + at.row) + at.index * job.width * element_bytes(job.x.type);
  }
  [[nodiscard]] float const* values(Place at) const {
    return job.stays ? static_cast<float const*>(source(at)) : workspace(at);
  }
  [[nodiscard]] std::uint8_t* levels(Place at) const {
    return static_cast<std::uint8_t*>(job.q.levels) + (first + at.row) * job.q.level_stride +
           at.index * job.width * job.q.bits / 8;
  }
  void measure(Run const& run, Range* ranges) const {
    if (job.transforms) {
      bool const permuted = job.plan.permutation != nullptr;
      std::int64_t const blocks = run.width / job.plan.length;
      job.work.transform({permuted ? Type::float32 : static_cast<Type>(job.x.type),
                          permuted ? workspace(run.from) : source(run.from), workspace(run.from),
                          run.count * blocks, job.plan.length, ranges, blocks, 1.0f});
      return;
    }
    for (std::int64_t i = 0; i < run.count; ++i)
      ranges[i] = job.work.range(values(run.from) + i * run.width, run.width);
  }
  void keep(Place at, float scale, std::int32_t zero_point) const {
    job.q.scales[(first + at.row) * job.q.scale_stride + at.index] = scale;
    if (job.q.symmetry == dartquant_asymmetric)
      job.q.zero_points[(first + at.row) * job.q.zero_point_stride + at.index] = zero_point;
  }
  void quantize(Run const& run, LevelMap const* maps) const {
    if (job.at_once)
      return job.work.quantize_groups(
          {values(run.from), run.width, run.count, maps, job.q.bits, levels(run.from)});
    auto* const to = job.q.bits == 4 ? job.w.levels + offset(run.from)  // packed later
                                     : reinterpret_cast<std::int8_t*>(levels(run.from));
    for (std::int64_t i = 0; i < run.count; ++i)
      job.work.quantize(values(run.from) + i * run.width, run.width, maps[i], to + i * run.width);
  }
  /// The levels of a group that has no scale.
  void clear(Run const& run) const {
    bool const later = job.q.bits == 4 && !job.at_once;
    void* const to = later ? static_cast<void*>(job.w.levels + offset(run.from)) : levels(run.from);
    std::memset(to, 0, static_cast<std::size_t>(later ? run.width : (run.width * job.q.bits + 7) / 8));
  }
};

/// The ranges of some groups and the quantizers that fit them, an array of each number, so that the loop over
/// groups vectorises: one division after the other would take as long as 30 values.
struct Fits {
  static constexpr std::int64_t most = 64;
  Range ranges[most];
  float min[most], max[most];
  float scale[most], inverse[most], lowest[most], highest[most];
  std::int32_t zero_point[most], bounded[most];
  LevelMap maps[most];

  /// The quantizers of the ranges times factor times clip. Bounded are those of values within +-2^60, scales
  /// not too far below: neither x factor nor the quotient over- or underflows, but for quotients that round
  /// to 0.
  template <Symmetry symmetry>
  void fit(std::int64_t count, float factor, float clip, int bits) {
    for (std::int64_t g = 0; g < count; ++g) {
      min[g] = ranges[g].min;
      max[g] = ranges[g].max;
    }
    for (std::int64_t g = 0; g < count; ++g) {
      // Rounding is monotone, so the factor of the range is the range of the products.
      float const low = min[g] * factor, high = max[g] * factor, widest = -low > high ? -low : high;
      Quantizer<float> const found = range_quantizer(clip * low, clip * high, bits, symmetry);
      scale[g] = found.scale;
      inverse[g] = found.inverse;
      lowest[g] = found.lowest;
      highest[g] = found.highest;
      zero_point[g] = found.zero_point;
      bounded[g] =
          static_cast<std::int32_t>(widest >= 0x1p-60f) & static_cast<std::int32_t>(widest <= 0x1p60f);
    }
  }
  /// A factor 2^k changes no rounding of bounded values, and goes into the inverse.
  void map(std::int64_t g, float factor, float clip) {
    LevelMap& to = maps[g];
    bool const is_bounded = clip >= 0x1p-16f && bounded[g] != 0;
    bool const moves = is_bounded && (std::bit_cast<std::uint32_t>(factor) & 0x7FFFFFu) == 0;
    to.factor = moves ? 1.0f : factor;
    to.inverse = moves ? inverse[g] * factor : inverse[g];
    to.lowest = lowest[g];
    to.highest = highest[g];
    to.zero_point = zero_point[g];
    to.bounded = is_bounded;
  }
};

/// Calls visit(run, number of its first group) for `count` groups from `at` on.
template <class Visit>
void for_each_run(Batch const& batch, Place at, std::int64_t count, Visit const& visit) {
  for (std::int64_t g = 0; g < count;) {
    Run const run = batch.run(at, count - g);
    visit(run, g);
    at = batch.after(run);
    g += run.count;
  }
}

/// Levels, scales and zero points of a batch of rows. Ranges, quantizers and levels of many groups at a time
/// run one kind after the other: each kind's latencies overlap with those of its neighbours. Returns whether
/// everything was finite.
bool quantize_groups(Batch const& batch, std::int64_t rows, float clip, Fits& fits) {
  dartquant_quantized const& q = batch.job.q;
  float const factor = batch.job.plan.factor;
  bool finite = true;
  Place at;
  for (std::int64_t left = rows * batch.job.groups; left > 0; left -= Fits::most) {
    std::int64_t const count = std::min(Fits::most, left);
    for_each_run(batch, at, count,
                 [&](Run const& run, std::int64_t g) { batch.measure(run, fits.ranges + g); });
    if (q.symmetry == dartquant_symmetric) fits.fit<Symmetry::symmetric>(count, factor, clip, q.bits);
    else fits.fit<Symmetry::asymmetric>(count, factor, clip, q.bits);
    Place cell = at;
    bool all = true;
    for (std::int64_t g = 0; g < count; ++g, cell = batch.next(cell)) {
      bool const known = fits.ranges[g].finite;
      fits.map(g, factor, clip);
      batch.keep(cell, known ? fits.scale[g] : std::numeric_limits<float>::quiet_NaN(),
                 known ? fits.zero_point[g] : 0);
      all = all && known;
    }
    for_each_run(batch, at, count,
                 [&](Run const& run, std::int64_t g) { batch.quantize(run, fits.maps + g); });
    if (!all)
      for (std::int64_t g = 0; g < count; ++g, at = batch.next(at))
        if (!fits.ranges[g].finite) batch.clear(batch.run(at, 1));
    finite = finite && all;
    at = cell;
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
  Fits fits;
  bool finite = true;
  for (std::int64_t row = mine.first; row < mine.last; row += w.rows) {
    std::int64_t const rows = std::min(w.rows, mine.last - row);
    work.next(*x, row + rows, w.rows, mine.last, job.requests());
    if (!job.stays && (!job.transforms || plan.permutation != nullptr))
      load_rows(work, plan, *x, row, rows, w.values);
    if (!job.transforms) apply_blocks(work, plan, rows * x->cols, w.values, w.buffer);
    finite &= quantize_groups({job, row}, rows, clip_ratio, fits);
    if (q->bits == 4 && !job.at_once) pack_rows(*kernels, w, *q, row, rows);
  }
  return finite ? 0 : status(dartquant_arg_x, dartquant_not_finite);
}
