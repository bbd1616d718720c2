// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <dartquant/core/error.hpp>

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>

namespace dartquant::cuda {

/// The CUDA runtime, cuBLAS or cuSOLVER refused a call. The sentence holds the library's name of the error,
/// what it means, the place in our source and, where there is one, what to do. kind() is memory for an
/// exhausted device, unsupported for a missing device, driver or architecture, else io.
class CudaError : public Error {
 public:
  CudaError(Kind kind, std::string const& sentence, int code) : Error(kind, sentence), code_(code) {}
  /// The library's own number of the error.
  [[nodiscard]] int code() const noexcept { return code_; }

 private:
  int code_;
};

/// Throws CudaError unless the status is that of success. (clang 14 has no std::source_location.)
void check(cudaError_t status, char const* file = __builtin_FILE(), int line = __builtin_LINE());
void check(cublasStatus_t status, char const* file = __builtin_FILE(), int line = __builtin_LINE());
void check(cusolverStatus_t status, char const* file = __builtin_FILE(), int line = __builtin_LINE());

}  // namespace dartquant::cuda
