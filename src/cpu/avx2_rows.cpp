// SPDX-License-Identifier: Apache-2.0
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {

RowKernels const avx2_rows = portable_rows;

}  // namespace dartquant::cpu
