// SPDX-License-Identifier: Apache-2.0
// The C API as the table of pointers that the C++ headers call.

#include <dartquant/core/compiled_kernels.hpp>

#include <string>

#include "cpu/detect.hpp"

namespace dartquant {
namespace {

dartquant_cpu detected() {
  dartquant_cpu cpu{};
  dartquant_cpu_detect(&cpu);  // refuses a null pointer only
  return cpu;
}

CpuKernels table_of(dartquant_cpu const& chosen) {
  return {.cpu = chosen,
          .rows_workspace_size = dartquant_rows_workspace_size,
          .hadamard = dartquant_hadamard,
          .quantize = dartquant_quantize,
          .dequantize = dartquant_dequantize,
          .packed_size = dartquant_packed_size,
          .pack = dartquant_pack,
          .matmul_workspace_size = dartquant_matmul_workspace_size,
          .matmul = dartquant_matmul,
          .matmul_float = dartquant_matmul_float,
          .argument_text = dartquant_argument_text,
          .reason_text = dartquant_reason_text,
          .isa_name = dartquant_isa_name,
          .tiles = cpu::kernels_of(&chosen).tiles};
}

}  // namespace

CpuKernels compiled_kernels() { return table_of(detected()); }

CpuKernels compiled_kernels(dartquant_isa isa) {
  dartquant_cpu cpu = detected();
  if (dartquant_cpu_choose(&cpu, isa) == 0) return table_of(cpu);
  std::string names;
  for (dartquant_isa const other : available_isas())
    names.append(names.empty() ? "" : ", ").append(dartquant_isa_name(other));
  throw InvalidArgument(detail::sentence("[compiled_kernels] the instruction set ", dartquant_isa_name(isa),
                                         " is not available here; these are: ", names));
}

std::vector<dartquant_isa> available_isas() {
  dartquant_cpu const cpu = detected();
  std::vector<dartquant_isa> found;
  for (int i = 0; i < dartquant_isa_count; ++i)
    if (dartquant_cpu_supports(&cpu, static_cast<dartquant_isa>(i)) != 0)
      found.push_back(static_cast<dartquant_isa>(i));
  return found;
}

std::optional<dartquant_isa> isa_of_name(std::string_view name) {
  for (int i = 0; i < dartquant_isa_count; ++i)
    if (name == dartquant_isa_name(static_cast<dartquant_isa>(i))) return static_cast<dartquant_isa>(i);
  return std::nullopt;
}

}  // namespace dartquant
