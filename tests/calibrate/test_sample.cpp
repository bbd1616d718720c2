// SPDX-License-Identifier: Apache-2.0
#include <dartquant/calibrate/sample.hpp>

#include <limits>
#include <thread>
#include <vector>

#include "support/catch.hpp"

using namespace dartquant;

namespace {

/// Row i holds i in every channel, so a row tells its id.
RowMatrix<float> numbered(index_t rows, index_t channels) {
  RowMatrix<float> M(rows, channels);
  for (index_t i = 0; i < rows; ++i) M.row(i).setConstant(static_cast<float>(i));
  return M;
}

}  // namespace

TEST_CASE("a sample holds everything until it is full, sorted by id", "[sample]") {
  ActivationSample sample(3, 10, 1);
  CHECK(sample.size() == 0);
  CHECK(sample.rows().rows() == 0);
  RowMatrix<float> const X = numbered(8, 3);
  sample.add(X.bottomRows(4), 4);
  sample.add(X.topRows(4), 0);
  CHECK(sample.size() == 8);
  CHECK(sample.seen() == 8);
  CHECK(sample.rows() == X);
  sample.add(X.topRows(0), 8);
  CHECK(sample.seen() == 8);
}

TEST_CASE("the rows kept do not depend on batches, order or merging", "[sample]") {
  index_t const rows = 1000, capacity = 100;
  RowMatrix<float> const X = numbered(rows, 5);
  ActivationSample whole(5, capacity, 7);
  whole.add(X, 0);
  RowMatrix<float> const expected = whole.rows();
  REQUIRE(expected.rows() == capacity);
  for (index_t i = 1; i < capacity; ++i) CHECK(expected(i - 1, 0) < expected(i, 0));

  ActivationSample backwards(5, capacity, 7);
  for (index_t first = rows - 37;; first = std::max<index_t>(0, first - 37)) {
    index_t const count = first == 0 ? 1000 % 37 : 37;
    backwards.add(X.middleRows(first, count), static_cast<std::uint64_t>(first));
    if (first == 0) break;
  }
  CHECK(backwards.rows() == expected);

  ActivationSample left(5, capacity, 7), right(5, capacity, 7);
  left.add(X.topRows(300), 0);
  right.add(X.bottomRows(700), 300);
  left.merge(right);
  CHECK(left.rows() == expected);
  CHECK(left.seen() == 1000);

  ActivationSample other(5, capacity, 8);
  other.add(X, 0);
  CHECK_FALSE(other.rows() == expected);
}

TEST_CASE("threads may add at once", "[sample]") {
  RowMatrix<float> const X = numbered(4000, 4);
  ActivationSample one(4, 64, 3), shared(4, 64, 3);
  one.add(X, 0);
  std::vector<std::thread> threads;
  for (index_t part = 0; part < 4; ++part)
    threads.emplace_back([&, part] {
      for (index_t batch = 0; batch < 10; ++batch) {
        index_t const first = (batch * 4 + part) * 100;
        shared.add(X.middleRows(first, 100), static_cast<std::uint64_t>(first));
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(shared.rows() == one.rows());
  CHECK(shared.seen() == 4000);
}

TEST_CASE("every row is equally likely", "[sample]") {
  index_t const rows = 50, capacity = 10, trials = 2000;
  RowMatrix<float> const X = numbered(rows, 1);
  std::vector<double> counts(static_cast<std::size_t>(rows));
  for (index_t seed = 0; seed < trials; ++seed) {
    ActivationSample sample(1, capacity, static_cast<std::uint64_t>(seed));
    sample.add(X, 0);
    RowMatrix<float> const kept = sample.rows();
    for (index_t i = 0; i < capacity; ++i) counts[static_cast<std::size_t>(kept(i, 0))] += 1;
  }
  double const expected = static_cast<double>(trials * capacity) / static_cast<double>(rows);
  double statistic = 0;  // about (1 - capacity / rows) times chi square of 49 degrees of freedom
  for (double const count : counts) statistic += (count - expected) * (count - expected) / expected;
  CHECK(statistic < 80);
  CHECK(statistic > 15);
}

TEST_CASE("float, double, half and bfloat16 rows of any stride", "[sample]") {
  RowMatrix<double> const wide = RowMatrix<double>::Constant(2, 6, 1.5);
  std::vector<Half> half(20);
  std::vector<BFloat16> bfloat(20);
  for (std::size_t i = 0; i < 20; ++i) {
    half[i] = to_half(i % 10 < 4 ? 2.5f : -1.f);
    bfloat[i] = to_bfloat16(i % 10 < 4 ? -4.f : 7.f);
  }
  ActivationSample sample(4, 100, 1);
  sample.add(wide.leftCols(4), 0);
  sample.add(MatrixView<Half const>(half.data(), 2, 4, 10), 2);
  sample.add(MatrixView<BFloat16>(bfloat.data(), 2, 4, 10), 4);
  RowMatrix<float> const rows = sample.rows();
  REQUIRE(rows.rows() == 6);
  CHECK((rows.topRows(2).array() == 1.5f).all());
  CHECK((rows.middleRows(2, 2).array() == 2.5f).all());
  CHECK((rows.bottomRows(2).array() == -4.f).all());
}

TEST_CASE("a repeated id is ignored", "[sample]") {
  ActivationSample sample(1, 4, 1);
  RowMatrix<float> X = RowMatrix<float>::Ones(2, 1);
  sample.add(X, 10);
  X.setConstant(5);
  sample.add(X, 11);
  RowMatrix<float> const rows = sample.rows();
  REQUIRE(rows.rows() == 3);
  CHECK(rows(0, 0) == 1);
  CHECK(rows(1, 0) == 1);
  CHECK(rows(2, 0) == 5);
  CHECK(sample.seen() == 4);
}

TEST_CASE("a sample refuses bad input and stays as it was", "[sample]") {
  ActivationSample sample(3, 4, 1);
  RowMatrix<float> X = numbered(5, 3);
  X(3, 2) = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_WITH(
      sample.add(X, 100),
      "[ActivationSample] row 3 (id 103), channel 2 is not finite as a float: find out which layer "
      "overflows before calibrating");
  CHECK(sample.size() == 0);
  CHECK_THROWS_WITH(sample.add(numbered(2, 2), 0), "[ActivationSample] 2 channels given to a sample of 3");
  CHECK_THROWS_WITH(sample.merge(sample), "[ActivationSample::merge] a sample cannot be merged with itself");
  CHECK_THROWS_WITH(
      sample.merge(ActivationSample(3, 4, 2)),
      "[ActivationSample::merge] 3 channels, capacity 4, seed 2 into 3, 4, 1: all three must be equal");
  CHECK_THROWS_WITH(ActivationSample(0, 4, 1), "[ActivationSample] 0 channels: at least one is needed");
  CHECK_THROWS_WITH(ActivationSample(4, 0, 1), "[ActivationSample] capacity 0: at least one row is needed");
}
