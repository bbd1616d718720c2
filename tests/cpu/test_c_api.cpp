// SPDX-License-Identifier: Apache-2.0
#include "support/catch.hpp"

extern "C" int dartquant_test_c_api(int* first_line);  // test_c_api.c

TEST_CASE("The kernel API works from plain C", "[kernels]") {
  int first_line = 0;
  int const failures = dartquant_test_c_api(&first_line);
  INFO("first failure in test_c_api.c, line " << first_line);
  CHECK(failures == 0);
}
