// SPDX-License-Identifier: Apache-2.0
// The calls on rows. A few rows at a time go through the workspace, so that every value is read from memory
// once and written once.

#include <algorithm>
#include <cstdint>

#include <dartquant/kernels.h>

#include "cpu/rows_work.hpp"
#include "cpu/status.hpp"

namespace dartquant::cpu {
namespace {

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
        {type, from, to, x.cols / plan.length, plan.length, nullptr, 0, straight ? plan.factor : 1.0f});
  }
  if (!straight) store_rows(work, plan.factor, values, y, first, rows);
}

/// Whether rows can be transformed where Y lies: consecutive floats on whole cache lines.
bool fits_in_place(Plan const& plan, dartquant_matrix const& x, dartquant_matrix const& y) {
  return y.type == dartquant_float32 && y.stride == y.cols && y.cols % 16 == 0 &&
         aligned(y.data, dartquant_alignment) && (plan.permutation == nullptr || !same(x, y));
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

/// One row of 4-bit levels straight to halves of Y.
void look_up_row(RowKernels const& kernels, dartquant_quantized const& q, std::int64_t row,
                 dartquant_matrix const& y) {
  NibbleRow const nibbles{
      static_cast<std::uint8_t const*>(q.levels) + row * q.level_stride,
      q.cols,
      group_width(q),
      q.scales + row * q.scale_stride,
      q.symmetry == dartquant_symmetric ? nullptr : q.zero_points + row * q.zero_point_stride,
      static_cast<Type>(y.type),
      reinterpret_cast<std::uint16_t*>(row_of(y, row))};
  kernels.look_up(&nibbles);
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
  bool const looked_up = !direct && q->bits == 4 && kernels->look_up != nullptr &&
                         (group_width(*q) % 2 == 0 || groups_of(*q) == 1);
  for (std::int64_t row = mine.first; row < mine.last; ++row) {
    if (looked_up) {
      look_up_row(*kernels, *q, row, *y);
      continue;
    }
    dequantize_row(*kernels, *q, row, w, direct ? reinterpret_cast<float*>(row_of(*y, row)) : w.values);
    if (!direct) kernels->store(static_cast<Type>(y->type), w.values, 1.0f, row_of(*y, row), q->cols);
  }
  return 0;
}
