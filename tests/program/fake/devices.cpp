// SPDX-License-Identifier: Apache-2.0
// FAKE_DEVICES=N: how many devices the program finds.
#include <cstdlib>

#include "cuda/fake/device.hpp"

namespace {

[[maybe_unused]] bool const set = [] {
  if (char const* const count = std::getenv("FAKE_DEVICES"))
    dartquant::test::fake::set_device_count(std::atoi(count));
  return true;
}();

}  // namespace
