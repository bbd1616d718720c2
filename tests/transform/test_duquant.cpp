// SPDX-License-Identifier: Apache-2.0
#include <dartquant/transform/duquant.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <variant>
#include <vector>

#include "support/catch.hpp"
#include "support/synthetic.hpp"

using namespace dartquant;
using dartquant::testing::gaussian;

namespace {

/// Log-normal channel scales, a few outlier channels, one massive token.
RowMatrix<double> outliers(index_t tokens, index_t channels, std::uint64_t seed) {
  RowMatrix<double> X = gaussian<double>(tokens, channels, seed);
  Philox const random(seed, 1);
  for (index_t j = 0; j < channels; ++j) {
    auto const at = static_cast<std::uint64_t>(j);
    X.col(j) *= std::exp(0.5 * random.normal(at)) * (random.below(at + 100000, 40) == 0 ? 25.0 : 1.0);
  }
  X(tokens / 2, channels / 3) = 900;
  return X;
}

DuQuantOptions small(index_t block = 32, index_t steps = 32) {
  DuQuantOptions options;
  options.block = block;
  options.steps = steps;
  return options;
}

double orthogonality(RowMatrix<double> const& R) {
  return (R.transpose() * R - RowMatrix<double>::Identity(R.cols(), R.cols())).cwiseAbs().maxCoeff();
}

}  // namespace

TEST_CASE("the base of the greedy rotation spreads its first channel", "[duquant]") {
  for (index_t const block : {1, 2, 3, 16, 128}) {
    RowMatrix<double> const R = detail::greedy_base(block, 7);
    REQUIRE(orthogonality(R) < 1e-13);
    REQUIRE(std::abs(R(0, 0)) == Approx(1 / std::sqrt(static_cast<double>(block))));
  }
  REQUIRE(detail::greedy_base(16, 1) == detail::greedy_base(16, 1));
  REQUIRE(detail::greedy_base(16, 1) != detail::greedy_base(16, 2));
}

TEST_CASE("a greedy rotation lowers the largest outlier and stays orthonormal", "[duquant]") {
  RowMatrix<double> const X = outliers(48, 128, 1);
  for (GreedyIndex const index : {GreedyIndex::column, GreedyIndex::row})
    for (GreedyPeak const peak : {GreedyPeak::magnitude, GreedyPeak::range}) {
      GreedyRotation const found = greedy_rotation(Cpu(2), X, 32, {40, index, peak, 3});
      REQUIRE(orthogonality(found.rotation) < 1e-12);
      REQUIRE(found.peaks.size() == 41);
      REQUIRE(found.steps > 0);
      auto const best = std::min_element(found.peaks.begin(), found.peaks.end());
      REQUIRE(best - found.peaks.begin() == found.steps);
      RowMatrix<double> Y = X;
      BlockRotation(128, found.rotation).apply(Cpu(1), Y);
      double const reached =
          peak == GreedyPeak::magnitude ? Y.cwiseAbs().maxCoeff() : Y.maxCoeff() - Y.minCoeff();
      REQUIRE(reached == Approx(*best).epsilon(1e-10));
      REQUIRE(reached < 0.7 * found.peaks.front());
    }
}

TEST_CASE("skipping blocks below the peak finds what a look at all of them finds", "[duquant]") {
  RowMatrix<double> const X = outliers(200, 64, 5);
  index_t const block = 16, steps = 20;
  for (GreedyPeak const peak : {GreedyPeak::magnitude, GreedyPeak::range}) {
    GreedyRotation const found = greedy_rotation(Cpu(1), X, block, {steps, GreedyIndex::column, peak, 9});
    RowMatrix<double> const base = detail::greedy_base(block, 9);
    RowMatrix<double> Z = Eigen::Map<RowMatrix<double> const>(X.data(), 200 * 4, block);
    for (index_t step = 0; step <= steps; ++step) {
      index_t high_row, high, low_row, low;
      double const max = Z.maxCoeff(&high_row, &high), min = Z.minCoeff(&low_row, &low);
      double const expected = peak == GreedyPeak::range ? max - min : std::max(max, -min);
      REQUIRE(found.peaks[static_cast<std::size_t>(step)] == Approx(expected).epsilon(1e-10));
      index_t const d = max >= -min ? high : low;
      RowMatrix<double> factor = base;
      factor.row(0).swap(factor.row(d));
      factor.col(0).swap(factor.col(d));
      Z = (Z * factor).eval();
    }
  }
}

TEST_CASE("zigzag lowers the variance of block means by 50 times and more", "[duquant]") {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    DuQuantResult const found = duquant_transform(Cpu(2), outliers(64, 512, seed), small());
    REQUIRE(found.stages.size() == 4);
    CAPTURE(found.stages[1].block_mean_variance, found.stages[2].block_mean_variance);
    REQUIRE(found.stages[2].block_mean_variance * 50 <= found.stages[1].block_mean_variance);
    REQUIRE(found.stages[1].largest < 0.7 * found.stages[0].largest);
    REQUIRE(found.stages[2].largest == found.stages[1].largest);
    REQUIRE(found.stages[3].largest < found.stages[2].largest);
    REQUIRE(found.stages[1].greedy_steps.size() == 1);
    DuQuantResult const single = duquant_transform(Cpu(2), outliers(64, 512, seed), zigzag_hadamard(32));
    REQUIRE(single.stages.size() == 3);
    REQUIRE(single.stages[2].largest < single.stages[0].largest);
  }
}

TEST_CASE("every variant leaves X W^T as it was", "[duquant]") {
  Cpu const cpu(2);
  RowMatrix<double> const X = outliers(20, 96, 2) / 30, W = gaussian<double>(10, 96, 3) / 10;
  RowMatrix<double> const before = X * W.transpose();
  std::vector<DuQuantOptions> variants(8, small(16, 12));
  variants[1].sharing = BlockSharing::per_block;
  variants[2].permutation = BlockPermutation::random;
  variants[3].permutation = BlockPermutation::none;
  variants[4].permutation_times = 3;
  variants[5].permutation_times = 0;
  variants[6].first = BlockStep::hadamard;
  variants[7] = duquant_as_released();
  variants[7].block = 96;
  variants[7].steps = 5;
  std::vector<std::size_t> const steps{3, 3, 3, 2, 7, 1, 3, 3};
  DiagonalScale const smoothing(std::vector<double>(96, 1.7));
  for (std::size_t i = 0; i < variants.size(); ++i) {
    DuQuantResult const found = duquant_transform(cpu, X, variants[i]);
    REQUIRE(found.transform.steps().size() == steps[i]);
    REQUIRE(found.stages.size() == steps[i] + 1);
    Transform const chain = Transform(96).then(smoothing).then(found.transform);
    RowMatrix<double> Y = X, V = W;
    chain.apply(cpu, Y);
    chain.fold(cpu, V);
    REQUIRE((Y * V.transpose() - before).cwiseAbs().maxCoeff() < 1e-12);
    REQUIRE(found.stages.back().largest == Approx(1.7 * Y.cwiseAbs().maxCoeff()));
  }
  REQUIRE(std::get<BlockRotation>(duquant_transform(cpu, X, variants[1]).transform.steps()[0]).rotation(0) !=
          std::get<BlockRotation>(duquant_transform(cpu, X, variants[1]).transform.steps()[0]).rotation(1));
}

TEST_CASE("the transform is a function of activations and options", "[duquant]") {
  RowMatrix<float> const X = outliers(300, 64, 4).cast<float>();
  DuQuantOptions options = small(16, 10);
  for (BlockSharing const sharing : {BlockSharing::shared, BlockSharing::per_block}) {
    options.sharing = sharing;
    RowMatrix<double> const one = duquant_transform(Cpu(1), X, options).transform.matrix(),
                            three = duquant_transform(Cpu(3), X, options).transform.matrix();
    REQUIRE(one == three);
  }
  options.seed = 1;
  REQUIRE(duquant_transform(Cpu(1), X, options).transform.matrix() !=
          duquant_transform(Cpu(1), X, small(16, 10)).transform.matrix());
  options.permutation = BlockPermutation::random;
  REQUIRE(duquant_transform(Cpu(1), X, options).transform.matrix() ==
          duquant_transform(Cpu(2), X, options).transform.matrix());
}

TEST_CASE("zero, constant and single-token activations have a defined transform", "[duquant]") {
  for (index_t const tokens : {1, 4}) {
    DuQuantResult const zero =
        duquant_transform(Cpu(1), RowMatrix<double>::Zero(tokens, 32).eval(), small(8));
    REQUIRE(zero.transform.matrix() ==
            RowMatrix<double>::Identity(32, 32).eval()(
                Eigen::all, zigzag_permutation(std::vector<double>(32, 0.0), 8).source()));
    RowMatrix<double> const constant = RowMatrix<double>::Constant(tokens, 32, -2.5);
    DuQuantResult const found = duquant_transform(Cpu(1), constant, small(8));
    REQUIRE(orthogonality(found.transform.matrix()) < 1e-12);
    REQUIRE(found.stages.back().largest <= 2.5);
    REQUIRE(orthogonality(
                duquant_transform(Cpu(1), gaussian<double>(tokens, 32, 1), small(1)).transform.matrix()) <
            1e-12);
  }
}

TEST_CASE("what cannot be transformed gets a sentence", "[duquant]") {
  Cpu const cpu(1);
  RowMatrix<double> X = gaussian<double>(3, 96, 1);
  REQUIRE_THROWS_WITH(duquant_transform(cpu, X, duquant()),
                      "[duquant_transform] block 128 does not divide 96 channels; use block 96");
  REQUIRE_THROWS_WITH(duquant_transform(cpu, X, small(36)),
                      "[duquant_transform] block 36 does not divide 96 channels; use block 32");
  REQUIRE_THROWS_AS(duquant_transform(cpu, X, small(0)), InvalidArgument);
  REQUIRE_THROWS_AS(duquant_transform(cpu, X, zigzag_hadamard(6)), InvalidArgument);
  REQUIRE_THROWS_WITH(duquant_transform(cpu, RowMatrix<double>(0, 96), small()),
                      "[duquant_transform] activations of 0 x 96: at least one value is needed");
  DuQuantOptions negative = small(32, -1);
  REQUIRE_THROWS_WITH(duquant_transform(cpu, X, negative),
                      "[DuQuantOptions] -1 greedy steps: must not be negative");
  negative = small();
  negative.permutation_times = -1;
  REQUIRE_THROWS_AS(duquant_transform(cpu, X, negative), InvalidArgument);
  X(1, 2) = std::numeric_limits<double>::infinity();
  REQUIRE_THROWS_AS(duquant_transform(cpu, X, small()), InvalidArgument);
  REQUIRE_THROWS_WITH(greedy_rotation(cpu, X, 32),
                      "[greedy_rotation] the value at row 1, channel 2 is inf: every value must be finite");
  REQUIRE_THROWS_WITH(greedy_rotation(cpu, X, 7), "[greedy_rotation] block 7 does not divide 96 channels");
  REQUIRE_THROWS_WITH(greedy_rotation(cpu, X, 32, {.steps = -3}),
                      "[GreedyOptions] -3 steps: must not be negative");
  std::vector<double> const peaks(10, 1.0);
  REQUIRE_THROWS_AS(block_mean_variance(peaks, 3), InvalidArgument);
}
