// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/strip_plan.hpp>

#include "row_launch.hpp"

namespace dartquant::cuda {
namespace {

int env(char const* name, int otherwise) {
  char const* v = std::getenv(name);
  return v ? std::atoi(v) : otherwise;
}

template <class Body>
void start(cudaStream_t stream, std::uint32_t strips, Body const& body, std::size_t shared) {
  static int const persist = env("DQ_PERSIST", 1);
  int const most = persist == 1 ? 132 * Body::blocks : persist == 2 ? 264 * Body::blocks : 1 << 30;
  launch(stream, {.blocks_x = std::min<int>(static_cast<int>(strips), most), .shared_bytes = shared}, body);
}

template <int M, int T, int Blocks>
void hadamard_as(cudaStream_t stream, StripPlan const& plan, float factor, Rows const& y) {
  using Body = HadamardStrips<BFloat16, M, T, Blocks>;
  start(stream, plan.rows.strips, Body{{plan.rows}, static_cast<BFloat16*>(y.data), y.stride, factor},
        Body::Transform::shared_bytes);
}
template <int M, int T, int Group, int Blocks>
void quantize_as(cudaStream_t stream, StripPlan const& plan, float factor, QuantizeStep const& q) {
  using Body = QuantizeStrips<std::conditional_t<M == 0, PlainStrip<BFloat16, T>, StripTransform<BFloat16, M == 0 ? 6 : M, T>>, Group, Blocks>;
  start(stream, plan.rows.strips, Body{{plan.rows}, q, factor}, Body::shared_bytes);
}

}  // namespace

bool launch_octets(cudaStream_t stream, DequantizeRows const& body) {
  static int const old = env("DQ_OLD", 0);
  if (old || body.whole == 0 || body.y.vectors == 0 || body.q.cols % 8 != 0 || body.y.type != ElementType::bfloat16) return false;
  if (body.y.stride % 8 != 0 || reinterpret_cast<std::uintptr_t>(body.y.data) % 16 != 0) return false;
  auto const go = [&](auto octets) {
    using Body = decltype(octets);
    launch(stream, {.blocks_x = static_cast<int>((body.pieces - 1) / (Body::threads * Body::each) + 1)}, octets);
  };
  static int const many = env("DQ_MANY", 0);
  if (body.q.bits == 4 && many) go(DequantizeOctets<BFloat16, 4, 2>{body});
  else if (body.q.bits == 4) go(DequantizeOctets<BFloat16, 4, 4>{body});
  else go(DequantizeOctets<BFloat16, 8, 4>{body});
  return true;
}

bool launch_strips(cudaStream_t stream, StripPlan const& plan, float factor, Rows const& y) {
  if (y.type != ElementType::bfloat16 || env("DQ_OLD", 0)) return false;
  static int const many = env("DQ_MANY", 0);
#define CASE(M, T, A, B) \
  if (plan.log_length == M) return (many ? hadamard_as<M, T, B>(stream, plan, factor, y) : hadamard_as<M, T, A>(stream, plan, factor, y)), true;
  CASE(7, 32, 16, 18)
  CASE(10, 32, 16, 18)
  CASE(12, 64, 8, 9)
  CASE(13, 128, 4, 4)
  CASE(14, 256, 2, 2)
  CASE(15, 512, 1, 1)
  return false;
}

bool launch_strips(cudaStream_t stream, StripPlan const& plan, float factor, ElementType type, QuantizedRows const& r, float clip) {
  if (type != ElementType::bfloat16 || env("DQ_OLD", 0)) return false;
  QuantizeStep const q{r.levels, r.level_stride, r.scales, r.scale_stride, r.zero_points, r.zero_point_stride, r.bits,
           r.symmetry, clip, 1};
  static int const many = env("DQ_MANY", 0);
  bool const whole = r.group == 0 || r.group >= r.cols;
#define QCASE(M, T, G, A, B) \
  if (plan.log_length == M && plan.threads == T && whole == (G == 0)) return (many ? quantize_as<M, T, G, B>(stream, plan, factor, q) : quantize_as<M, T, G, A>(stream, plan, factor, q)), true;
  QCASE(0, 64, 0, 8, 9)
  QCASE(0, 64, 128, 8, 9)
  QCASE(7, 64, 0, 8, 9)
  QCASE(7, 32, 128, 16, 18)
  QCASE(10, 32, 0, 16, 18)
  QCASE(10, 32, 128, 16, 18)
  QCASE(12, 64, 0, 8, 9)
  QCASE(12, 64, 128, 8, 9)
  QCASE(13, 128, 0, 4, 4)
  QCASE(13, 128, 128, 4, 4)
  QCASE(14, 256, 0, 2, 2)
  QCASE(14, 256, 128, 2, 2)
  QCASE(15, 512, 0, 1, 1)
  QCASE(15, 512, 128, 1, 1)
  return false;
}

}  // namespace dartquant::cuda
