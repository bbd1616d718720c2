// SPDX-License-Identifier: Apache-2.0
// The product of float activations: every row becomes three rows of bytes, the digits of its values in base
// 256, which the kernels multiply as they do any other levels. What is left to add up are three floats.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "cpu/detect.hpp"
#include "cpu/products.hpp"

namespace dartquant::cpu {
namespace {

constexpr std::int64_t digit_rows = 3;             ///< of a row of X
constexpr std::int64_t largest_digits = 0x7F7F7F;  ///< 127 in every place
constexpr std::int64_t partial_results = 32768;    ///< floats, at home in the second-level cache

/// scratch | digits | sums | top units | results of the digits | one row of X.
struct FloatWorkspace {
  std::int64_t tokens;  ///< of a block; blocks are of nearly equal heights
  std::int64_t stride;
  std::int64_t panels;  ///< whose results lie side by side
  std::int64_t digits, sums, tops, results, values;
  Size bytes{0};
};

FloatWorkspace float_workspace_of(PackedShape const& shape, dartquant_weights const& weights,
                                  std::int64_t tokens) {
  constexpr std::int64_t most = row_block / digit_rows;
  FloatWorkspace w{};
  std::int64_t const blocks = (tokens - 1) / most + 1;
  w.tokens = (tokens - 1) / blocks + 1;
  w.stride = row_stride(weights);
  std::int64_t const rows = w.tokens * digit_rows;
  w.panels = std::max<std::int64_t>(2, partial_results / (rows * panel_cols) / 2 * 2);  // kernels take pairs
  w.panels = std::min(w.panels, shape.panels);
  Layout layout;
  w.digits = layout.take(Size(rows) * w.stride);
  w.sums = layout.take(Size(rows) * shape.groups * 4);
  w.tops = layout.take(Size(w.tokens) * 4);
  w.results = layout.take(Size(rows) * w.panels * panel_cols * 4);
  w.values = layout.take(Size(w.stride) * 4);
  w.bytes = layout.end();
  return w;
}

/// The unit of the last digit, a power of two such that no value needs more than largest_digits of them, as
/// its exponent. Every float is a multiple of 2^-149.
int unit_exponent(float largest) {
  int exponent = 0;
  static_cast<void>(std::frexp(largest, &exponent));  // largest < 2^exponent
  exponent -= 23;
  if (std::ldexp(static_cast<double>(largest), -exponent) > static_cast<double>(largest_digits)) ++exponent;
  return std::max(exponent, -149);
}

/// One row of X as three rows of digits [stride], zeros behind the channels, with the sums of their groups;
/// the result is the unit of the top digits, or NaN where a value is not finite.
float split_row(RowKernels const& kernels, PackedShape const& shape, float const* x, std::int64_t channels,
                std::int64_t stride, std::int8_t* digits, std::int32_t* sums) {
  Range const range = kernels.range(x, channels);
  if (!range.finite) {
    std::memset(digits, 0, static_cast<std::size_t>(digit_rows * stride));
    std::memset(sums, 0, static_cast<std::size_t>(digit_rows * shape.groups) * sizeof *sums);
    return std::numeric_limits<float>::quiet_NaN();
  }
  float const largest = std::max(-range.min, range.max);
  int const exponent = largest > 0 ? unit_exponent(largest) : 0;
  // Two powers of two: 2^149 is no float.
  kernels.digits(x, channels, std::ldexp(1.0F, -exponent / 2), std::ldexp(1.0F, -exponent - -exponent / 2),
                 digits, digits + stride, digits + 2 * stride);
  for (std::int64_t place = 0; place < digit_rows; ++place) {
    std::int8_t* const row = digits + place * stride;
    std::memset(row + channels, 0, static_cast<std::size_t>(stride - channels));
    for (std::int64_t group = 0; group < shape.groups; ++group)
      sums[place * shape.groups + group] =
          kernels.sum(row + group * shape.width, std::min(shape.width, channels - group * shape.width));
  }
  return std::ldexp(1.0F, exponent + 16);
}

/// y = (high + (middle + low / 256) / 256) top + bias, the digits' results [3, stride].
void combine(float const* results, std::int64_t stride, float top, float const* bias, std::int64_t cols,
             float* y) {
  float const *const high = results, *const middle = results + stride, *const low = results + 2 * stride;
  constexpr float digit = 1.0F / 256;
  if (bias == nullptr)
    for (std::int64_t c = 0; c < cols; ++c) y[c] = (high[c] + (middle[c] + low[c] * digit) * digit) * top;
  else
    for (std::int64_t c = 0; c < cols; ++c)
      y[c] = (high[c] + (middle[c] + low[c] * digit) * digit) * top + bias[c];
}

}  // namespace

Size float_workspace(dartquant_weights const& weights, std::int64_t tokens) {
  return float_workspace_of(packed_shape(weights), weights, tokens).bytes;
}

}  // namespace dartquant::cpu

using namespace dartquant::cpu;

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
  FloatWorkspace const space = float_workspace_of(shape, *weights, x->rows);
  Region const region = region_of(shape.panels, x->rows, part, parts);
  auto* const bytes = static_cast<std::uint8_t*>(workspace);
  auto* const digits = reinterpret_cast<std::int8_t*>(bytes + space.digits);
  auto* const sums = reinterpret_cast<std::int32_t*>(bytes + space.sums);
  auto* const tops = reinterpret_cast<float*>(bytes + space.tops);
  auto* const results = reinterpret_cast<float*>(bytes + space.results);
  auto* const values = reinterpret_cast<float*>(bytes + space.values);
  float const one = 1;
  Product p{};
  p.x = digits;
  p.x_stride = space.stride;
  p.x_sums = sums;
  p.x_scales = &one;  // of every row
  p.scratch = bytes;
  p.y = results;
  p.y_stride = space.panels * panel_cols;
  for (std::int64_t row = region.rows.first; row < region.rows.last; row += space.tokens) {
    std::int64_t const tokens = std::min(space.tokens, region.rows.last - row);
    for (std::int64_t i = 0; i < tokens; ++i) {
      auto const* const from =
          static_cast<std::uint8_t const*>(x->data) + (row + i) * x->stride * element_bytes(x->type);
      kernels.rows->load(static_cast<Type>(x->type), from, nullptr, values, x->cols);
      tops[i] = split_row(*kernels.rows, shape, values, x->cols, space.stride,
                          digits + i * digit_rows * space.stride, sums + i * digit_rows * shape.groups);
    }
    p.rows = tokens * digit_rows;
    for (std::int64_t first = region.panels.first; first < region.panels.last; first += space.panels) {
      std::int64_t const last = std::min(first + space.panels, region.panels.last),
                         column = first * panel_cols;
      p.w = panels_of(*weights, shape, packed, first, last);
      p.cols = std::min(weights->out, last * panel_cols) - column;
      kernels.products->multiply(&p);
      for (std::int64_t i = 0; i < tokens; ++i)
        combine(results + i * digit_rows * p.y_stride, p.y_stride, tops[i],
                bias == nullptr ? nullptr : bias + column, p.cols,
                static_cast<float*>(y->data) + (row + i) * y->stride + column);
    }
  }
  return 0;
}
