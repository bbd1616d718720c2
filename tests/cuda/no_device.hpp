// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "support/catch.hpp"

namespace dartquant::test {

/// Whether there is no device to test on; ctest then counts the test as skipped.
[[nodiscard]] inline bool no_device() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) return false;
  WARN("skipped: no CUDA device");
  return true;
}

}  // namespace dartquant::test
