// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include <dartquant/kernels.h>

#include "support/catch.hpp"

namespace kernel_test {

/// A transform with what it points to.
struct OwnedTransform {
  std::vector<std::int32_t> permutation;
  std::vector<std::int8_t> base;
  dartquant_transform c{};

  OwnedTransform(std::mt19937& random, std::int64_t cols, std::int64_t block, bool permuted) {
    if (permuted) {
      for (std::int64_t j = 0; j < cols; ++j) permutation.push_back(static_cast<std::int32_t>(j));
      std::shuffle(permutation.begin(), permutation.end(), random);
      c.permutation = permutation.data();
    }
    c.block = block;
    if (block == 0) return;
    REQUIRE(dartquant_hadamard_base(block, nullptr, 0, &c.base_order) == 0);
    base.resize(static_cast<std::size_t>(c.base_order * c.base_order));
    REQUIRE(dartquant_hadamard_base(block, base.data(), base.size(), &c.base_order) == 0);
    if (c.base_order > 1) c.base = base.data();
  }
  OwnedTransform(OwnedTransform const&) = delete;
};

}  // namespace kernel_test
