// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <dartquant/cuda/base_strip.cuh>
#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/row_plan.hpp>

#include "row_launch.hpp"

namespace dartquant::cuda {
namespace {

template <int M, int O, int T, int Blocks>
bool base_as(cudaStream_t stream, RowTransform const& t, ConstRows const& x, float factor, Rows const& y, int blocks_of_strip) {
  using Transform = BaseStrip<BFloat16, M, O, T>;
  using Body = HadamardBaseStrips<Transform, BFloat16, Blocks>;
  bool const flat = x.stride == x.cols && y.stride == y.cols;
  Transform s;
  s.base = t.base;
  s.order = static_cast<int>(t.base_order);
  s.groups = (s.order - 1) / O + 1;
  s.values = static_cast<int>(t.block) * blocks_of_strip;
  s.staged_at = 4 * s.values;
  s.signs_at = s.staged_at + 2 * s.values;
  int const shared = s.signs_at + 4 * s.order * s.groups * O;
  s.rows = {x.data, x.stride, flat ? x.rows * x.cols : x.cols, 0, {}};
  index_t const row_strips = (s.rows.cols - 1) / s.values + 1;
  s.rows.strips = static_cast<std::uint32_t>((flat ? 1 : x.rows) * row_strips);
  s.rows.row_strips = Divider(static_cast<std::uint32_t>(row_strips));
  launch(stream, {.blocks_x = std::min<int>(static_cast<int>(s.rows.strips), 132 * Blocks), .shared_bytes = static_cast<std::size_t>(shared)},
         Body{s, static_cast<BFloat16*>(y.data), y.stride, factor});
  return true;
}

}  // namespace

bool launch_base_strips(cudaStream_t stream, RowTransform const& t, ConstRows const& x, float factor, Rows const& y) {
  if (std::getenv("DQ_OLD") || x.type != ElementType::bfloat16 || y.type != x.type || t.permutation || !t.base || x.cols % t.block) return false;
  bool const many = std::getenv("DQ_MANY");
  index_t const length = t.block / t.base_order;
  if (t.base_order == 20 && length == 256) return many ? base_as<8, 20, 160, 3>(stream, t, x, factor, y, 2) : base_as<8, 20, 160, 2>(stream, t, x, factor, y, 2);
  if (t.base_order == 28 && length == 512) return many ? base_as<9, 28, 224, 1>(stream, t, x, factor, y, 1) : base_as<9, 28, 224, 2>(stream, t, x, factor, y, 1);
  if (t.base_order == 172 && length == 64) return base_as<6, 16, 192, 1>(stream, t, x, factor, y, 1);
  return false;
}

}  // namespace dartquant::cuda
