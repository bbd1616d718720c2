// SPDX-License-Identifier: Apache-2.0
#include <dartquant/transform/rotation.hpp>

#include <Eigen/LU>

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/synthetic.hpp"

using namespace dartquant;
using dartquant::testing::gaussian;

namespace {

double gram_error(RowMatrix<double> const& R) {
  return (R.transpose() * R - RowMatrix<double>::Identity(R.cols(), R.cols())).cwiseAbs().maxCoeff();
}

}  // namespace

TEST_CASE("Haar rotations are orthonormal and depend on the seed alone", "[rotation]") {
  Cpu const cpu(2);
#ifdef NDEBUG
  std::vector<index_t> const orders{1, 2, 3, 5, 64, 96, 127, 128, 288, 896, 2048};
#else
  std::vector<index_t> const orders{1, 2, 3, 5, 64, 96, 127, 128};
#endif
  for (index_t n : orders) {
    INFO(n);
    RowMatrix<double> const R = haar_rotation(n, 17);
    REQUIRE(orthogonality_ratio(cpu, R) < 1e-6);
    REQUIRE(is_orthonormal(cpu, R));
    if (n > 300) continue;
    REQUIRE(R == haar_rotation(n, 17));
    if (n > 2) REQUIRE(R != haar_rotation(n, 18));
  }
  REQUIRE_THROWS_AS(haar_rotation(0, 1), InvalidArgument);
  REQUIRE_THROWS_WITH(haar_rotation(0, 1), "[haar_rotation] order 0: must be at least 1");
}

TEST_CASE("entries of Haar rotations have the moments of the uniform distribution", "[rotation]") {
  // Without the sign of the triangular factor's diagonal the mean of an entry is not zero.
  index_t const n = 3;
  int const count = 2000;
  RowMatrix<double> mean = RowMatrix<double>::Zero(n, n), square = mean;
  double determinant = 0;
  for (int seed = 0; seed < count; ++seed) {
    RowMatrix<double> const R = haar_rotation(n, static_cast<std::uint64_t>(seed));
    mean += R / count;
    square += R.cwiseProduct(R) / count;
    determinant += R.determinant() / count;
  }
  REQUIRE(mean.cwiseAbs().maxCoeff() < 5 * std::sqrt(1.0 / n / count));
  REQUIRE((square.array() - 1.0 / n).abs().maxCoeff() < 5 * std::sqrt(4.0 / 45 / count));
  REQUIRE(std::abs(determinant) < 5 / std::sqrt(static_cast<double>(count)));
}

TEST_CASE("the orthogonality ratio is LAPACK's", "[rotation]") {
  for (index_t n : {1, 2, 7, 65, 300}) {
    RowMatrix<double> R = haar_rotation(n, 3) + 1e-6 * gaussian<double>(n, n, 4);
    RowMatrix<double> const E = R.transpose() * R - RowMatrix<double>::Identity(n, n);
    double const expected =
        E.cwiseAbs().colwise().sum().maxCoeff() / (static_cast<double>(n) * std::pow(2.0, -24));
    REQUIRE(orthogonality_ratio(R) == Approx(expected).epsilon(1e-9));
    REQUIRE(orthogonality_ratio(Cpu(2), R) == orthogonality_ratio(Cpu(4), R));
  }
  REQUIRE(orthogonality_ratio(RowMatrix<double>::Identity(600, 600).eval()) == 0);
  RowMatrix<double> const twice = 2 * RowMatrix<double>::Identity(4, 4);
  REQUIRE(orthogonality_ratio(twice) == Approx(3.0 / 4 * std::pow(2.0, 24)));
  REQUIRE_FALSE(is_orthonormal(twice));
  RowMatrix<double> bad = RowMatrix<double>::Identity(3, 3);
  bad(2, 0) = std::numeric_limits<double>::quiet_NaN();
  REQUIRE(std::isinf(orthogonality_ratio(bad)));
  REQUIRE_FALSE(is_orthonormal(bad));
  RowMatrix<double> const tall = RowMatrix<double>::Zero(3, 2), none(0, 0);
  REQUIRE_THROWS_WITH(orthogonality_ratio(tall),
                      "[orthogonality_ratio] rotation of 3 x 2: must be square and not empty");
  REQUIRE_THROWS_AS(orthogonality_ratio(none), InvalidArgument);
}

TEST_CASE("a rotation rounded to single precision becomes orthonormal to 1e-12", "[rotation]") {
  Cpu const cpu(2);
  for (index_t n : {1, 2, 3, 127, 600}) {
    INFO(n);
    RowMatrix<double> const exact = haar_rotation(n, 21);
    RowMatrix<double> R = exact.cast<float>().cast<double>();
    reorthonormalize(cpu, R);
    REQUIRE(gram_error(R) <= 1e-12);
    REQUIRE((R - exact).cwiseAbs().maxCoeff() < 1e-6);
  }
  RowMatrix<double> far = haar_rotation(20, 22) + 0.05 * gaussian<double>(20, 20, 23);
  reorthonormalize(cpu, far);
  REQUIRE(gram_error(far) <= 1e-12);
  RowMatrix<double> frame = RowMatrix<double>::Zero(6, 9);  // a strided view
  frame.block(1, 2, 4, 4) = haar_rotation(4, 24) * 1.001;
  reorthonormalize(cpu, frame.block(1, 2, 4, 4));
  REQUIRE(gram_error(frame.block(1, 2, 4, 4)) <= 1e-12);
  REQUIRE(std::abs(frame.norm() - 2) < 1e-12);
}

TEST_CASE("a matrix that cannot be made orthonormal is left unchanged with a sentence", "[rotation]") {
  RowMatrix<double> singular = RowMatrix<double>::Identity(3, 3);
  singular(2, 2) = 0;
  RowMatrix<double> const before = singular;
  bool thrown = false;
  try {
    reorthonormalize(Cpu(1), singular);
  } catch (Error const& error) {
    thrown = true;
    REQUIRE(error.kind() == Error::Kind::numerics);
    REQUIRE(std::string(error.what()) ==
            "[reorthonormalize] max |R^T R - I| = 1 after 12 polar steps: the 3 x 3 matrix is too far from "
            "orthonormal; start from the Q of its QR factorisation");
  }
  REQUIRE(thrown);
  REQUIRE(singular == before);
  RowMatrix<double> huge = 1e200 * RowMatrix<double>::Identity(2, 2);
  REQUIRE_THROWS_AS(reorthonormalize(Cpu(1), huge), Error);
  RowMatrix<double> bad = RowMatrix<double>::Identity(2, 2);
  bad(0, 1) = std::numeric_limits<double>::infinity();
  REQUIRE_THROWS_WITH(reorthonormalize(Cpu(1), bad),
                      "[reorthonormalize] rotation entry (0, 1) is inf: every entry must be finite");
}

TEMPLATE_TEST_CASE("weights are rotated in FP64 and rounded once", "[rotation]", float, double) {
  Cpu const cpu(2);
  for (index_t out : {0, 1, 7, 513}) {
    index_t const channels = 33;
    RowMatrix<TestType> const W = gaussian<TestType>(out, channels, 5);
    RowMatrix<double> const R = haar_rotation(channels, 6);
    RowMatrix<double> const expected = W.template cast<double>() * R;
    RowMatrix<TestType> rotated = W;
    rotate_inputs(cpu, rotated, R);
    double const half_ulp =
        std::numeric_limits<TestType>::epsilon() * (std::is_same_v<TestType, float> ? 0.5001 : 50);
    for (index_t i = 0; i < out; ++i)
      for (index_t j = 0; j < channels; ++j)
        REQUIRE(std::abs(static_cast<double>(rotated(i, j)) - expected(i, j)) <=
                half_ulp * std::max(std::abs(expected(i, j)), 1e-3));
    RowMatrix<TestType> turned = W.transpose();
    rotate_outputs(cpu, turned, R);
    RowMatrix<double> const expected_out = R.transpose() * W.transpose().template cast<double>();
    for (index_t i = 0; i < channels; ++i)
      for (index_t j = 0; j < out; ++j)
        REQUIRE(std::abs(static_cast<double>(turned(i, j)) - expected_out(i, j)) <=
                half_ulp * std::max(std::abs(expected_out(i, j)), 1e-3));
  }
}

TEST_CASE("rotating inputs, outputs and activations leaves the network's function alone", "[rotation]") {
  Cpu const cpu(2);
  index_t const channels = 48, hidden = 20;
  RowMatrix<double> const X = gaussian<double>(9, channels, 1), R = haar_rotation(channels, 2),
                          S = haar_rotation(hidden, 3);
  RowMatrix<double> up = gaussian<double>(hidden, channels, 4), down = gaussian<double>(5, hidden, 5);
  RowMatrix<double> const expected = X * up.transpose() * down.transpose();
  rotate_inputs(cpu, up, R);
  rotate_outputs(cpu, up, S);
  rotate_inputs(cpu, down, S);
  RowMatrix<double> const Y = dartquant::apply(cpu, R, X) * up.transpose() * down.transpose();
  REQUIRE((Y - expected).cwiseAbs().maxCoeff() < 1e-11);
}

TEST_CASE("a bias is a column, and strided weights keep their surroundings", "[rotation]") {
  Cpu const cpu(1);
  RowMatrix<double> const R = haar_rotation(4, 9);
  std::vector<float> bias{1, -2, 3, 0.5f};
  rotate_outputs(cpu, MatrixView<float>(bias.data(), 4, 1), R);
  Eigen::Vector4d const expected = R.transpose() * Eigen::Vector4d(1, -2, 3, 0.5);
  for (index_t i = 0; i < 4; ++i)
    REQUIRE(bias[static_cast<std::size_t>(i)] == Approx(expected[i]).margin(1e-6));
  RowMatrix<float> A = gaussian<float>(5, 9, 10);
  RowMatrix<float> const before = A;
  RowMatrix<float> inner = A.block(1, 2, 3, 4);
  rotate_inputs(cpu, inner, R);
  rotate_inputs(cpu, A.block(1, 2, 3, 4), R);
  RowMatrix<float> frame = before;
  frame.block(1, 2, 3, 4) = inner;
  REQUIRE(A == frame);
}

TEST_CASE("bytes of folds and products do not depend on threads", "[rotation]") {
  RowMatrix<double> const R = haar_rotation(160, 1);
  RowMatrix<float> const W = gaussian<float>(700, 160, 2);
  RowMatrix<float> in_one = W, in_four = W, out_one = W.transpose(), out_four = W.transpose();
  rotate_inputs(Cpu(1), in_one, R);
  rotate_inputs(Cpu(4), in_four, R);
  REQUIRE(in_one == in_four);
  rotate_outputs(Cpu(1), out_one, R);
  rotate_outputs(Cpu(4), out_four, R);
  REQUIRE(out_one == out_four);
  REQUIRE(dartquant::apply(Cpu(1), R, W) == dartquant::apply(Cpu(2), R, W));
  RowMatrix<double> A = R.cast<float>().cast<double>(), B = A;
  reorthonormalize(Cpu(1), A);
  reorthonormalize(Cpu(4), B);
  REQUIRE(A == B);
}

TEST_CASE("shapes that do not fit and values that are not finite get a sentence", "[rotation]") {
  Cpu const cpu(1);
  RowMatrix<float> W = RowMatrix<float>::Zero(3, 5);
  RowMatrix<double> R = RowMatrix<double>::Identity(4, 4);
  REQUIRE_THROWS_AS(rotate_inputs(cpu, W, R), InvalidArgument);
  REQUIRE_THROWS_WITH(
      rotate_inputs(cpu, W, R),
      "[rotate_inputs] weight of 3 x 5 and rotation of 4 x 4: the rotation must have as many rows "
      "as the weight has columns");
  REQUIRE_THROWS_WITH(
      rotate_outputs(cpu, W, R),
      "[rotate_outputs] weight of 3 x 5 and rotation of 4 x 4: the rotation must have as many rows "
      "as the weight has rows");
  REQUIRE_THROWS_WITH(
      dartquant::apply(cpu, R, W),
      "[apply] activations of 3 x 5 and rotation of 4 x 4: the rotation must have as many rows as "
      "the activations have channels");
  R(1, 2) = std::numeric_limits<double>::quiet_NaN();
  REQUIRE_THROWS_WITH(rotate_inputs(cpu, W, R),
                      "[rotate_inputs] rotation entry (1, 2) is nan: every entry must be finite");
  RowMatrix<double> const wide = RowMatrix<double>::Zero(2, 3);
  REQUIRE_THROWS_WITH(rotate_outputs(cpu, W, wide),
                      "[rotate_outputs] rotation of 2 x 3: must be square and not empty");
}
