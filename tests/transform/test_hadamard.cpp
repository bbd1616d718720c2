// SPDX-License-Identifier: Apache-2.0
#include <dartquant/transform/hadamard.hpp>

#include <cmath>
#include <cstring>
#include <limits>

#include "support/catch.hpp"
#include "support/synthetic.hpp"

using namespace dartquant;
using dartquant::testing::gaussian;

namespace {

template <class T>
bool same_bytes(RowMatrix<T> const& A, RowMatrix<T> const& B) {
  return A.rows() == B.rows() && A.cols() == B.cols() &&
         std::memcmp(A.data(), B.data(), static_cast<std::size_t>(A.size()) * sizeof(T)) == 0;
}

}  // namespace

TEMPLATE_TEST_CASE("apply is the product with matrix()", "[hadamard]", float, double) {
  Cpu const cpu(2);
  for (index_t n : {1, 2, 4, 8, 12, 20, 24, 28, 40, 52, 92, 96, 112, 172, 184, 256}) {
    INFO(n);
    Hadamard const hadamard(n);
    RowMatrix<TestType> const X = gaussian<TestType>(5, n, 3);
    RowMatrix<double> const expected = X.template cast<double>() * hadamard.matrix();
    RowMatrix<TestType> Y = X;
    hadamard.apply(cpu, Y);
    double const bound = 30 * std::numeric_limits<TestType>::epsilon() * X.template cast<double>().norm();
    REQUIRE((Y.template cast<double>() - expected).cwiseAbs().maxCoeff() <= bound);
    RowMatrix<double> const back = X.template cast<double>() * hadamard.matrix().transpose();
    Y = X;
    hadamard.apply_inverse(cpu, Y);
    REQUIRE((Y.template cast<double>() - back).cwiseAbs().maxCoeff() <= bound);
  }
}

TEMPLATE_TEST_CASE("blocks are transformed one by one", "[hadamard]", float, double) {
  struct Shape {
    index_t channels, block;
  };
  Cpu const cpu(1);
  for (Shape const shape :
       {Shape{24, 4}, {24, 8}, {36, 12}, {96, 24}, {7, 1}, {14, 2}, {84, 28}, {112, 56}}) {
    INFO(shape.channels << " in blocks of " << shape.block);
    Hadamard const hadamard(shape.channels, shape.block);
    REQUIRE(hadamard.channels() == shape.channels);
    REQUIRE(hadamard.block() == shape.block);
    RowMatrix<TestType> Y = gaussian<TestType>(3, shape.channels, 4);
    RowMatrix<double> expected(3, shape.channels);
    RowMatrix<double> const H = hadamard_matrix(shape.block) / std::sqrt(static_cast<double>(shape.block));
    for (index_t first = 0; first < shape.channels; first += shape.block)
      expected.middleCols(first, shape.block) = Y.middleCols(first, shape.block).template cast<double>() * H;
    REQUIRE((Y.template cast<double>() * hadamard.matrix() - expected).cwiseAbs().maxCoeff() < 1e-12);
    hadamard.apply(cpu, Y);
    REQUIRE((Y.template cast<double>() - expected).cwiseAbs().maxCoeff() <=
            100 * std::numeric_limits<TestType>::epsilon());
  }
}

TEMPLATE_TEST_CASE("the transform keeps lengths and its inverse undoes it, at real widths", "[hadamard]",
                   float, double) {
  Cpu const cpu(2);
  for (index_t n : {896, 4096, 11008, 13824, 14336, 18944, 29568, 10944}) {
    INFO(n);
    Hadamard const hadamard(n);
    RowMatrix<TestType> const X = gaussian<TestType>(2, n, 5);
    RowMatrix<TestType> Y = X;
    double const bound = 30 * std::log2(static_cast<double>(n)) * std::numeric_limits<TestType>::epsilon();
    hadamard.apply(cpu, Y);
    REQUIRE_FALSE(same_bytes(X, Y));
    for (index_t row = 0; row < 2; ++row) {
      double const before = X.row(row).template cast<double>().norm();
      REQUIRE(std::abs(Y.row(row).template cast<double>().norm() / before - 1) <= bound);
    }
    hadamard.apply_inverse(cpu, Y);
    REQUIRE((Y - X).cwiseAbs().maxCoeff() <= bound * X.cwiseAbs().maxCoeff());
  }
}

TEST_CASE("a unit outlier becomes flat: every magnitude is 1 / sqrt(block)", "[hadamard]") {
  Hadamard const hadamard(11008);
  RowMatrix<double> x = RowMatrix<double>::Zero(1, 11008);
  x(0, 4321) = 1;
  hadamard.apply(Cpu(1), x);
  REQUIRE((x.cwiseAbs().array() - 1 / std::sqrt(11008.0)).abs().maxCoeff() < 1e-16);
}

TEST_CASE("a strided view is transformed in place and its surroundings are left alone", "[hadamard]") {
  Cpu const cpu(2);
  RowMatrix<float> A = gaussian<float>(6, 50, 6);
  RowMatrix<float> const before = A;
  Hadamard const hadamard(40);
  RowMatrix<float> inner = A.block(1, 3, 4, 40);
  hadamard.apply(cpu, inner);
  hadamard.apply(cpu, A.block(1, 3, 4, 40));
  RowMatrix<float> expected = before;
  expected.block(1, 3, 4, 40) = inner;
  REQUIRE(same_bytes(A, expected));
}

TEST_CASE("no rows and one row, one channel and copies", "[hadamard]") {
  Cpu const cpu(2);
  RowMatrix<float> none(0, 12), one = RowMatrix<float>::Constant(1, 1, 2.5f);
  REQUIRE_NOTHROW(Hadamard(12).apply(cpu, none));
  Hadamard(1).apply(cpu, one);
  REQUIRE(one(0, 0) == 2.5f);
  Hadamard const first(172);
  Hadamard const copy = first;
  RowMatrix<float> X = gaussian<float>(1, 172, 7), Y = X;
  first.apply(cpu, X);
  copy.apply(cpu, Y);
  REQUIRE(same_bytes(X, Y));
}

TEST_CASE("the bytes do not depend on threads", "[hadamard]") {
  for (index_t n : {1024, 896, 344})
    for (index_t block : {n, hadamard_block(n, 8)}) {
      Hadamard const hadamard(n, block);
      RowMatrix<float> const X = gaussian<float>(101, n, 8);
      RowMatrix<float> one = X, two = X, four = X;
      hadamard.apply(Cpu(1), one);
      hadamard.apply(Cpu(2), two);
      hadamard.apply(Cpu(4), four);
      REQUIRE(same_bytes(one, two));
      REQUIRE(same_bytes(one, four));
    }
}

TEST_CASE("an impossible width, block or shape gets a sentence", "[hadamard]") {
  REQUIRE_THROWS_AS(Hadamard(13696), InvalidArgument);
  REQUIRE_THROWS_WITH(Hadamard(13696),
                      "[Hadamard] 13696 channels: no Hadamard matrix of order 13696 = 107 * 2^7 is known "
                      "here; use block 128");
  REQUIRE_THROWS_WITH(
      Hadamard(96, 6),
      "[Hadamard] 96 channels: no Hadamard matrix of order 6 = 3 * 2^1 is known here; use block 32");
  REQUIRE_THROWS_WITH(Hadamard(96, 64), "[Hadamard] block 64 does not divide 96 channels; use block 32");
  REQUIRE_THROWS_WITH(Hadamard(96, 0), "[Hadamard] block 0 does not divide 96 channels; use block 32");
  REQUIRE_THROWS_WITH(Hadamard(0), "[Hadamard] 0 channels: at least one is needed");
  RowMatrix<float> X = RowMatrix<float>::Zero(2, 11);
  REQUIRE_THROWS_WITH(Hadamard(12).apply(Cpu(1), X),
                      "[Hadamard] activations of 2 x 11: the transform is for 12 channels");
  REQUIRE_NOTHROW(Hadamard(13696, 128));
}

TEST_CASE("random Hadamard matrices are orthonormal at every width, possible order or not", "[hadamard]") {
  Cpu const cpu(2);
#ifdef NDEBUG
  std::vector<index_t> const widths{1, 2, 3, 5, 64, 96, 127, 128, 288, 896, 1172, 2048};
#else
  std::vector<index_t> const widths{1, 2, 3, 5, 64, 96, 127, 128};
#endif
  for (index_t n : widths) {
    INFO(n);
    RowMatrix<double> const R = random_hadamard(n, 9);
    REQUIRE(orthogonality_ratio(cpu, R) < 1e-6);  // double precision: far below 30
    REQUIRE(same_bytes(R, random_hadamard(n, 9)));
    if (hadamard_order(n)) {
      double const flat = 1 / std::sqrt(static_cast<double>(n));
      REQUIRE((R.cwiseAbs().array() - flat).abs().maxCoeff() < 1e-15);
    }
  }
  REQUIRE_FALSE(same_bytes(random_hadamard(64, 1), random_hadamard(64, 2)));
  REQUIRE_THROWS_WITH(random_hadamard(0, 1), "[random_hadamard] 0 channels: at least one is needed");
}

TEST_CASE("a random Hadamard is the Hadamard of rows with random signs", "[hadamard]") {
  index_t const n = 48;
  RowMatrix<double> const R = random_hadamard(n, 11), H = Hadamard(n).matrix();
  index_t flipped = 0;
  for (index_t i = 0; i < n; ++i) {
    bool const same = R.row(i) == H.row(i);
    REQUIRE((same || R.row(i) == -H.row(i)));
    flipped += same ? 0 : 1;
  }
  REQUIRE(flipped > 5);
  REQUIRE(flipped < n - 5);
}
