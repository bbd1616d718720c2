// SPDX-License-Identifier: Apache-2.0
#include "cpu/rows_plan.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "cpu/detect.hpp"

namespace dartquant::cpu {
namespace {

/// Values that are worked on at a time: short rows share the costs of a call, and everything stays in L1.
constexpr std::int64_t batch_values = 4096;
constexpr std::int64_t largest_length = 1 << 15, largest_order = 1024;

void check_base(Checks& checks, dartquant_transform const& transform) {
  bool const has_base = transform.base != nullptr;
  std::int64_t const order = transform.base_order;
  checks.require(has_base || order <= 1, dartquant_arg_base, dartquant_null);
  checks.require(order >= (has_base ? 1 : 0), dartquant_arg_base, dartquant_bad_size);
  checks.require(order <= largest_order, dartquant_arg_base, dartquant_unsupported);
  if (!checks.ok() || !has_base) return;
  bool signs = true;
  for (std::int64_t i = 0; i < order * order; ++i)
    signs = signs && (transform.base[i] == 1 || transform.base[i] == -1);
  checks.require(signs, dartquant_arg_base, dartquant_bad_value);
}

void check_permutation(Checks& checks, std::int32_t const* permutation, std::int64_t cols) {
  if (permutation == nullptr) return;
  checks.require(aligned(permutation, alignof(std::int32_t)), dartquant_arg_permutation,
                 dartquant_misaligned);
  checks.require(cols <= std::numeric_limits<std::int32_t>::max(), dartquant_arg_permutation,
                 dartquant_overflow);
  if (!checks.ok()) return;
  bool inside = true;
  for (std::int64_t j = 0; j < cols; ++j) inside &= permutation[j] >= 0 && permutation[j] < cols;
  checks.require(inside, dartquant_arg_permutation, dartquant_bad_value);
}

}  // namespace

WorkspaceLayout workspace_layout(std::int64_t cols) {
  std::int64_t const rows = std::max<std::int64_t>(1, batch_values / cols);
  Size const buffer = (Size(rows) * cols * 4).round_up(dartquant_alignment);
  Size const levels = buffer + (Size(cols) * 4).round_up(dartquant_alignment);
  Size const bytes = levels + (Size(rows) * cols).round_up(dartquant_alignment);
  return {rows, buffer.value(), levels.value(), bytes.value(), bytes.ok()};
}

Workspace workspace_at(void* workspace, std::int64_t cols) {
  WorkspaceLayout const layout = workspace_layout(cols);
  auto* const bytes = static_cast<std::uint8_t*>(workspace);
  return {layout.rows, reinterpret_cast<float*>(bytes), reinterpret_cast<float*>(bytes + layout.buffer),
          reinterpret_cast<std::int8_t*>(bytes + layout.levels)};
}

Plan plan_of(dartquant_transform const* transform) {
  Plan plan;
  if (transform == nullptr) return plan;
  plan.permutation = transform->permutation;
  if (transform->block == 0) return plan;
  plan.base = transform->base;
  if (plan.base != nullptr) plan.order = transform->base_order;
  plan.length = transform->block / plan.order;
  plan.factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(transform->block)));
  return plan;
}

void check(Checks& checks, dartquant_transform const* transform, std::int64_t cols) {
  if (transform == nullptr) return;
  check_permutation(checks, transform->permutation, cols);
  checks.require(transform->block >= 0, dartquant_arg_block, dartquant_bad_size);
  if (!checks.ok() || transform->block == 0) return;
  check_base(checks, *transform);
  if (!checks.ok()) return;
  std::int64_t const order = transform->base != nullptr ? transform->base_order : 1;
  std::int64_t const length = transform->block / order;
  checks.require(transform->block % order == 0 && (length & (length - 1)) == 0 && length <= largest_length,
                 dartquant_arg_block, dartquant_unsupported);
  checks.require(cols % transform->block == 0, dartquant_arg_block, dartquant_bad_size);
}

RowKernels const* checked_kernels(Checks& checks, dartquant_cpu const* cpu) {
  checks.pointer(cpu, alignof(dartquant_cpu), dartquant_arg_cpu);
  RowKernels const* const kernels = checks.ok() ? kernels_of(cpu).rows : nullptr;
  checks.require(kernels != nullptr, dartquant_arg_cpu, dartquant_unsupported);
  return kernels;
}

void check_workspace(Checks& checks, std::int64_t cols, void const* workspace, std::size_t bytes) {
  WorkspaceLayout const layout = workspace_layout(cols);
  checks.require(layout.fits, dartquant_arg_cols, dartquant_overflow);
  checks.buffer(workspace, bytes, static_cast<std::size_t>(layout.bytes), dartquant_arg_workspace);
}

bool same_or_disjoint(dartquant_matrix const& x, dartquant_matrix const& y) {
  if (same(x, y)) return true;
  std::int64_t const x_row = x.cols * element_bytes(x.type), y_row = y.cols * element_bytes(y.type);
  std::int64_t const x_stride = x.stride * element_bytes(x.type), y_stride = y.stride * element_bytes(y.type);
  auto const x_first = reinterpret_cast<std::uintptr_t>(x.data);
  auto const y_first = reinterpret_cast<std::uintptr_t>(y.data);
  auto const x_bytes = static_cast<std::uintptr_t>((x.rows - 1) * x_stride + x_row);
  auto const y_bytes = static_cast<std::uintptr_t>((y.rows - 1) * y_stride + y_row);
  if (x_first + x_bytes <= y_first || y_first + y_bytes <= x_first) return true;
  if (x_stride != y_stride) return false;
  auto const stride = static_cast<std::uintptr_t>(x_stride);
  std::uintptr_t const behind = y_first >= x_first ? (y_first - x_first) % stride  // of y's rows behind x's
                                                   : (stride - (x_first - y_first) % stride) % stride;
  return behind >= static_cast<std::uintptr_t>(x_row) &&
         behind + static_cast<std::uintptr_t>(y_row) <= stride;
}

}  // namespace dartquant::cpu
