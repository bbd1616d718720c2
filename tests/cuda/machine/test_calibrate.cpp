// SPDX-License-Identifier: Apache-2.0
// Calibrations on a device that is the host, and how often they allocate and wait.
#include <cstring>
#include <utility>
#include <vector>

#include "cuda/calibrate_cases.hpp"
#include "cuda/fake/device.hpp"

TEST_CASE("calibration on a device: the steady state allocates nothing", "[gpu]") {
  Gpu const gpu;
  auto const device = on_device(gpu, outlier_activations(30, 16, 1));
  std::vector<int> allocations;
  (void)calibrate_rotation(gpu, device, {.epochs = 6, .progress = [&](CalibrationProgress const&) {
                                           allocations.push_back(test::fake::counts().allocations);
                                         }});
  REQUIRE(allocations.size() == 6);
  CHECK(allocations.back() == allocations[1]);
}

TEST_CASE("heads together: no step waits for the host, and the same bytes come out again", "[gpu]") {
  Gpu const gpu;
  auto const X = on_device(gpu, outlier_activations(24, 16, 5));
  auto const run = [&](index_t epochs) {
    int const before = test::fake::counts().waits;
    auto found = calibrate_heads(gpu, X, 2, 2, {.epochs = epochs});
    return std::pair(std::move(found), test::fake::counts().waits - before);
  };
  auto const [first, waits] = run(2);
  auto const [second, more] = run(6);
  CHECK(waits == more);
  auto const [third, again] = run(6);
  CHECK(second.heads[1].loss == third.heads[1].loss);
  CHECK(std::memcmp(second.heads[1].rotation.data(), third.heads[1].rotation.data(), 64 * sizeof(double)) ==
        0);
}
