// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <dartquant/cuda/gpu.hpp>
#include <dartquant/cuda/launch.cuh>
#include <dartquant/cuda/objective_rows.cuh>

/// Gpu::objective for any objective. Include it in a file that nvcc compiles, with the objective's struct
/// (its operators marked DARTQUANT_HD), and calibrate there.
namespace dartquant::cuda {

template <class T, class Objective>
void Gpu::objective_each(index_t groups, Objective const& objective,
                         std::type_identity_t<DeviceMatrixView<T const>> O,
                         std::type_identity_t<DeviceMatrixView<T>> slope,
                         DeviceMatrixView<double> losses) const {
  using Kernel = std::remove_pointer_t<decltype(objective_kernel<T, Objective>())>;
  check_objective(groups, O.rows(), O.cols(), slope.rows(), slope.cols());
  index_t const rows = O.rows() / groups;
  Grid grid = Kernel::grid(rows, O.cols());
  check_shared_memory("objective", O.cols(), grid.shared_bytes);
  grid.blocks_z = static_cast<int>(groups);
  index_t const blocks = static_cast<index_t>(grid.blocks_x) * grid.blocks_y;
  double* const partial = partial_sums(groups * blocks);
  auto const scope = enter();
  launch(stream(), grid, Kernel{objective, rows, O, slope, partial});
  launch(stream(), {.blocks_x = static_cast<int>(groups), .shared_bytes = SumPartials::shared_bytes},
         SumPartials{partial, blocks, 1 / static_cast<double>(rows), losses.data()});
}

template <class T, class Objective>
double Gpu::objective(Objective const& objective, std::type_identity_t<DeviceMatrixView<T const>> O,
                      std::type_identity_t<DeviceMatrixView<T>> slope) const {
  objective_each<T>(1, objective, O, slope, scalars());
  return read_scalars<1>()[0];
}

}  // namespace dartquant::cuda
