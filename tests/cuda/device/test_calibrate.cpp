// SPDX-License-Identifier: Apache-2.0
// Calibrations on a GPU.
#include "cuda/calibrate_cases.hpp"

namespace {

/// A larger one, as far as a CPU can follow: 512 channels, latents on the paths of cuSOLVER and cuBLAS.
TEST_CASE("calibration on a GPU: 512 channels", "[gpu][large]") {
  if (test::no_device()) return;
  check_same(3000, 512, CalibrationOptions<>{.epochs = 8, .seed = 2});
}

TEST_CASE("heads together on a GPU: orders 64 to 256, in shared memory and beyond", "[gpu][large]") {
  if (test::no_device()) return;
  for (index_t const order : {64, 96, 128, 256})
    check_heads(600, 4, 2, order, CalibrationOptions<>{.epochs = 6, .seed = 1});
}

}  // namespace
