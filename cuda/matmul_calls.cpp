// SPDX-License-Identifier: Apache-2.0
// The C calls on products: the checks of kernels.h, then the C++ calls.

#include <dartquant/cuda/kernels.h>
#include <dartquant/cuda/matmul.hpp>

#include "c_rows.hpp"
#include "cpu/status.hpp"

namespace dartquant::cuda {
namespace {

using cpu::aligned;
using cpu::Checks;
using cpu::number_of;

[[nodiscard]] WeightShape shape_of(dartquant_weights const& w) {
  return {w.out, w.in, w.group,
          w.symmetry == dartquant_symmetric ? Symmetry::symmetric : Symmetry::asymmetric, w.with_sums != 0};
}

[[nodiscard]] bool is_symmetry(dartquant_symmetry symmetry) {
  return number_of(symmetry) == dartquant_symmetric || number_of(symmetry) == dartquant_asymmetric;
}

/// The shape alone; its limits are those of packed_weight_bytes.
void check_weights(Checks& checks, dartquant_weights const* w) {
  checks.pointer(w, alignof(dartquant_weights), dartquant_arg_weights);
  if (!checks.ok()) return;
  checks.require(w->out >= 1 && w->out <= 2147483647 - 256, dartquant_arg_rows, dartquant_bad_size);
  checks.require(w->in >= 1 && w->in <= 1 << 20, dartquant_arg_cols, dartquant_bad_size);
  checks.require(w->group >= 0, dartquant_arg_group, dartquant_bad_size);
  checks.require(is_symmetry(w->symmetry), dartquant_arg_symmetry, dartquant_bad_value);
}

void check_packed(Checks& checks, dartquant_weights const& w, void const* packed, std::size_t packed_bytes) {
  checks.pointer(packed, dartquant_cuda_alignment, dartquant_arg_packed);
  if (!checks.ok()) return;
  checks.require(packed_bytes >= packed_weight_bytes(shape_of(w)), dartquant_arg_packed, dartquant_too_small);
}

/// A pointer to memory of a device.
void check_device(Checks& checks, void const* pointer, dartquant_argument argument) {
  if (!checks.ok() || pointer == nullptr) return;
  cudaPointerAttributes attributes{};
  cuda::check(cudaPointerGetAttributes(&attributes, pointer));
  checks.require(attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged,
                 argument, dartquant_unsupported);
}

/// What both products ask of Y and the bias.
void check_output(Checks& checks, dartquant_weights const& w, std::int64_t tokens, float const* bias,
                  dartquant_matrix const* y) {
  cpu::check(checks, y, dartquant_arg_y);
  if (!checks.ok()) return;
  checks.require(y->rows == tokens, dartquant_arg_rows, dartquant_bad_size);
  checks.require(y->cols == w.out, dartquant_arg_cols, dartquant_bad_size);
  checks.require(aligned(bias, alignof(float)), dartquant_arg_bias, dartquant_misaligned);
  check_device(checks, y->data, dartquant_arg_y);
  check_device(checks, bias, dartquant_arg_bias);
}

[[nodiscard]] MatmulShape product_shape(dartquant_weights const& w, std::int64_t tokens, std::int32_t x_bits,
                                        dartquant_symmetry symmetry) {
  return {shape_of(w), tokens, x_bits,
          symmetry == dartquant_symmetric ? Symmetry::symmetric : Symmetry::asymmetric};
}

void check_product(Checks& checks, dartquant_weights const* w, std::int64_t tokens, std::int32_t x_bits,
                   dartquant_symmetry symmetry) {
  check_weights(checks, w);
  checks.require(tokens >= 1 && tokens <= std::int64_t{65535} * 128, dartquant_arg_rows, dartquant_bad_size);
  checks.require(x_bits == 4 || x_bits == 8 || x_bits == 16 || x_bits == 32, dartquant_arg_bits,
                 dartquant_unsupported);
  checks.require(is_symmetry(symmetry), dartquant_arg_symmetry, dartquant_bad_value);
}

/// Runs what may throw on behalf of a C caller. What the checks before it did not find is a size that does
/// not fit the others.
template <class Call>
[[nodiscard]] dartquant_status run(Call const& call) {
  try {
    return call();
  } catch (InvalidArgument const&) {
    return cpu::status(dartquant_arg_weights, dartquant_bad_size);
  } catch (...) {
    return cpu::status(dartquant_arg_stream, dartquant_device_error);
  }
}

template <class T>
[[nodiscard]] DeviceMatrixView<T> view_of(dartquant_matrix const& m) {
  return {static_cast<T*>(m.data), m.rows, m.cols, m.stride};
}

/// call(Y) with Y of its type.
template <class Call>
void with_output(dartquant_matrix const& y, Call const& call) {
  if (y.type == dartquant_float32) call(view_of<float>(y));
  else if (y.type == dartquant_float16) call(view_of<Half>(y));
  else call(view_of<BFloat16>(y));
}

}  // namespace
}  // namespace dartquant::cuda

using namespace dartquant;
using namespace dartquant::cuda;
using dartquant::cpu::Checks;

dartquant_status dartquant_cuda_packed_size(dartquant_weights const* weights, std::size_t* bytes) {
  Checks checks;
  check_weights(checks, weights);
  checks.pointer(bytes, alignof(std::size_t), dartquant_arg_bytes);
  if (!checks.ok()) return checks.result();
  *bytes = packed_weight_bytes(shape_of(*weights));
  return 0;
}

dartquant_status dartquant_cuda_pack(dartquant_weights const* weights, dartquant_quantized const* q,
                                     void* packed, std::size_t packed_bytes) {
  Checks checks;
  check_weights(checks, weights);
  if (checks.ok()) cpu::check(checks, q);
  if (!checks.ok()) return checks.result();
  checks.require(q->rows == weights->out, dartquant_arg_rows, dartquant_bad_size);
  checks.require(q->cols == weights->in, dartquant_arg_cols, dartquant_bad_size);
  checks.require(q->bits == 4, dartquant_arg_bits, dartquant_unsupported);
  checks.require(q->symmetry == weights->symmetry, dartquant_arg_symmetry, dartquant_bad_value);
  if (!checks.ok()) return checks.result();
  auto const width = [](std::int64_t group, std::int64_t in) {
    return group == 0 || group > in ? in : group;
  };
  checks.require(width(q->group, q->cols) == width(weights->group, weights->in), dartquant_arg_group,
                 dartquant_bad_size);
  check_packed(checks, *weights, packed, packed_bytes);
  if (!checks.ok()) return checks.result();
  if (!checks.require(cpu::zero_points_in_range(*q), dartquant_arg_zero_points, dartquant_bad_value).ok())
    return checks.result();
  return run([&]() -> dartquant_status {
    pack_weights(shape_of(*weights),
                 {static_cast<std::uint8_t const*>(q->levels), q->level_stride, q->scales, q->scale_stride,
                  q->zero_points, q->zero_point_stride},
                 static_cast<std::byte*>(packed), packed_bytes);
    return 0;
  });
}

char const* dartquant_cuda_matmul_path(dartquant_weights const* weights, std::int64_t tokens,
                                       std::int32_t x_bits, dartquant_symmetry x_symmetry) {
  char const* name = "unknown";
  Checks checks;
  check_product(checks, weights, tokens, x_bits, x_symmetry);
  if (!checks.ok()) return name;
  (void)run([&]() -> dartquant_status {
    name = name_of(matmul_path(matmul_target(), product_shape(*weights, tokens, x_bits, x_symmetry)));
    return 0;
  });
  return name;
}

dartquant_status dartquant_cuda_matmul_workspace_size(dartquant_weights const* weights, std::int64_t tokens,
                                                      std::int32_t x_bits, dartquant_symmetry x_symmetry,
                                                      std::size_t* bytes) {
  Checks checks;
  check_product(checks, weights, tokens, x_bits, x_symmetry);
  checks.pointer(bytes, alignof(std::size_t), dartquant_arg_bytes);
  if (!checks.ok()) return checks.result();
  return run([&]() -> dartquant_status {
    *bytes = matmul_workspace_bytes(matmul_target(), product_shape(*weights, tokens, x_bits, x_symmetry));
    return 0;
  });
}

dartquant_status dartquant_cuda_matmul(void* stream, dartquant_weights const* weights, void const* packed,
                                       std::size_t packed_bytes, dartquant_quantized const* x,
                                       float const* bias, dartquant_matrix const* y, void* workspace,
                                       std::size_t workspace_bytes) {
  return run([&]() -> dartquant_status {
    Checks checks;
    cpu::check(checks, x);
    if (!checks.ok()) return checks.result();
    check_product(checks, weights, x->rows, x->bits, x->symmetry);
    if (!checks.ok()) return checks.result();
    checks.require(x->cols == weights->in, dartquant_arg_cols, dartquant_bad_size);
    check_packed(checks, *weights, packed, packed_bytes);
    check_output(checks, *weights, x->rows, bias, y);
    check_device(checks, packed, dartquant_arg_packed);
    check_device(checks, x->levels, dartquant_arg_levels);
    check_device(checks, x->scales, dartquant_arg_scales);
    check_device(checks, x->symmetry == dartquant_asymmetric ? x->zero_points : nullptr,
                 dartquant_arg_zero_points);
    checks.require(x->symmetry == dartquant_symmetric || x->bits == 4 || weights->with_sums != 0,
                   dartquant_arg_weights, dartquant_unsupported);
    if (!checks.ok()) return checks.result();
    std::size_t const needed =
        matmul_workspace_bytes(matmul_target(), product_shape(*weights, x->rows, x->bits, x->symmetry));
    if (needed > 0) {
      checks.pointer(workspace, dartquant_cuda_workspace_alignment, dartquant_arg_workspace);
      checks.require(workspace_bytes >= needed, dartquant_arg_workspace, dartquant_too_small);
      check_device(checks, workspace, dartquant_arg_workspace);
    }
    auto const width = [](std::int64_t group, std::int64_t in) {
      return group == 0 || group > in ? in : group;
    };
    checks.require(
        width(x->group, x->cols) == x->cols || width(x->group, x->cols) == width(weights->group, weights->in),
        dartquant_arg_group, dartquant_unsupported);
    if (!checks.ok()) return checks.result();
    with_output(*y, [&](auto Y) {
      matmul(static_cast<cudaStream_t>(stream), shape_of(*weights), packed, rows_of(*x), bias, Y, workspace,
             workspace_bytes);
    });
    return 0;
  });
}

dartquant_status dartquant_cuda_matmul_float(void* stream, dartquant_weights const* weights,
                                             void const* packed, std::size_t packed_bytes,
                                             dartquant_matrix const* x, float const* bias,
                                             dartquant_matrix const* y) {
  return run([&]() -> dartquant_status {
    Checks checks;
    cpu::check(checks, x, dartquant_arg_x);
    if (!checks.ok()) return checks.result();
    check_product(checks, weights, x->rows, x->type == dartquant_float32 ? 32 : 16, dartquant_symmetric);
    if (!checks.ok()) return checks.result();
    checks.require(x->cols == weights->in, dartquant_arg_cols, dartquant_bad_size);
    check_packed(checks, *weights, packed, packed_bytes);
    check_output(checks, *weights, x->rows, bias, y);
    check_device(checks, packed, dartquant_arg_packed);
    check_device(checks, x->data, dartquant_arg_x);
    if (!checks.ok()) return checks.result();
    if (!checks
             .require(y->type == dartquant_float32 || y->type == x->type, dartquant_arg_type,
                      dartquant_unsupported)
             .ok())
      return checks.result();
    auto const s = static_cast<cudaStream_t>(stream);
    WeightShape const shape = shape_of(*weights);
    bool const wide = y->type == dartquant_float32;
    if (x->type == dartquant_float32)
      matmul(s, shape, packed, view_of<float const>(*x), bias, view_of<float>(*y));
    else if (x->type == dartquant_float16 && wide)
      matmul(s, shape, packed, view_of<Half const>(*x), bias, view_of<float>(*y));
    else if (x->type == dartquant_float16)
      matmul(s, shape, packed, view_of<Half const>(*x), bias, view_of<Half>(*y));
    else if (wide) matmul(s, shape, packed, view_of<BFloat16 const>(*x), bias, view_of<float>(*y));
    else matmul(s, shape, packed, view_of<BFloat16 const>(*x), bias, view_of<BFloat16>(*y));
    return 0;
  });
}
