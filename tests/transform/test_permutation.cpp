// SPDX-License-Identifier: Apache-2.0
#include <dartquant/transform/permutation.hpp>

#include <limits>

#include <dartquant/core/random.hpp>

#include "support/catch.hpp"

using namespace dartquant;

namespace {

Permutation random_permutation(index_t channels, std::uint64_t seed) {
  return Permutation(sample_without_replacement(channels, channels, Philox(seed)));
}

}  // namespace

TEMPLATE_TEST_CASE("new channel i is old channel source[i]", "[permutation]", float, double) {
  Cpu const cpu(2);
  RowMatrix<TestType> X(2, 3);
  X << 1, 2, 3, 4, 5, 6;
  RowMatrix<TestType> const before = X;
  Permutation const permutation({2, 0, 1});
  permutation.apply(cpu, X);
  RowMatrix<TestType> expected(2, 3);
  expected << 3, 1, 2, 6, 4, 5;
  REQUIRE(X == expected);
  REQUIRE((before.template cast<double>() * permutation.matrix()) == expected.template cast<double>());
  permutation.apply_inverse(cpu, X);
  REQUIRE(X == before);
}

TEST_CASE("inverse, chains and the identity", "[permutation]") {
  for (index_t channels : {0, 1, 2, 17, 64}) {
    Permutation const a = random_permutation(channels, 1), b = random_permutation(channels, 2);
    REQUIRE(a.then(a.inverse()) == Permutation::identity(channels));
    REQUIRE(a.inverse().then(a) == Permutation::identity(channels));
    REQUIRE(a.then(b).matrix() == a.matrix() * b.matrix());
    REQUIRE(a.inverse().matrix() == a.matrix().transpose());
  }
  REQUIRE_THROWS_WITH(Permutation({0, 1}).then(Permutation({0})),
                      "[Permutation::then] 2 channels then 1: the sizes must agree");
}

TEST_CASE("a permutation of a strided view, of no rows, on any threads", "[permutation]") {
  RowMatrix<float> A = RowMatrix<float>::Random(500, 300), B = A;
  RowMatrix<float> const before = A;
  Permutation const permutation = random_permutation(290, 3);
  permutation.apply(Cpu(1), A.middleCols(5, 290));
  permutation.apply(Cpu(4), B.middleCols(5, 290));
  REQUIRE(A == B);
  REQUIRE(A.leftCols(5) == before.leftCols(5));
  REQUIRE(A.rightCols(5) == before.rightCols(5));
  for (index_t i = 0; i < 290; ++i) REQUIRE(A(499, 5 + i) == before(499, 5 + permutation[i]));
  RowMatrix<float> none(0, 290), empty(3, 0);
  REQUIRE_NOTHROW(permutation.apply(Cpu(2), none));
  REQUIRE_NOTHROW(Permutation::identity(0).apply(Cpu(2), empty));
}

TEST_CASE("what is not a bijection is refused", "[permutation]") {
  REQUIRE_THROWS_AS(Permutation({0, 0}), InvalidArgument);
  REQUIRE_THROWS_WITH(Permutation({1, 0, 1}),
                      "[Permutation] source 1 of channel 2 occurs twice: each channel must be used once");
  REQUIRE_THROWS_WITH(Permutation({0, 2}), "[Permutation] source 2 of channel 1: must be in [0, 2)");
  REQUIRE_THROWS_WITH(Permutation({-1, 0}), "[Permutation] source -1 of channel 0: must be in [0, 2)");
  REQUIRE_THROWS_WITH(Permutation::identity(-1), "[Permutation] -1 channels: must not be negative");
  RowMatrix<float> X = RowMatrix<float>::Zero(2, 4);
  REQUIRE_THROWS_WITH(Permutation({0, 1}).apply(Cpu(1), X),
                      "[Permutation] activations of 2 x 4: the permutation is for 2 channels");
}

TEST_CASE("zigzag deals channels to blocks in snake order", "[permutation]") {
  std::vector<double> const statistic{3, 8, 1, 6, 5, 2, 7, 4};  // descending: 1 6 3 4 7 0 5 2
  REQUIRE(zigzag_permutation(statistic, 2).source() == std::vector<index_t>{1, 2, 6, 5, 3, 0, 4, 7});
  REQUIRE(zigzag_permutation(statistic, 4).source() == std::vector<index_t>{1, 4, 7, 2, 6, 3, 0, 5});
  REQUIRE(zigzag_permutation(statistic, 8).source() == std::vector<index_t>{1, 6, 3, 4, 7, 0, 5, 2});
  REQUIRE(zigzag_permutation(statistic, 1).source() == std::vector<index_t>{1, 6, 3, 4, 7, 0, 5, 2});
  std::vector<double> const ties(6, 1.0);
  REQUIRE(zigzag_permutation(ties, 6) == Permutation::identity(6));
}

TEST_CASE("zigzag balances the means of blocks", "[permutation]") {
  std::vector<double> statistic;
  for (std::uint64_t i = 0; i < 512; ++i) statistic.push_back(std::exp(Philox(5).normal(i)));
  Permutation const permutation = zigzag_permutation(statistic, 64);
  auto const spread = [&](Permutation const& p) {
    double least = std::numeric_limits<double>::infinity(), most = 0;
    for (index_t first = 0; first < 512; first += 64) {
      double sum = 0;
      for (index_t i = first; i < first + 64; ++i) sum += statistic[static_cast<std::size_t>(p[i])];
      least = std::min(least, sum);
      most = std::max(most, sum);
    }
    return most - least;
  };
  REQUIRE(spread(permutation) < 0.5 * spread(Permutation::identity(512)));
}

TEST_CASE("zigzag refuses blocks that do not divide and statistics that are not finite", "[permutation]") {
  std::vector<double> statistic(6, 1.0);
  REQUIRE_THROWS_AS(zigzag_permutation(statistic, 4), InvalidArgument);
  REQUIRE_THROWS_WITH(zigzag_permutation(statistic, 4),
                      "[zigzag_permutation] block 4 does not divide 6 channels; use a block that does");
  REQUIRE_THROWS_AS(zigzag_permutation(statistic, 0), InvalidArgument);
  statistic[3] = std::numeric_limits<double>::quiet_NaN();
  REQUIRE_THROWS_WITH(zigzag_permutation(statistic, 3),
                      "[zigzag_permutation] statistic of channel 3 is nan: must be finite");
}
