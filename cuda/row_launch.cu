// SPDX-License-Identifier: Apache-2.0
// The kernels on rows. Compiled, as row_hadamard.cu and row_quantize.cu, without contraction: products and
// sums are those of the CPU.
#include "row_launch.hpp"

#include <type_traits>

#include <dartquant/cuda/launch.cuh>

#include "c_rows.hpp"

namespace dartquant::cuda {
namespace {

[[nodiscard]] RowTransform transform_of(RowCall const& call) {
  return call.transform == nullptr ? RowTransform{} : cuda::transform_of(*call.transform);
}

[[nodiscard]] RowDevice current_device() {
  int device = 0;
  RowDevice limits;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&limits.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  check(cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device));
  return limits;
}

/// Whether the kernels on strips do the call.
[[nodiscard]] bool launched_by_strips(cudaStream_t stream, RowCall const& call, RowNorm const* norm) {
  ConstRows const x = rows_of(*call.x);
  RowDevice const device = current_device();
  if (call.q == nullptr) {
    auto const plan = plan_strips(transform_of(call), norm, x, rows_of(*call.y), device);
    if (!plan) return false;
    if (x.type == ElementType::float32) launch_hadamard_strips<float>(stream, *plan, rows_of(*call.y));
    else if (x.type == ElementType::float16) launch_hadamard_strips<Half>(stream, *plan, rows_of(*call.y));
    else launch_hadamard_strips<BFloat16>(stream, *plan, rows_of(*call.y));
  } else {
    auto const plan = plan_strips(transform_of(call), norm, x, rows_of(*call.q), device);
    if (!plan || x.type == ElementType::float32) return false;
    if (x.type == ElementType::float16)
      launch_quantize_strips<Half>(stream, *plan, rows_of(*call.q), call.clip_ratio);
    else launch_quantize_strips<BFloat16>(stream, *plan, rows_of(*call.q), call.clip_ratio);
  }
  return true;
}

}  // namespace

std::optional<RowPlan> plan_of(RowCall const& call) {
  RowDevice const limits = current_device();
  return plan_rows({call.x->rows, call.x->cols, transform_of(call), call.q == nullptr ? -1 : call.q->group,
                    call.norm == nullptr ? 0 : 1},
                   limits);
}

std::optional<DequantizeRows> plan_of(dartquant_quantized const& q, dartquant_matrix const& y) {
  return dequantize_rows(rows_of(q), rows_of(y));
}

void launch_transform(cudaStream_t stream, RowCall const& call, RowPlan const& plan) {
  RowNorm norm;
  if (call.norm != nullptr)
    norm = {call.norm->gain, static_cast<ElementType>(call.norm->gain_type), call.norm->epsilon};
  if (launched_by_strips(stream, call, call.norm == nullptr ? nullptr : &norm)) return;
  RowTransformStep const step =
      transform_step(plan, transform_of(call), call.norm == nullptr ? nullptr : &norm, rows_of(*call.x));
  if (call.q == nullptr) launch_hadamard(stream, plan, step, rows_of(*call.y));
  else launch_quantize(stream, plan, step, rows_of(*call.q), call.clip_ratio);
}

bool launch_rotation(cudaStream_t stream, dartquant_block_rotation const& rotation, dartquant_matrix const& x,
                     dartquant_matrix const& y) {
  RotateBlocks const body = rotate_blocks(
      {rotation.permutation, rotation.rotations, rotation.block, rotation.count}, rows_of(x), rows_of(y));
  Grid const grid = grid_of(body);
  if (grid.shared_bytes > static_cast<std::size_t>(current_device().shared_bytes)) return false;
  launch(stream, grid, body);
  return true;
}

void launch_dequantize(cudaStream_t stream, DequantizeRows const& body) {
  bool const launched = with_octets(body, [&](auto const& octets) {
    using Body = std::remove_cvref_t<decltype(octets)>;
    launch(stream, {.blocks_x = static_cast<int>((body.pieces - 1) / (Body::threads * Body::each) + 1)},
           octets);
  });
  if (launched) return;
  launch(stream, {.blocks_x = static_cast<int>((body.pieces - 1) / DequantizeRows::threads + 1)}, body);
}

}  // namespace dartquant::cuda
