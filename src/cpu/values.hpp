// SPDX-License-Identifier: Apache-2.0
#pragma once

// Elements of files to numbers and back, as io/tensor_values.cpp does it plainly, for one instruction set.
// Plain data only, as kernel_table.hpp.

#include <cstdint>

#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {

/// Each returns whether all results are finite; buffers may have any alignment and length.
struct ValueKernels {
  bool (*decode_float)(Type type, void const* elements, std::int64_t count, float* values);
  bool (*decode_double)(Type type, void const* elements, std::int64_t count, double* values);
  /// To nearest even; doubles with one rounding.
  bool (*encode_float)(Type type, float const* values, std::int64_t count, void* elements);
  bool (*encode_double)(Type type, double const* values, std::int64_t count, void* elements);
};

/// Those of the best instruction set of this machine; null where the plain loops are as good.
[[nodiscard]] ValueKernels const* value_kernels() noexcept;

#if defined(__x86_64__) || defined(_M_X64)
extern ValueKernels const avx2_values;
#endif

}  // namespace dartquant::cpu
