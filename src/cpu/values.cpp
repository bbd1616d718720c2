// SPDX-License-Identifier: Apache-2.0
#include "cpu/values.hpp"

#include <dartquant/kernels.h>

namespace dartquant::cpu {
namespace {

ValueKernels const* best_values() noexcept {
#if defined(__x86_64__) || defined(_M_X64)
  dartquant_cpu cpu{};
  dartquant_cpu_detect(&cpu);  // refuses a null pointer only
  if (dartquant_cpu_supports(&cpu, dartquant_isa_avx2) != 0) return &avx2_values;
#endif
  return nullptr;
}

}  // namespace

ValueKernels const* value_kernels() noexcept {
  static ValueKernels const* const best = best_values();
  return best;
}

}  // namespace dartquant::cpu
