// SPDX-License-Identifier: Apache-2.0
#include <dartquant/transform/transform.hpp>

#include <limits>

#include "support/catch.hpp"
#include "support/synthetic.hpp"

using namespace dartquant;
using dartquant::testing::gaussian;

namespace {

DiagonalScale random_scale(index_t channels, std::uint64_t seed) {
  std::vector<double> scale;
  for (index_t i = 0; i < channels; ++i)
    scale.push_back(0.25 + 4 * Philox(seed).uniform(static_cast<std::uint64_t>(i)));
  return DiagonalScale(scale);
}

Permutation random_permutation(index_t channels, std::uint64_t seed) {
  return Permutation(sample_without_replacement(channels, channels, Philox(seed)));
}

/// One of every kind, on 96 channels.
Transform full_chain() {
  return Transform(96)
      .then(random_scale(96, 1))
      .then(BlockRotation(96, haar_rotation(32, 2)))
      .then(random_permutation(96, 3))
      .then(Hadamard(96))
      .then(DenseRotation(haar_rotation(96, 4)))
      .then(Hadamard(96, 32));
}

}  // namespace

TEMPLATE_TEST_CASE("a chain on activations and its fold into weights cancel", "[transform]", float, double) {
  Cpu const cpu(2);
  Transform const transform = full_chain();
  for (index_t tokens : {0, 1, 37}) {
    RowMatrix<TestType> const X = gaussian<TestType>(tokens, 96, 7), W = gaussian<TestType>(20, 96, 8);
    RowMatrix<TestType> rotated = X, folded = W;
    transform.apply(cpu, rotated);
    transform.fold(cpu, folded);
    RowMatrix<double> const before = X.template cast<double>() * W.transpose().template cast<double>(),
                            after =
                                rotated.template cast<double>() * folded.transpose().template cast<double>();
    double const bound = 30 * std::numeric_limits<TestType>::epsilon() * 96;
    if (tokens > 0) REQUIRE((after - before).cwiseAbs().maxCoeff() < bound);
    transform.apply_inverse(cpu, rotated);
    if (tokens > 0) REQUIRE((rotated - X).cwiseAbs().maxCoeff() < bound);
  }
}

TEST_CASE("the matrix of a chain is the product of its steps' matrices", "[transform]") {
  index_t const n = 24;
  DiagonalScale const scale = random_scale(n, 1);
  RowMatrix<double> divide = RowMatrix<double>::Zero(n, n);
  for (index_t i = 0; i < n; ++i) divide(i, i) = 1 / scale.scale()[static_cast<std::size_t>(i)];
  Permutation const permutation = random_permutation(n, 2);
  BlockRotation const blocks({haar_rotation(12, 3), haar_rotation(12, 4)});
  Hadamard const hadamard(n);
  RowMatrix<double> const R = haar_rotation(n, 5);
  Transform const transform =
      Transform(n).then(scale).then(permutation).then(blocks).then(hadamard).then(DenseRotation(R));
  RowMatrix<double> const expected = divide * permutation.matrix() * blocks.matrix() * hadamard.matrix() * R;
  REQUIRE((transform.matrix() - expected).cwiseAbs().maxCoeff() < 1e-13);
  REQUIRE(transform.steps().size() == 5);
  REQUIRE(transform.channels() == n);
  RowMatrix<double> const X = gaussian<double>(3, n, 6);
  RowMatrix<double> Y = X;
  transform.apply(Cpu(1), Y);
  REQUIRE((Y - X * expected).cwiseAbs().maxCoeff() < 1e-12);
}

TEST_CASE("an empty chain changes nothing, and adding a step leaves the shorter chain alone", "[transform]") {
  Transform const none(5);
  Transform const longer = none.then(DenseRotation(haar_rotation(5, 1)));
  REQUIRE(none.steps().empty());
  REQUIRE(longer.steps().size() == 1);
  RowMatrix<float> X = gaussian<float>(4, 5, 2);
  RowMatrix<float> const before = X;
  none.apply(Cpu(1), X);
  none.fold(Cpu(1), X);
  none.apply_inverse(Cpu(1), X);
  REQUIRE(X == before);
  REQUIRE(none.matrix() == RowMatrix<double>::Identity(5, 5));
}

TEST_CASE("chains on strided views keep bytes for any threads", "[transform]") {
  RowMatrix<float> A = gaussian<float>(900, 100, 3), B = A;
  RowMatrix<float> const before = A;
  Transform const transform = full_chain();
  transform.apply(Cpu(1), A.middleCols(1, 96));
  transform.apply(Cpu(4), B.middleCols(1, 96));
  REQUIRE(A == B);
  transform.fold(Cpu(1), A.middleCols(1, 96));
  transform.fold(Cpu(2), B.middleCols(1, 96));
  REQUIRE(A == B);
  REQUIRE(A.leftCols(1) == before.leftCols(1));
  REQUIRE(A.rightCols(3) == before.rightCols(3));
}

TEST_CASE("steps and matrices that do not fit get a sentence", "[transform]") {
  double const infinity = std::numeric_limits<double>::infinity();
  REQUIRE_THROWS_AS(DiagonalScale({1, 0}), InvalidArgument);
  REQUIRE_THROWS_WITH(DiagonalScale({1, 0}),
                      "[DiagonalScale] scale 0 of channel 1: must be finite and positive");
  REQUIRE_THROWS_WITH(DiagonalScale({infinity}),
                      "[DiagonalScale] scale inf of channel 0: must be finite and positive");
  REQUIRE_THROWS_WITH(Transform(4).then(Hadamard(8)),
                      "[Transform] a step for 8 channels in a chain for 4: the sizes must agree");
  REQUIRE_THROWS_WITH(Transform(-1), "[Transform] -1 channels: must not be negative");
  RowMatrix<float> X = RowMatrix<float>::Zero(2, 3);
  REQUIRE_THROWS_WITH(Transform(4).apply(Cpu(1), X),
                      "[Transform] matrix of 2 x 3: the transform is for 4 channels");
  REQUIRE_THROWS_WITH(Transform(4).fold(Cpu(1), X),
                      "[Transform] matrix of 2 x 3: the transform is for 4 channels");
  REQUIRE_THROWS_WITH(DiagonalScale({1, 2}).apply(Cpu(1), X),
                      "[DiagonalScale] matrix of 2 x 3: there are 2 scales");
  REQUIRE_THROWS_WITH(DenseRotation(haar_rotation(2, 1)).apply(Cpu(1), X),
                      "[DenseRotation] matrix of 2 x 3: the rotation is for 2 channels");
}

TEST_CASE("a dense step that is no rotation is refused", "[transform]") {
  RowMatrix<double> const sheared = haar_rotation(32, 1) + 1e-3 * gaussian<double>(32, 32, 2);
  REQUIRE_THROWS_AS(DenseRotation(sheared), InvalidArgument);
  RowMatrix<double> const single = haar_rotation(32, 1).cast<float>().cast<double>();
  REQUIRE_NOTHROW(DenseRotation(single));
  RowMatrix<double> const wide = RowMatrix<double>::Zero(2, 3);
  REQUIRE_THROWS_WITH(DenseRotation(wide), "[DenseRotation] rotation of 2 x 3: must be square and not empty");
}
