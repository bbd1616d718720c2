// SPDX-License-Identifier: Apache-2.0
// The products of quantized activations, which are brought into the form that the kernels take.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/detect.hpp"
#include "cpu/products.hpp"

namespace dartquant::cpu {
namespace {

/// scratch | rows of x | sums | zero points.
struct Workspace {
  std::int64_t rows, stride;  ///< rows of a block and elements of each
  std::int64_t x, sums, zero_points;
  Size bytes{0};
};

Workspace workspace_of(PackedShape const& shape, dartquant_weights const& weights, std::int64_t tokens) {
  Workspace w{};
  w.rows = std::min(tokens, row_block);
  w.stride = row_stride(weights);
  Size const cells = Size(w.rows) * shape.groups * 4;
  Layout layout;
  w.x = layout.take(Size(w.rows) * w.stride);
  w.sums = layout.take(cells);
  w.zero_points = layout.take(cells);
  w.bytes = layout.end();
  return w;
}

/// One row of activations as int8 [stride], zeros behind the channels, with its sums and what is left of its
/// zero points: 4-bit levels become level - zero_point; 8-bit unsigned ones become level - 128.
void prepare_row(RowKernels const& kernels, dartquant_quantized const& q, PackedShape const& shape,
                 std::int64_t row, std::int64_t stride, std::int8_t* x, std::int32_t* sums,
                 std::int32_t* zero_points) {
  auto const* const levels = static_cast<std::uint8_t const*>(q.levels) + row * q.level_stride;
  bool const is_signed = q.symmetry == dartquant_symmetric;
  if (q.bits == 4) kernels.unpack_nibbles(levels, q.cols, is_signed, x);
  else std::memcpy(x, levels, static_cast<std::size_t>(q.cols));
  std::memset(x + q.cols, 0, static_cast<std::size_t>(stride - q.cols));
  bool const per_group = groups_of(q) > 1;
  for (std::int64_t group = 0; group < shape.groups; ++group) {
    std::int8_t* const first = x + group * shape.width;
    std::int64_t const count = std::min(shape.width, q.cols - group * shape.width);
    std::int32_t left = 0;
    if (!is_signed) {
      std::int32_t const zero = q.zero_points[row * q.zero_point_stride + (per_group ? group : 0)];
      int const shift = q.bits == 4 ? zero : 128;
      for (std::int64_t j = 0; j < count; ++j) first[j] = static_cast<std::int8_t>(first[j] - shift);
      left = zero - shift;
    }
    sums[group] = kernels.sum(first, count);
    zero_points[group] = left;
  }
}

void check_activations(Checks& checks, dartquant_weights const& weights, dartquant_quantized const& x) {
  std::int64_t const width = weights.group == 0 || weights.group > weights.in ? weights.in : weights.group;
  checks.require(group_width(x) == x.cols || group_width(x) == width, dartquant_arg_group,
                 dartquant_unsupported);
  if (!checks.ok() || x.symmetry == dartquant_symmetric) return;
  checks.require(x.bits == 4 || weights.with_sums != 0, dartquant_arg_weights, dartquant_unsupported);
  checks.require(zero_points_in_range(x), dartquant_arg_zero_points, dartquant_bad_value);
  // The largest sum of a group, 255 times 15 for every channel, must fit into 32 bits.
  if (x.bits == 8 && weights.symmetry == dartquant_asymmetric)
    checks.require(width <= INT32_MAX / (255 * 15), dartquant_arg_group, dartquant_overflow);
}

}  // namespace

void check_product(Checks& checks, dartquant_weights const& weights, void const* packed,
                   std::size_t packed_bytes, std::int64_t tokens, std::int64_t channels, float const* bias,
                   dartquant_matrix const* y) {
  check(checks, y, dartquant_arg_y);
  if (!checks.ok()) return;
  checks.require(y->type == dartquant_float32, dartquant_arg_type, dartquant_unsupported);
  checks.require(y->rows == tokens, dartquant_arg_rows, dartquant_bad_size);
  checks.require(y->cols == weights.out, dartquant_arg_cols, dartquant_bad_size);
  checks.require(channels == weights.in, dartquant_arg_cols, dartquant_bad_size);
  checks.require(aligned(bias, alignof(float)), dartquant_arg_bias, dartquant_misaligned);
  PackedShape const shape = packed_shape(weights);
  checks.buffer(packed, packed_bytes, static_cast<std::size_t>(shape.bytes), dartquant_arg_packed);
  if (checks.ok())
    checks.require(header_matches(weights, shape, packed), dartquant_arg_packed, dartquant_mismatch);
}

}  // namespace dartquant::cpu

using namespace dartquant::cpu;

dartquant_status dartquant_matmul_workspace_size(dartquant_weights const* weights, std::int64_t tokens,
                                                 std::int32_t x_bits, std::size_t* bytes) {
  std::size_t packed = 0;
  if (dartquant_status const bad = dartquant_packed_size(weights, &packed); bad != 0) return bad;
  Checks checks;
  checks.require(tokens >= 1, dartquant_arg_rows, dartquant_bad_size);
  checks.require(x_bits == 4 || x_bits == 8 || x_bits == 16 || x_bits == 32, dartquant_arg_bits,
                 dartquant_unsupported);
  if (!checks.pointer(bytes, alignof(std::size_t), dartquant_arg_bytes).ok()) return checks.result();
  Size const size = x_bits <= 8 ? workspace_of(packed_shape(*weights), *weights, tokens).bytes
                                : float_workspace(*weights, tokens);
  if (!checks.require(size.ok(), dartquant_arg_weights, dartquant_overflow).ok()) return checks.result();
  *bytes = static_cast<std::size_t>(size.value());
  return 0;
}

dartquant_status dartquant_matmul(dartquant_cpu const* cpu, dartquant_weights const* weights,
                                  void const* packed, std::size_t packed_bytes, dartquant_quantized const* x,
                                  float const* bias, dartquant_matrix const* y, void* workspace,
                                  std::size_t workspace_bytes, std::int64_t part, std::int64_t parts) {
  Checks checks;
  checks.pointer(cpu, alignof(dartquant_cpu), dartquant_arg_cpu);
  Kernels const kernels = checks.ok() ? kernels_of(cpu) : Kernels{};
  checks.require(kernels.rows != nullptr, dartquant_arg_cpu, dartquant_unsupported);
  check(checks, x);
  if (!checks.ok()) return checks.result();
  std::size_t needed = 0;
  if (dartquant_status const bad = dartquant_matmul_workspace_size(weights, x->rows, x->bits, &needed);
      bad != 0)
    return bad;
  check_product(checks, *weights, packed, packed_bytes, x->rows, x->cols, bias, y);
  checks.buffer(workspace, workspace_bytes, needed, dartquant_arg_workspace).part(part, parts);
  if (checks.ok()) check_activations(checks, *weights, *x);
  if (!checks.ok()) return checks.result();

  PackedShape const shape = packed_shape(*weights);
  Workspace const space = workspace_of(shape, *weights, x->rows);
  Region const region = region_of(shape.panels, x->rows, part, parts);
  auto* const bytes = static_cast<std::uint8_t*>(workspace);
  auto* const levels = reinterpret_cast<std::int8_t*>(bytes + space.x);
  auto* const sums = reinterpret_cast<std::int32_t*>(bytes + space.sums);
  auto* const zero_points = reinterpret_cast<std::int32_t*>(bytes + space.zero_points);
  std::int64_t const column = region.panels.first * panel_cols;
  Product p{};
  p.w = panels_of(*weights, shape, packed, region.panels.first, region.panels.last);
  p.cols = std::min(weights->out, region.panels.last * panel_cols) - column;
  p.bias = bias == nullptr ? nullptr : bias + column;
  p.y_stride = y->stride;
  p.scratch = bytes;
  p.x = levels;
  p.x_stride = space.stride;
  p.x_sums = sums;
  p.x_zero_points = x->bits == 8 && x->symmetry == dartquant_asymmetric ? zero_points : nullptr;
  p.x_scale_stride = x->scale_stride;
  p.scales_per_group = groups_of(*x) > 1;
  if (p.w.count == 0) return 0;
  for (std::int64_t row = region.rows.first; row < region.rows.last; row += space.rows) {
    p.rows = std::min(space.rows, region.rows.last - row);
    for (std::int64_t i = 0; i < p.rows; ++i)
      prepare_row(*kernels.rows, *x, shape, row + i, space.stride, levels + i * space.stride,
                  sums + i * shape.groups, zero_points + i * shape.groups);
    p.x_scales = x->scales + row * x->scale_stride;
    p.y = static_cast<float*>(y->data) + row * y->stride + column;
    kernels.products->multiply(&p);
  }
  return 0;
}
