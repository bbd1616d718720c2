// SPDX-License-Identifier: Apache-2.0
#include <dartquant/cuda/activations.cuh>
#include <dartquant/cuda/decode.cuh>
#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/multiply_plain.cuh>
#include <dartquant/cuda/tensor_core.cuh>

#include "matmul_kernels.hpp"

namespace dartquant::cuda::detail {

void launch_stage(cudaStream_t stream, Activations const& x, StagedLayout const& layout, std::byte* staged) {
  launch(stream, {.blocks_x = static_cast<int>(StageActivations::block_count(layout))},
         StageActivations{x, layout, staged});
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

template <int Bits, int TokenTiles, bool Grouped, bool Corrected>
[[nodiscard]] bool run_decode(cudaStream_t stream, IntProduct const& p, DecodeDevice const& device) {
  using Kernel = Decode<Bits, TokenTiles, TokenTiles == 2 ? 1 : DQ_PANELS, Grouped, Corrected>;
  DecodePlan const plan = Kernel::plan_of(p, device);
  if (plan.bytes > device.shared_bytes) return false;
  launch(stream, plan.grid(), Kernel{p, plan});
  return true;
}

template <int Bits, bool Grouped, bool Corrected>
[[nodiscard]] bool run_decode(cudaStream_t stream, IntProduct const& p, DecodeDevice const& device) {
  return p.y.tokens <= 8 ? run_decode<Bits, 1, Grouped, Corrected>(stream, p, device)
                         : run_decode<Bits, 2, Grouped, Corrected>(stream, p, device);
}

template <int Bits>
[[nodiscard]] bool run_decode(cudaStream_t stream, IntProduct const& p, DecodeDevice const& device) {
  bool const corrected = p.corrected() || p.x.zero_points != nullptr;
  if (p.w.groups > 1)
    return corrected ? run_decode<Bits, true, true>(stream, p, device)
                     : run_decode<Bits, true, false>(stream, p, device);
  return corrected ? run_decode<Bits, false, true>(stream, p, device)
                   : run_decode<Bits, false, false>(stream, p, device);
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
    if (p.x.bits == 4 ? run_decode<4>(stream, part, device) : run_decode<8>(stream, part, device))
      first += count;
    else if (count > 1) count = (count + 1) / 2;
    else return launch_plain(stream, p);
  }
}

void launch_plain(cudaStream_t stream, IntProduct const& p) {
  launch(stream, plain_grid(p.y), MultiplyPlain{p});
}

}  // namespace dartquant::cuda::detail
