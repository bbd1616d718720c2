// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the calls on rows work with: the workspace, and transforms that were checked.

#include <cstdint>

#include <dartquant/kernels.h>

#include "cpu/kernel_table.hpp"
#include "cpu/status.hpp"

namespace dartquant::cpu {

/// The workspace: values [rows, cols] | the base's buffer [cols] | levels [rows, cols].
struct WorkspaceLayout {
  std::int64_t rows;  ///< that are worked on at a time
  std::int64_t buffer, levels, bytes;
  bool fits;
};
[[nodiscard]] WorkspaceLayout workspace_layout(std::int64_t cols);

struct Workspace {
  std::int64_t rows;
  float *values, *buffer;
  std::int8_t* levels;
};
[[nodiscard]] Workspace workspace_at(void* workspace, std::int64_t cols);

/// A transform that was checked: blocks of order * length channels, then one factor for every value.
struct Plan {
  std::int32_t const* permutation = nullptr;
  std::int8_t const* base = nullptr;
  std::int64_t order = 1, length = 1;
  float factor = 1;
};
[[nodiscard]] Plan plan_of(dartquant_transform const* transform);

/// A transform of rows of `cols` channels; null is right.
void check(Checks& checks, dartquant_transform const* transform, std::int64_t cols);
void check_workspace(Checks& checks, std::int64_t cols, void const* workspace, std::size_t bytes);
/// The kernels that `cpu` chose; null after a failed check.
[[nodiscard]] RowKernels const* checked_kernels(Checks& checks, dartquant_cpu const* cpu);

[[nodiscard]] inline std::uint8_t* row_of(dartquant_matrix const& matrix, std::int64_t row) {
  return static_cast<std::uint8_t*>(matrix.data) + row * matrix.stride * element_bytes(matrix.type);
}
[[nodiscard]] inline bool same(dartquant_matrix const& x, dartquant_matrix const& y) {
  return x.data == y.data && x.type == y.type && (x.stride == y.stride || x.rows == 1);
}
/// Whether two matrices of equal shape are the same or have no byte in common. Rows may lie between the rows
/// of the other where both strides are the same number of bytes.
[[nodiscard]] bool same_or_disjoint(dartquant_matrix const& x, dartquant_matrix const& y);

}  // namespace dartquant::cpu
