// SPDX-License-Identifier: Apache-2.0
#include <dartquant/cuda/activations.cuh>
#include <dartquant/cuda/decode.cuh>
#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/multiply_plain.cuh>
#include <dartquant/cuda/tensor_core.cuh>

#include "matmul_kernels.hpp"

namespace dartquant::cuda::detail {

void launch_stage(cudaStream_t stream, Activations const& x, StagedLayout const& layout, std::byte* staged) {
  launch(stream, StageActivations::grid(layout), StageActivations{x, layout, staged});
}

void launch_sums(cudaStream_t stream, Activations const& x, bool nibbles, int groups, std::int32_t* sums) {
  launch(stream, {.blocks_x = static_cast<int>(SumActivations::block_count(x.tokens, groups))},
         SumActivations{x, nibbles, groups, sums});
}

namespace {

/// The tokens first .. first + count - 1 of a product.
[[nodiscard]] IntProduct some_tokens(IntProduct p, int first, int count) {
  p.x.levels += first * p.x.level_stride;
  p.x.scales += first * p.x.scale_stride;
  if (p.x.zero_points != nullptr) p.x.zero_points += first * p.x.zero_point_stride;
  p.x.tokens = count;
  p.y = p.y.rows(first, count);
  return p;
}

template <int Bits, int TokenTiles, int PieceSteps, bool Corrected>
[[nodiscard]] bool run_decode(cudaStream_t stream, IntProduct const& p, DecodeDevice const& device) {
  using Kernel = Decode<Bits, TokenTiles, PieceSteps, Corrected>;
  DecodePlan const plan = Kernel::plan_of(p, device);
  if (plan.bytes > device.shared_bytes) return false;
  launch(stream, plan.grid(), Kernel{p, plan});
  return true;
}

template <int Bits, int TokenTiles>
[[nodiscard]] bool run_decode(cudaStream_t stream, IntProduct const& p, DecodeDevice const& device) {
  bool const corrected = p.corrected() || p.x.zero_points != nullptr;
  int const steps = p.w.groups == 1 ? 0 : piece_steps(p.w.width);
  if (corrected && steps == 0) return run_decode<Bits, TokenTiles, 0, true>(stream, p, device);
  if (corrected)
    return steps == 1 ? run_decode<Bits, TokenTiles, 1, true>(stream, p, device)
                      : run_decode<Bits, TokenTiles, 2, true>(stream, p, device);
  return steps == 0   ? run_decode<Bits, TokenTiles, 0, false>(stream, p, device)
         : steps == 4 ? run_decode<Bits, TokenTiles, 4, false>(stream, p, device)
         : steps == 2 ? run_decode<Bits, TokenTiles, 2, false>(stream, p, device)
                      : run_decode<Bits, TokenTiles, 1, false>(stream, p, device);
}

/// False where the activations do not fit.
[[nodiscard]] bool run_decode(cudaStream_t stream, IntProduct const& p, DecodeDevice const& device) {
  bool const few = p.y.tokens <= 8;
  if (p.x.bits == 4) return few ? run_decode<4, 1>(stream, p, device) : run_decode<4, 2>(stream, p, device);
  return few ? run_decode<8, 1>(stream, p, device) : run_decode<8, 2>(stream, p, device);
}

}  // namespace

DecodeDevice decode_device() {
  int device = 0;
  DecodeDevice limits;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&limits.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  check(cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device));
  return limits;
}

void launch_decode(cudaStream_t stream, IntProduct const& p) {
  DecodeDevice const device = decode_device();
  for (int first = 0, count = p.y.tokens; first < p.y.tokens;) {
    IntProduct const part = some_tokens(p, first, count < p.y.tokens - first ? count : p.y.tokens - first);
    if (run_decode(stream, part, device)) first += count;
    else if (count > 1) count = (count + 1) / 2;
    else return launch_plain(stream, p);
  }
}

void launch_plain(cudaStream_t stream, IntProduct const& p) {
  launch(stream, plain_grid(p.y), MultiplyPlain{p});
}

}  // namespace dartquant::cuda::detail
