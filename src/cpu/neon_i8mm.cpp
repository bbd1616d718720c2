// SPDX-License-Identifier: Apache-2.0
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {

ProductKernels const neon_i8mm_products = portable_products;

}  // namespace dartquant::cpu
