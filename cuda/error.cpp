// SPDX-License-Identifier: Apache-2.0
#include <dartquant/cuda/error.hpp>

#include <string>
#include <string_view>

namespace dartquant::cuda {
namespace {

/// The file's name without the folders of the machine that built the library.
std::string_view file_of(std::string_view path) { return path.substr(path.find_last_of('/') + 1); }

Error::Kind kind_of(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return Error::Kind::memory;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorNotSupported:
      return Error::Kind::unsupported;
    default:
      return Error::Kind::io;
  }
}

char const* advice_for(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "; use smaller batches, or free memory of the device";
    case cudaErrorNoDevice:
      return "; use the CPU, or check that the driver sees a GPU";
    case cudaErrorInsufficientDriver:
      return "; install or update the driver, or use the CPU";
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
      return "; build with this GPU's architecture in CMAKE_CUDA_ARCHITECTURES";
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
      return "; the device's state is lost, the process must end: please report it";
    default:
      return "";
  }
}

}  // namespace

void check(cudaError_t status, char const* file, int line) {
  if (status == cudaSuccess) return;
  throw CudaError(kind_of(status),
                  detail::sentence("[cuda] ", cudaGetErrorName(status), ": ", cudaGetErrorString(status),
                                   " (", file_of(file), ":", line, ")", advice_for(status)),
                  static_cast<int>(status));
}

void check(cublasStatus_t status, char const* file, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  auto const kind = status == CUBLAS_STATUS_ALLOC_FAILED    ? Error::Kind::memory
                    : status == CUBLAS_STATUS_ARCH_MISMATCH ? Error::Kind::unsupported
                                                            : Error::Kind::io;
  throw CudaError(kind,
                  detail::sentence("[cublas] ", cublasGetStatusName(status), ": ",
                                   cublasGetStatusString(status), " (", file_of(file), ":", line, ")"),
                  static_cast<int>(status));
}

void check(cusolverStatus_t status, char const* file, int line) {
  if (status == CUSOLVER_STATUS_SUCCESS) return;
  auto const kind = status == CUSOLVER_STATUS_ALLOC_FAILED    ? Error::Kind::memory
                    : status == CUSOLVER_STATUS_ARCH_MISMATCH ? Error::Kind::unsupported
                                                              : Error::Kind::io;
  throw CudaError(
      kind,
      detail::sentence("[cusolver] status ", static_cast<int>(status), " (", file_of(file), ":", line, ")"),
      static_cast<int>(status));
}

}  // namespace dartquant::cuda
