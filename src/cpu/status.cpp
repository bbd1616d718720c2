// SPDX-License-Identifier: Apache-2.0
#include "cpu/status.hpp"

#include <cstdint>

namespace dartquant::cpu {
namespace {

/// The bytes from the first to the last element of rows of `row` bytes fit into ptrdiff_t.
bool spans(std::int64_t rows, std::int64_t stride_bytes_each, Size stride) {
  Size const bytes = Size(rows) * stride * stride_bytes_each;
  return bytes.ok() && static_cast<std::uint64_t>(bytes.value()) <= PTRDIFF_MAX;
}

}  // namespace

void check(Checks& checks, dartquant_matrix const* matrix, dartquant_argument argument) {
  if (!checks.require(matrix != nullptr, argument, dartquant_null).ok()) return;
  std::int32_t const type = number_of(matrix->type);
  checks.require(type >= dartquant_float32 && type <= dartquant_bfloat16, dartquant_arg_type,
                 dartquant_bad_value);
  checks.require(matrix->rows >= 1, dartquant_arg_rows, dartquant_bad_size);
  checks.require(matrix->cols >= 1, dartquant_arg_cols, dartquant_bad_size);
  checks.require(matrix->stride >= matrix->cols, dartquant_arg_stride, dartquant_bad_size);
  if (!checks.ok()) return;
  std::int64_t const size = element_bytes(matrix->type);
  checks.require(spans(matrix->rows, size, matrix->stride), argument, dartquant_overflow);
  checks.pointer(matrix->data, static_cast<std::size_t>(size), argument);
}

void check(Checks& checks, dartquant_quantized const* q) {
  if (!checks.require(q != nullptr, dartquant_arg_levels, dartquant_null).ok()) return;
  checks.require(q->rows >= 1, dartquant_arg_rows, dartquant_bad_size);
  checks.require(q->cols >= 1, dartquant_arg_cols, dartquant_bad_size);
  checks.require(q->bits == 4 || q->bits == 8, dartquant_arg_bits, dartquant_unsupported);
  std::int32_t const symmetry = number_of(q->symmetry);
  checks.require(symmetry == dartquant_symmetric || symmetry == dartquant_asymmetric, dartquant_arg_symmetry,
                 dartquant_bad_value);
  checks.require(q->group >= 0, dartquant_arg_group, dartquant_bad_size);
  if (!checks.ok()) return;
  checks.require(q->level_stride >= row_bytes(*q), dartquant_arg_levels, dartquant_bad_size);
  checks.require(spans(q->rows, 1, q->level_stride), dartquant_arg_levels, dartquant_overflow);
  checks.pointer(q->levels, 1, dartquant_arg_levels);
  checks.require(q->scale_stride >= groups_of(*q), dartquant_arg_scales, dartquant_bad_size);
  checks.require(spans(q->rows, 4, q->scale_stride), dartquant_arg_scales, dartquant_overflow);
  checks.pointer(q->scales, alignof(float), dartquant_arg_scales);
  if (q->symmetry == dartquant_symmetric) return;
  checks.require(q->zero_point_stride >= groups_of(*q), dartquant_arg_zero_points, dartquant_bad_size);
  checks.require(spans(q->rows, 4, q->zero_point_stride), dartquant_arg_zero_points, dartquant_overflow);
  checks.pointer(q->zero_points, alignof(std::int32_t), dartquant_arg_zero_points);
}

void check(Checks& checks, dartquant_weights const* weights) {
  constexpr std::int64_t most_inputs = std::int64_t{1} << 20;
  if (!checks.require(weights != nullptr, dartquant_arg_weights, dartquant_null).ok()) return;
  checks.require(weights->out >= 1, dartquant_arg_rows, dartquant_bad_size);
  checks.require(weights->in >= 1, dartquant_arg_cols, dartquant_bad_size);
  checks.require(weights->in <= most_inputs, dartquant_arg_cols, dartquant_overflow);
  checks.require(weights->group >= 0 && weights->group % 8 == 0, dartquant_arg_group, dartquant_unsupported);
  std::int32_t const symmetry = number_of(weights->symmetry);
  checks.require(symmetry == dartquant_symmetric || symmetry == dartquant_asymmetric, dartquant_arg_symmetry,
                 dartquant_bad_value);
  checks.require(weights->with_sums == 0 || weights->with_sums == 1, dartquant_arg_weights,
                 dartquant_bad_value);
}

bool zero_points_in_range(dartquant_quantized const& q) {
  if (q.symmetry == dartquant_symmetric) return true;
  std::int32_t const highest = q.bits == 4 ? 15 : 255;
  std::int64_t const groups = groups_of(q);
  for (std::int64_t i = 0; i < q.rows; ++i)
    for (std::int64_t g = 0; g < groups; ++g) {
      std::int32_t const zero = q.zero_points[i * q.zero_point_stride + g];
      if (zero < 0 || zero > highest) return false;
    }
  return true;
}

}  // namespace dartquant::cpu

dartquant_reason dartquant_status_reason(dartquant_status status) {
  return static_cast<dartquant_reason>(status & 0xFF);
}

dartquant_argument dartquant_status_argument(dartquant_status status) {
  return static_cast<dartquant_argument>(status >> 8);
}

char const* dartquant_reason_text(dartquant_reason reason) {
  switch (reason) {
    case dartquant_done:
      return "done";
    case dartquant_null:
      return "is null";
    case dartquant_misaligned:
      return "is not aligned as its type or the contract demands";
    case dartquant_bad_size:
      return "is zero, negative, too small, or does not fit the other sizes";
    case dartquant_overflow:
      return "is so large that bytes or sums could overflow";
    case dartquant_too_small:
      return "has fewer bytes than the matching size call says";
    case dartquant_unsupported:
      return "is not available on this machine or in this build, or is no such format";
    case dartquant_bad_value:
      return "is outside the documented values";
    case dartquant_not_finite:
      return "holds a NaN or an infinity";
    case dartquant_mismatch:
      return "is not what the description says";
    case dartquant_device_error:
      return "was refused by the CUDA runtime";
  }
  return "has an unknown status";
}

char const* dartquant_argument_text(dartquant_argument argument) {
  static constexpr char const* names[] = {
      "nothing", "cpu",      "isa",   "x",          "y",         "levels",      "scales", "zero_points",
      "weights", "packed",   "bias",  "workspace",  "transform", "permutation", "block",  "base",
      "bits",    "symmetry", "group", "clip_ratio", "type",      "rows",        "cols",   "stride",
      "part",    "bytes",    "order", "stream",     "norm"};
  auto const index = static_cast<std::size_t>(argument);
  return index < sizeof(names) / sizeof(names[0]) ? names[index] : "unknown";
}
