// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/kernels.h>

#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {

/// The kernels of one instruction set.
struct Kernels {
  RowKernels const* rows = nullptr;
  ProductKernels const* products = nullptr;
  TileKernels const* tiles = nullptr;  ///< null: none
};

/// The kernels that `cpu` chose; null pointers unless it was filled by dartquant_cpu_detect.
[[nodiscard]] Kernels kernels_of(dartquant_cpu const* cpu);

}  // namespace dartquant::cpu
