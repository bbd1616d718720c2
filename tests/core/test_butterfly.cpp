// SPDX-License-Identifier: Apache-2.0
#include <dartquant/core/butterfly.hpp>
#include <dartquant/core/matrix.hpp>

#include <bit>
#include <cstdint>

#include "support/catch.hpp"

using namespace dartquant;

namespace {

/// Sylvester's matrix by its closed form: (-1)^(number of common bits of i and j).
RowMatrix<double> sylvester(index_t n) {
  RowMatrix<double> H(n, n);
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j) H(i, j) = std::popcount(static_cast<std::uint64_t>(i & j)) % 2 ? -1 : 1;
  return H;
}

}  // namespace

TEMPLATE_TEST_CASE("the butterfly multiplies by Sylvester's matrix", "[butterfly]", float, double) {
  for (index_t length : {1, 2, 4, 8, 16, 32, 64, 128, 256}) {
    RowMatrix<TestType> X(3, length);
    for (index_t i = 0; i < X.size(); ++i) X.data()[i] = static_cast<TestType>((i * 37 + 11) % 19 - 9);
    RowMatrix<double> const expected = X.template cast<double>() * sylvester(length);
    walsh_hadamard<TestType>(X, length);
    REQUIRE(X.template cast<double>() == expected);  // integers: exact
  }
}

TEST_CASE("the butterfly runs on each segment of a strided row and nowhere else", "[butterfly]") {
  RowMatrix<float> A = RowMatrix<float>::Random(4, 20);
  RowMatrix<float> const before = A;
  walsh_hadamard<float>(MatrixView<float>(A).block(1, 3, 2, 12), 4);
  RowMatrix<float> expected = before;
  for (index_t segment : {3, 7, 11})
    expected.block(1, segment, 2, 4) = before.block(1, segment, 2, 4) * sylvester(4).cast<float>();
  REQUIRE((A - expected).cwiseAbs().maxCoeff() < 1e-6f);
  expected.block(1, 3, 2, 12) = A.block(1, 3, 2, 12);
  REQUIRE(A == expected);
}

TEST_CASE("the butterfly takes no rows, and refuses lengths that do not fit", "[butterfly]") {
  RowMatrix<float> none(0, 8), X = RowMatrix<float>::Zero(1, 12);
  REQUIRE_NOTHROW(walsh_hadamard<float>(none, 8));
  REQUIRE_THROWS_AS(walsh_hadamard<float>(X, 8), InvalidArgument);
  REQUIRE_THROWS_WITH(
      walsh_hadamard<float>(X, 8),
      "[walsh_hadamard] 12 channels are not a multiple of length 8; use a length that divides them");
  REQUIRE_THROWS_WITH(walsh_hadamard<float>(X, 6), "[walsh_hadamard] length 6: must be a power of two");
  REQUIRE_THROWS_WITH(walsh_hadamard<float>(X, 0), "[walsh_hadamard] length 0: must be a power of two");
}
