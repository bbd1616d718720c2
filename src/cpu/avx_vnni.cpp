// SPDX-License-Identifier: Apache-2.0
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {

ProductKernels const avx_vnni_products = portable_products;

}  // namespace dartquant::cpu
