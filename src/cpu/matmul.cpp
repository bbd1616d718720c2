// SPDX-License-Identifier: Apache-2.0
// The products: checks, shares of the work, and activations brought into the form that the kernels take.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include <dartquant/kernels.h>

#include "cpu/detect.hpp"
#include "cpu/kernel_table.hpp"
#include "cpu/packed_weights.hpp"
#include "cpu/status.hpp"

namespace dartquant::cpu {
namespace {

/// The part of Y that one call computes: panels of columns and rows.
struct Region {
  Share panels, rows;
};

/// Columns are shared out first, so that every weight is read by one part; rows where there are more parts
/// than panels.
Region region_of(std::int64_t panels, std::int64_t rows, std::int64_t part, std::int64_t parts) {
  std::int64_t const across = std::min(panels, parts), down = std::max<std::int64_t>(1, parts / across);
  if (part >= across * down) return {{0, 0}, {0, 0}};
  return {share(panels, part % across, across), share(rows, part / across, down)};
}

/// The workspace of a product: scratch | rows of x | sums | zero points.
struct Workspace {
  std::int64_t rows, stride;  ///< rows of a block and elements of each
  std::int64_t x, sums, zero_points, bytes;
  bool fits;
};

Workspace workspace_of(PackedShape const& shape, dartquant_weights const& weights, std::int64_t tokens,
                       std::int32_t x_bits) {
  bool const integers = x_bits <= 8;
  Workspace w{};
  w.rows = std::min(tokens, integers ? row_block : float_row_block);
  // An odd number of units of 64: rows a power of two apart would all fall into the same sets of the caches.
  w.stride = Size(weights.in).round_up(64).value() | 64;  // in <= 2^20
  Size const x = Size(static_cast<std::int64_t>(scratch_bytes));
  Size const sums = x + Size(w.rows) * w.stride * (integers ? 1 : 4);
  std::int64_t const cells = integers ? shape.groups * 4 : 0;
  Size const zero_points = sums + (Size(w.rows) * cells).round_up(64);
  Size const end = zero_points + (Size(w.rows) * cells).round_up(64);
  w.x = x.value();
  w.sums = sums.value();
  w.zero_points = zero_points.value();
  w.bytes = end.value();
  w.fits = end.ok();
  return w;
}

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

/// Where the weights, the bias and the columns of Y of a region lie, for both kinds of products.
template <class AnyProduct>
void place(AnyProduct& p, dartquant_weights const& weights, PackedShape const& shape, void const* packed,
           Region const& region, float const* bias, dartquant_matrix const& y, std::uint8_t* scratch) {
  std::int64_t const first = region.panels.first * panel_cols;
  p.w = panels_of(weights, shape, packed, region.panels.first, region.panels.last);
  p.cols = std::min(weights.out, region.panels.last * panel_cols) - first;
  p.bias = bias == nullptr ? nullptr : bias + first;
  p.y_stride = y.stride;
  p.scratch = scratch;
}

}  // namespace
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
  Workspace const workspace = workspace_of(packed_shape(*weights), *weights, tokens, x_bits);
  if (!checks.require(workspace.fits, dartquant_arg_weights, dartquant_overflow).ok()) return checks.result();
  *bytes = static_cast<std::size_t>(workspace.bytes);
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
  Workspace const space = workspace_of(shape, *weights, x->rows, x->bits);
  Region const region = region_of(shape.panels, x->rows, part, parts);
  auto* const bytes = static_cast<std::uint8_t*>(workspace);
  auto* const levels = reinterpret_cast<std::int8_t*>(bytes + space.x);
  auto* const sums = reinterpret_cast<std::int32_t*>(bytes + space.sums);
  auto* const zero_points = reinterpret_cast<std::int32_t*>(bytes + space.zero_points);
  Product p{};
  place(p, *weights, shape, packed, region, bias, *y, bytes);
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
    p.y = static_cast<float*>(y->data) + row * y->stride + region.panels.first * panel_cols;
    kernels.products->multiply(&p);
  }
  return 0;
}

dartquant_status dartquant_matmul_float(dartquant_cpu const* cpu, dartquant_weights const* weights,
                                        void const* packed, std::size_t packed_bytes,
                                        dartquant_matrix const* x, float const* bias,
                                        dartquant_matrix const* y, void* workspace,
                                        std::size_t workspace_bytes, std::int64_t part, std::int64_t parts) {
  Checks checks;
  checks.pointer(cpu, alignof(dartquant_cpu), dartquant_arg_cpu);
  Kernels const kernels = checks.ok() ? kernels_of(cpu) : Kernels{};
  checks.require(kernels.rows != nullptr, dartquant_arg_cpu, dartquant_unsupported);
  check(checks, x, dartquant_arg_x);
  if (!checks.ok()) return checks.result();
  std::size_t needed = 0;
  if (dartquant_status const bad = dartquant_matmul_workspace_size(weights, x->rows, 32, &needed); bad != 0)
    return bad;
  check_product(checks, *weights, packed, packed_bytes, x->rows, x->cols, bias, y);
  checks.buffer(workspace, workspace_bytes, needed, dartquant_arg_workspace).part(part, parts);
  if (!checks.ok()) return checks.result();

  PackedShape const shape = packed_shape(*weights);
  Workspace const space = workspace_of(shape, *weights, x->rows, 32);
  Region const region = region_of(shape.panels, x->rows, part, parts);
  auto* const bytes = static_cast<std::uint8_t*>(workspace);
  auto* const values = reinterpret_cast<float*>(bytes + space.x);
  FloatProduct p{};
  place(p, *weights, shape, packed, region, bias, *y, bytes);
  p.x = values;
  p.x_stride = space.stride;
  if (p.w.count == 0) return 0;
  for (std::int64_t row = region.rows.first; row < region.rows.last; row += space.rows) {
    p.rows = std::min(space.rows, region.rows.last - row);
    for (std::int64_t i = 0; i < p.rows; ++i) {
      float* const to = values + i * space.stride;
      auto const* const from =
          static_cast<std::uint8_t const*>(x->data) + (row + i) * x->stride * element_bytes(x->type);
      kernels.rows->load(static_cast<Type>(x->type), from, nullptr, to, x->cols);
      std::memset(to + x->cols, 0, static_cast<std::size_t>(space.stride - x->cols) * sizeof(float));
    }
    p.y = static_cast<float*>(y->data) + row * y->stride + region.panels.first * panel_cols;
    kernels.products->multiply_float(&p);
  }
  return 0;
}
