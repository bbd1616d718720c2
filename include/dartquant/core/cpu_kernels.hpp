// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include <dartquant/kernels.h>
#include <dartquant/core/error.hpp>
#include <dartquant/core/tile_product.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// Compiled kernels that a Cpu may carry: the calls of kernels.h as pointers, and the instruction set that
/// they use. Values, so that these headers link nothing: the pointers come from compiled_kernels()
/// (core/compiled_kernels.hpp, target DartQuant::kernels), which fills every one but `tiles` where there are
/// none. See Cpu::with_kernels.
struct CpuKernels {
  dartquant_cpu cpu{};  ///< what was detected, and the instruction set that is used

  decltype(&dartquant_rows_workspace_size) rows_workspace_size = nullptr;
  decltype(&dartquant_hadamard) hadamard = nullptr;
  decltype(&dartquant_quantize) quantize = nullptr;
  decltype(&dartquant_dequantize) dequantize = nullptr;
  decltype(&dartquant_packed_size) packed_size = nullptr;
  decltype(&dartquant_pack) pack = nullptr;
  decltype(&dartquant_matmul_workspace_size) matmul_workspace_size = nullptr;
  decltype(&dartquant_matmul) matmul = nullptr;
  decltype(&dartquant_matmul_float) matmul_float = nullptr;
  decltype(&dartquant_argument_text) argument_text = nullptr;
  decltype(&dartquant_reason_text) reason_text = nullptr;
  decltype(&dartquant_isa_name) isa_name = nullptr;
  /// Products of float and double matrices; null where Eigen has the same instructions (Arm, portable).
  TileKernels const* tiles = nullptr;

  [[nodiscard]] dartquant_isa isa() const { return static_cast<dartquant_isa>(cpu.chosen); }
  /// Such as "avx512_vnni".
  [[nodiscard]] char const* name() const { return isa_name(isa()); }
};

namespace detail {

/// Errors: InvalidArgument that says which argument was wrong, and how, unless `status` is 0.
inline void require_done(CpuKernels const& kernels, char const* function, dartquant_status status) {
  if (status == 0) return;
  throw InvalidArgument(sentence("[", function, "] the kernel (", kernels.name(), ") says: ",
                                 kernels.argument_text(static_cast<dartquant_argument>(status >> 8)), " ",
                                 kernels.reason_text(static_cast<dartquant_reason>(status & 0xFF))));
}

/// Whether kernels.h can describe the view: at least one value, and rows that do not overlap.
template <class T>
[[nodiscard]] bool fits_c_matrix(MatrixView<T> X) {
  return X.rows() > 0 && X.cols() > 0 && (X.rows() == 1 || X.stride() >= X.cols());
}

/// X as kernels.h describes it. A call that only reads never writes through the pointer. Precondition:
/// fits_c_matrix(X).
[[nodiscard]] inline dartquant_matrix c_matrix(MatrixView<float const> X) {
  return {const_cast<float*>(X.data()), dartquant_float32, X.rows(), X.cols(),
          std::max(X.stride(), X.cols())};
}

}  // namespace detail
}  // namespace dartquant
