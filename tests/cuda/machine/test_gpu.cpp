// SPDX-License-Identifier: Apache-2.0
// The primitives of Gpu on a device that is the host.
#include "cuda/fake/device.hpp"
#include "cuda/gpu_cases.hpp"

TEST_CASE("products in double stay on the CPU where the device is slow in FP64", "[gpu]") {
  CHECK(cuda::host_products(Gpu()).float64);
  test::fake::set_float64_ratio(64);
  HostProducts const products = cuda::host_products(Gpu());
  test::fake::set_float64_ratio(2);
  CHECK(products.float32);
  CHECK(!products.float64);
}
