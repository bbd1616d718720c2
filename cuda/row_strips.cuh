// SPDX-License-Identifier: Apache-2.0
#pragma once

// The launchers of the kernels on strips, for one element type per translation unit.

#include <algorithm>

#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/strip_plan.hpp>

#include "row_launch.hpp"

namespace dartquant::cuda {

/// Where the additions of a transform bound it, blocks of threads stay for as many strips as there are, and
/// fetch each while they work on the one before; where memory does, fresh ones for every strip were faster.
[[nodiscard]] inline Grid strip_grid(StripPlan const& plan, bool stay) {
  Grid grid = plan.grid;
  if (stay) grid.blocks_x = std::min(grid.blocks_x, std::max(1, plan.resident / grid.blocks_y));
  return grid;
}

template <class T>
void launch_hadamard_strips(cudaStream_t stream, StripPlan const& plan, Rows const& y) {
  with_hadamard_strips<T>(plan, [&]<class Body>() {
    launch(stream, strip_grid(plan, plan.order > 1 || plan.log_length > 13),
           hadamard_strips<Body, T>(plan, y));
  });
}

template <class T>
void launch_quantize_strips(cudaStream_t stream, StripPlan const& plan, QuantizedRows const& q,
                            float clip_ratio) {
  with_quantize_strips<T>(plan, [&]<class Body>() {
    launch(stream, strip_grid(plan, true), quantize_strips<Body>(plan, q, clip_ratio));
  });
}

}  // namespace dartquant::cuda
