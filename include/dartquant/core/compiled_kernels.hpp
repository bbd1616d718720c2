// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include <dartquant/core/cpu_kernels.hpp>

namespace dartquant {

/// The kernels of this build with the best instruction set of this machine (needs DartQuant::kernels):
///   Cpu const cpu = Cpu(threads).with_kernels(compiled_kernels());
/// AMX is among the choices only after dartquant_amx_request().
[[nodiscard]] CpuKernels compiled_kernels();

/// The same with one instruction set. Errors: InvalidArgument that lists those that work here.
[[nodiscard]] CpuKernels compiled_kernels(dartquant_isa isa);

/// The instruction sets that work on this machine and in this build, from the plainest to the best.
[[nodiscard]] std::vector<dartquant_isa> available_isas();

/// The instruction set of a name such as "avx2"; nothing for any other text.
[[nodiscard]] std::optional<dartquant_isa> isa_of_name(std::string_view name);

}  // namespace dartquant
