// SPDX-License-Identifier: Apache-2.0
// The arguments of the calls on rows, and the C calls.

#include <cmath>
#include <cstdint>
#include <limits>

#include <dartquant/cuda/kernels.h>
#include <dartquant/cuda/error.hpp>

#include "cpu/rows_plan.hpp"
#include "cpu/status.hpp"
#include "row_launch.hpp"

namespace dartquant::cuda {
namespace {

using cpu::aligned;
using cpu::Checks;
using cpu::number_of;

/// As the check of kernels.h but for what lies in device memory.
void check_transform(Checks& checks, dartquant_transform const* transform, std::int64_t cols) {
  constexpr std::int64_t largest_length = 1 << 15, largest_order = 1024;
  if (!checks.ok() || transform == nullptr) return;
  checks.require(aligned(transform->permutation, alignof(std::int32_t)), dartquant_arg_permutation,
                 dartquant_misaligned);
  checks.require(transform->permutation == nullptr || cols <= std::numeric_limits<std::int32_t>::max(),
                 dartquant_arg_permutation, dartquant_overflow);
  checks.require(transform->block >= 0, dartquant_arg_block, dartquant_bad_size);
  if (!checks.ok() || transform->block == 0) return;
  bool const has_base = transform->base != nullptr;
  checks.require(has_base || transform->base_order <= 1, dartquant_arg_base, dartquant_null);
  checks.require(transform->base_order >= (has_base ? 1 : 0), dartquant_arg_base, dartquant_bad_size);
  checks.require(transform->base_order <= largest_order, dartquant_arg_base, dartquant_unsupported);
  if (!checks.ok()) return;
  std::int64_t const order = has_base ? transform->base_order : 1, length = transform->block / order;
  checks.require(transform->block % order == 0 && (length & (length - 1)) == 0 && length <= largest_length,
                 dartquant_arg_block, dartquant_unsupported);
  checks.require(cols % transform->block == 0, dartquant_arg_block, dartquant_bad_size);
}

void check_norm(Checks& checks, dartquant_norm const* norm) {
  if (!checks.ok() || norm == nullptr) return;
  std::int32_t const type = number_of(norm->gain_type);
  checks.require(type >= dartquant_float32 && type <= dartquant_bfloat16, dartquant_arg_type,
                 dartquant_bad_value);
  checks.require(norm->epsilon >= 0 && std::isfinite(norm->epsilon), dartquant_arg_norm, dartquant_bad_value);
  if (!checks.ok()) return;
  auto const size = static_cast<std::size_t>(cpu::element_bytes(norm->gain_type));
  checks.require(aligned(norm->gain, size), dartquant_arg_norm, dartquant_misaligned);
}

/// Runs what may throw on behalf of a C caller.
template <class Call>
[[nodiscard]] dartquant_status run(Call const& call) {
  try {
    return call();
  } catch (...) {
    return cpu::status(dartquant_arg_stream, dartquant_device_error);
  }
}

[[nodiscard]] dartquant_status enqueue(void* stream, RowCall const& call) {
  dartquant_status const wrong = check_transform_call(call);
  if (wrong != 0) return wrong;
  return run([&] {
    auto const plan = plan_of(call);
    if (!plan) return cpu::status(dartquant_arg_cols, dartquant_unsupported);
    launch_transform(static_cast<cudaStream_t>(stream), call, *plan);
    return dartquant_status{0};
  });
}

}  // namespace

dartquant_status check_transform_call(RowCall const& call) {
  Checks checks;
  check(checks, call.x, dartquant_arg_x);
  if (call.q != nullptr) {
    checks.require(call.clip_ratio > 0 && call.clip_ratio <= 1, dartquant_arg_clip_ratio,
                   dartquant_bad_value);
    check(checks, call.q);
    if (!checks.ok()) return checks.result();
    checks.require(call.x->rows == call.q->rows, dartquant_arg_rows, dartquant_bad_size);
    checks.require(call.x->cols == call.q->cols, dartquant_arg_cols, dartquant_bad_size);
  } else {
    check(checks, call.y, dartquant_arg_y);
    if (!checks.ok()) return checks.result();
    checks.require(call.x->rows == call.y->rows, dartquant_arg_rows, dartquant_bad_size);
    checks.require(call.x->cols == call.y->cols, dartquant_arg_cols, dartquant_bad_size);
    if (checks.ok())
      checks.require(cpu::same_or_disjoint(*call.x, *call.y), dartquant_arg_y, dartquant_bad_value);
  }
  check_norm(checks, call.norm);
  if (checks.ok()) check_transform(checks, call.transform, call.x->cols);
  return checks.result();
}

dartquant_status check_dequantize_call(dartquant_quantized const* q, dartquant_matrix const* y) {
  Checks checks;
  check(checks, q);
  check(checks, y, dartquant_arg_y);
  if (!checks.ok()) return checks.result();
  checks.require(q->rows == y->rows, dartquant_arg_rows, dartquant_bad_size);
  checks.require(q->cols == y->cols, dartquant_arg_cols, dartquant_bad_size);
  return checks.result();
}

dartquant_status check_rotation_call(dartquant_block_rotation const* rotation, dartquant_matrix const* x,
                                     dartquant_matrix const* y) {
  Checks checks;
  checks.require(rotation != nullptr, dartquant_arg_transform, dartquant_null);
  check(checks, x, dartquant_arg_x);
  check(checks, y, dartquant_arg_y);
  if (!checks.ok()) return checks.result();
  checks.require(x->rows == y->rows, dartquant_arg_rows, dartquant_bad_size);
  checks.require(x->cols == y->cols, dartquant_arg_cols, dartquant_bad_size);
  checks.require(x->rows <= std::int64_t{64} * std::numeric_limits<std::int32_t>::max(), dartquant_arg_rows,
                 dartquant_overflow);
  checks.pointer(rotation->rotations, alignof(float), dartquant_arg_base);
  checks.require(aligned(rotation->permutation, alignof(std::int32_t)), dartquant_arg_permutation,
                 dartquant_misaligned);
  checks.require(rotation->block >= 1, dartquant_arg_block, dartquant_bad_size);
  checks.require(rotation->block <= RotateBlocks::largest, dartquant_arg_block, dartquant_unsupported);
  if (!checks.ok()) return checks.result();
  std::int64_t const count = x->cols / rotation->block;
  checks.require(x->cols % rotation->block == 0, dartquant_arg_block, dartquant_bad_size);
  checks.require(count <= 65535, dartquant_arg_cols, dartquant_overflow);
  checks.require(rotation->count == 1 || rotation->count == count, dartquant_arg_base, dartquant_bad_size);
  bool const apart =
      cpu::same_or_disjoint(*x, *y) && (rotation->permutation == nullptr || x->data != y->data);
  checks.require(apart, dartquant_arg_y, dartquant_bad_value);
  return checks.result();
}

}  // namespace dartquant::cuda

using namespace dartquant::cuda;

dartquant_status dartquant_cuda_rows_supported(dartquant_norm const* norm,
                                               dartquant_transform const* transform,
                                               dartquant_matrix const* x, dartquant_quantized const* q) {
  RowCall const call{norm, transform, x, x, q};
  dartquant_status const wrong = check_transform_call(call);
  if (wrong != 0) return wrong;
  return run(
      [&] { return plan_of(call) ? 0 : dartquant::cpu::status(dartquant_arg_cols, dartquant_unsupported); });
}

dartquant_status dartquant_cuda_hadamard(void* stream, dartquant_norm const* norm,
                                         dartquant_transform const* transform, dartquant_matrix const* x,
                                         dartquant_matrix const* y) {
  if (transform == nullptr) return dartquant::cpu::status(dartquant_arg_transform, dartquant_null);
  return enqueue(stream, {norm, transform, x, y});
}

dartquant_status dartquant_cuda_quantize(void* stream, dartquant_norm const* norm,
                                         dartquant_transform const* transform, dartquant_matrix const* x,
                                         float clip_ratio, dartquant_quantized const* q) {
  if (q == nullptr) return dartquant::cpu::status(dartquant_arg_levels, dartquant_null);
  return enqueue(stream, {norm, transform, x, nullptr, q, clip_ratio});
}

dartquant_status dartquant_cuda_dequantize(void* stream, dartquant_quantized const* q,
                                           dartquant_matrix const* y) {
  dartquant_status const wrong = check_dequantize_call(q, y);
  if (wrong != 0) return wrong;
  return run([&] {
    auto const body = plan_of(*q, *y);
    if (!body) return dartquant::cpu::status(dartquant_arg_rows, dartquant_overflow);
    launch_dequantize(static_cast<cudaStream_t>(stream), *body);
    return dartquant_status{0};
  });
}

dartquant_status dartquant_cuda_rotate_blocks(void* stream, dartquant_block_rotation const* rotation,
                                              dartquant_matrix const* x, dartquant_matrix const* y) {
  dartquant_status const wrong = check_rotation_call(rotation, x, y);
  if (wrong != 0) return wrong;
  return run([&] {
    bool const done = launch_rotation(static_cast<cudaStream_t>(stream), *rotation, *x, *y);
    return done ? 0 : dartquant::cpu::status(dartquant_arg_block, dartquant_unsupported);
  });
}
