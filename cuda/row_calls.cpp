// SPDX-License-Identifier: Apache-2.0
// The C++ calls on rows: the checks of the C calls as sentences, and pointers checked to be the device's.

#include <dartquant/core/error.hpp>
#include <dartquant/cuda/error.hpp>
#include <dartquant/cuda/hadamard.hpp>
#include <dartquant/cuda/quantize.hpp>

#include "c_rows.hpp"
#include "row_launch.hpp"

namespace dartquant::cuda {
namespace {

void require_done(char const* function, dartquant_status status, ConstRows const& X) {
  if (status == 0) return;
  throw InvalidArgument(
      dartquant::detail::sentence("[cuda::", function, "] ", X.rows, " x ", X.cols, ": ",
                                  dartquant_argument_text(dartquant_status_argument(status)), " ",
                                  dartquant_reason_text(dartquant_status_reason(status))));
}

/// Memory of the host would end in an illegal address on the device, which ends the process' use of it.
void require_device(char const* function, char const* what, void const* data) {
  if (data == nullptr) return;
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, data));
  dartquant::detail::require(
      attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged,
      "[cuda::", function, "] ", what, " does not point to memory of a device; copy it there first");
}

void run(char const* function, cudaStream_t stream, RowCall const& call, ConstRows const& X) {
  require_done(function, check_transform_call(call), X);
  require_device(function, "X", X.data);
  require_device(function, "the permutation", call.transform->permutation);
  require_device(function, "the base", call.transform->base);
  if (call.norm != nullptr) require_device(function, "the gain", call.norm->gain);
  if (call.y != nullptr) require_device(function, "Y", call.y->data);
  if (call.q != nullptr) {
    require_device(function, "levels", call.q->levels);
    require_device(function, "scales", call.q->scales);
    require_device(function, "zero_points", call.q->zero_points);
  }
  auto const plan = plan_of(call);
  if (!plan)
    dartquant::detail::fail(
        Error::Kind::unsupported, "[cuda::", function, "] rows of ", X.cols, " channels with blocks of ",
        call.transform->block,
        " do not fit into the shared memory of this device; use smaller blocks and groups");
  launch_transform(stream, call, *plan);
}

void run_hadamard(cudaStream_t stream, dartquant_norm const* norm, RowTransform const& transform,
                  ConstRows const& X, Rows const& Y) {
  dartquant_transform const t = c_transform(transform);
  dartquant_matrix const x = c_matrix(X), y = c_matrix(Y);
  run("hadamard", stream, {norm, &t, &x, &y}, X);
}

void run_quantize(cudaStream_t stream, dartquant_norm const* norm, RowTransform const& transform,
                  ConstRows const& X, QuantizedRows const& q, float clip_ratio) {
  dartquant_transform const t = c_transform(transform);
  dartquant_matrix const x = c_matrix(X);
  dartquant_quantized const to = c_quantized(q);
  run("quantize", stream, {norm, &t, &x, nullptr, &to, clip_ratio}, X);
}

}  // namespace

void hadamard(cudaStream_t stream, RowTransform const& transform, ConstRows const& X, Rows const& Y) {
  run_hadamard(stream, nullptr, transform, X, Y);
}

void hadamard(cudaStream_t stream, RowNorm const& norm, RowTransform const& transform, ConstRows const& X,
              Rows const& Y) {
  dartquant_norm const first = c_norm(norm);
  run_hadamard(stream, &first, transform, X, Y);
}

void quantize(cudaStream_t stream, RowTransform const& transform, ConstRows const& X, QuantizedRows const& q,
              float clip_ratio) {
  run_quantize(stream, nullptr, transform, X, q, clip_ratio);
}

void quantize(cudaStream_t stream, RowNorm const& norm, RowTransform const& transform, ConstRows const& X,
              QuantizedRows const& q, float clip_ratio) {
  dartquant_norm const first = c_norm(norm);
  run_quantize(stream, &first, transform, X, q, clip_ratio);
}

void rotate_blocks(cudaStream_t stream, BlockRotations const& rotation, ConstRows const& X, Rows const& Y) {
  dartquant_block_rotation const r{rotation.permutation, rotation.rotations, rotation.block, rotation.count};
  dartquant_matrix const x = c_matrix(X), y = c_matrix(Y);
  require_done("rotate_blocks", check_rotation_call(&r, &x, &y), X);
  require_device("rotate_blocks", "X", X.data);
  require_device("rotate_blocks", "Y", Y.data);
  require_device("rotate_blocks", "the permutation", rotation.permutation);
  require_device("rotate_blocks", "the rotations", rotation.rotations);
  if (!launch_rotation(stream, r, x, y))
    dartquant::detail::fail(Error::Kind::unsupported, "[cuda::rotate_blocks] blocks of ", rotation.block,
                            " channels do not fit into the shared memory of this device; use smaller blocks");
}

void dequantize(cudaStream_t stream, ConstQuantizedRows const& q, Rows const& Y) {
  dartquant_quantized const from = c_quantized(q);
  dartquant_matrix const y = c_matrix(Y);
  require_done("dequantize", check_dequantize_call(&from, &y), Y);
  require_device("dequantize", "levels", q.levels);
  require_device("dequantize", "scales", q.scales);
  require_device("dequantize", "zero_points", q.zero_points);
  require_device("dequantize", "Y", Y.data);
  auto const body = plan_of(from, y);
  dartquant::detail::require(body.has_value(), "[cuda::dequantize] ", q.rows, " x ", q.cols,
                             ": more than 2^31 pieces of 8 channels; use fewer rows at a time");
  launch_dequantize(stream, *body);
}

}  // namespace dartquant::cuda
