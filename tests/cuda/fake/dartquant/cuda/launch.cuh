// SPDX-License-Identifier: Apache-2.0
#pragma once

// Stands in for the real header of this name where the sources of cuda/ are compiled for a device that is the
// host: kernels run on the CPU, when their stream gets to them.

#include <dartquant/cuda/error.hpp>
#include <dartquant/cuda/grid.hpp>

#include "cuda/fake/device.hpp"
#include "support/host_thread.hpp"

namespace dartquant::cuda {

template <class Body>
void launch(cudaStream_t stream, Grid const& grid, Body const& body) {
  if (grid.blocks_x == 0 || grid.blocks_y == 0 || grid.blocks_z == 0) return;
  test::fake::count_launch();
  test::fake::enqueue(stream, [grid, body] { test::run_on_host(grid, body, test::ThreadOrder::shuffled); });
}

}  // namespace dartquant::cuda
