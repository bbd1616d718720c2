// SPDX-License-Identifier: Apache-2.0
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {

RowKernels const avx512_rows = portable_rows;

}  // namespace dartquant::cpu
