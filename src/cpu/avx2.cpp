// SPDX-License-Identifier: Apache-2.0
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {

ProductKernels const avx2_products = portable_products;

}  // namespace dartquant::cpu
