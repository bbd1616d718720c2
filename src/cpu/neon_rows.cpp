// SPDX-License-Identifier: Apache-2.0
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {

RowKernels const neon_rows = portable_rows;

}  // namespace dartquant::cpu
