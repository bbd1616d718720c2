// SPDX-License-Identifier: Apache-2.0
#include <dartquant/transform/block_rotation.hpp>

#include <limits>

#include "support/catch.hpp"

using namespace dartquant;

TEMPLATE_TEST_CASE("a block rotation is the product with its block-diagonal matrix", "[block_rotation]",
                   float, double) {
  Cpu const cpu(2);
  BlockRotation const shared(24, haar_rotation(8, 1));
  BlockRotation const separate({haar_rotation(12, 2), haar_rotation(12, 3)});
  for (BlockRotation const* rotation : {&shared, &separate}) {
    RowMatrix<TestType> const X = RowMatrix<TestType>::Random(7, 24);
    RowMatrix<double> const M = rotation->matrix();
    REQUIRE(orthogonality_ratio(M) < 1e-6);
    double const bound = 50 * std::numeric_limits<TestType>::epsilon();
    RowMatrix<TestType> Y = X;
    rotation->apply(cpu, Y);
    REQUIRE((Y.template cast<double>() - X.template cast<double>() * M).cwiseAbs().maxCoeff() <= bound);
    rotation->apply_inverse(cpu, Y);
    REQUIRE((Y - X).cwiseAbs().maxCoeff() <= bound);
    Y = X;
    rotation->fold(cpu, Y);
    REQUIRE((Y.template cast<double>() - X.template cast<double>() * M).cwiseAbs().maxCoeff() <= bound / 20);
  }
  REQUIRE(shared.blocks() == 3);
  REQUIRE(shared.block() == 8);
  REQUIRE(separate.channels() == 24);
  REQUIRE(separate.rotation(0) != separate.rotation(1));
  REQUIRE(shared.rotation(0) == shared.rotation(2));
}

TEST_CASE("block rotations: strides, no rows, threads", "[block_rotation]") {
  BlockRotation const rotation(96, haar_rotation(32, 4));
  RowMatrix<float> A = RowMatrix<float>::Random(3000, 100), B = A, none(0, 96);
  rotation.apply(Cpu(1), A.middleCols(2, 96));
  rotation.apply(Cpu(4), B.middleCols(2, 96));
  REQUIRE(A == B);
  REQUIRE_NOTHROW(rotation.apply(Cpu(2), none));
}

TEST_CASE("block rotations that are no rotations are refused", "[block_rotation]") {
  REQUIRE_THROWS_AS(BlockRotation(10, haar_rotation(4, 1)), InvalidArgument);
  REQUIRE_THROWS_WITH(BlockRotation(10, haar_rotation(4, 1)),
                      "[BlockRotation] block 4 does not divide 10 channels");
  REQUIRE_THROWS_WITH(BlockRotation(std::vector<RowMatrix<double>>{}),
                      "[BlockRotation] 0 rotations: at least one is needed");
  REQUIRE_THROWS_WITH(BlockRotation({haar_rotation(4, 1), haar_rotation(5, 1)}),
                      "[BlockRotation] rotations of order 4 and 5: all blocks must have the same order");
  RowMatrix<double> const twice = 2 * RowMatrix<double>::Identity(2, 2);
  REQUIRE_THROWS_WITH(BlockRotation(4, twice),
                      "[BlockRotation] rotation with orthogonality ratio 2.51658e+07: must be below "
                      "30; reorthonormalize it first");
  RowMatrix<double> const wide = RowMatrix<double>::Zero(2, 3);
  REQUIRE_THROWS_WITH(BlockRotation(4, wide),
                      "[BlockRotation] rotation of 2 x 3: must be square and not empty");
  RowMatrix<float> X = RowMatrix<float>::Zero(1, 5);
  REQUIRE_THROWS_WITH(BlockRotation(4, haar_rotation(2, 1)).apply(Cpu(1), X),
                      "[BlockRotation] matrix of 1 x 5: the rotation is for 4 channels");
}
