// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <dartquant/core/aligned_bytes.hpp>
#include <dartquant/core/cpu.hpp>
#include <dartquant/quant/fit.hpp>
#include <dartquant/quant/int_matrix.hpp>
#include <dartquant/quant/options.hpp>

namespace dartquant::detail {

/// Whether compiled kernels quantize X so: they know 4 and 8 bits, scales inside rows, and no clip search.
[[nodiscard]] inline bool has_quantize_kernel(Cpu const& cpu, MatrixView<float const> X,
                                              QuantizeOptions const& options) {
  auto const kind = options.granularity.kind;
  return cpu.kernels() != nullptr && (options.bits == 4 || options.bits == 8) &&
         (kind == Granularity::Kind::row || kind == Granularity::Kind::group) &&
         options.clip_search == ClipSearch::none && static_cast<float>(options.clip_ratio) > 0 &&
         fits_c_matrix(X);
}

/// Rows [at, at + rows of X) of Q <- levels, scales and zero points of X, on the calling thread.
/// Precondition: has_quantize_kernel. Errors: as the plain quantizer, X being the rows from `first` on.
template <int StorageBits>
void quantize_rows(CpuKernels const& kernels, MatrixView<float const> X, double clip_ratio,
                   char const* function, index_t first, IntMatrix<StorageBits>& Q, index_t at) {
  std::size_t bytes = 0;
  require_done(kernels, function, kernels.rows_workspace_size(X.cols(), &bytes));
  AlignedBytes workspace(bytes);
  dartquant_matrix const x = c_matrix(X);
  dartquant_quantized const q = c_quantized(Q, at, X.rows());
  dartquant_status const status = kernels.quantize(&kernels.cpu, nullptr, &x, static_cast<float>(clip_ratio),
                                                   &q, workspace.data(), bytes, 0, 1);
  if ((status & 0xFF) == dartquant_not_finite) fail_not_finite(function, X, first, 0);
  require_done(kernels, function, status);
}

}  // namespace dartquant::detail
