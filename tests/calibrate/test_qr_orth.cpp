// SPDX-License-Identifier: Apache-2.0
#include <dartquant/calibrate/objective.hpp>
#include <dartquant/calibrate/qr_orth.hpp>
#include <dartquant/transform/rotation.hpp>

#include <cmath>
#include <cstring>
#include <limits>

#include "support/synthetic.hpp"
#include "support/catch.hpp"

using namespace dartquant;
using dartquant::testing::gaussian;

namespace {

/// |I - R^T R|_1 / (n eps of T).
template <class T>
double lapack_ratio(RowMatrix<T> const& R) {
  RowMatrix<double> const wide = R.template cast<double>();
  return orthogonality_ratio(wide) * std::numeric_limits<double>::epsilon() /
         static_cast<double>(std::numeric_limits<T>::epsilon());
}

/// A square matrix with singular values from 1 down to 1 / condition.
RowMatrix<double> with_condition(index_t n, double condition, std::uint64_t seed) {
  Eigen::VectorXd values(n);
  for (index_t i = 0; i < n; ++i)
    values[i] =
        std::pow(condition, -static_cast<double>(i) / static_cast<double>(std::max<index_t>(1, n - 1)));
  return haar_rotation(n, seed) * values.asDiagonal() * haar_rotation(n, seed + 1);
}

template <class F>
double loss_of_latent(F const& objective, RowMatrix<double> const& X, RowMatrix<double> const& Z) {
  Cpu const cpu(1);
  RowMatrix<double> const O = X * qr_orth<double>(cpu, Z, QrPath::householder).rotation;
  RowMatrix<double> slope(O.rows(), O.cols());
  return cpu.objective<double>(objective, O, slope);
}

template <class F>
void check_gradient(F const& objective, char const* name, double step) {
  index_t const n = 12;
  Cpu const cpu(1);
  RowMatrix<double> const X = gaussian(40, n, 1);
  RowMatrix<double> Z = gaussian(n, n, 2);
  auto const factor = qr_orth<double>(cpu, Z);
  RowMatrix<double> const O = X * factor.rotation;
  RowMatrix<double> slope(O.rows(), n);
  (void)cpu.objective<double>(objective, O, slope);
  RowMatrix<double> A = O.transpose() * slope;
  RowMatrix<double> const gradient = qr_orth_gradient<double>(cpu, factor, A);
  CHECK(A.norm() == Approx(gradient.norm()));

  double worst = 0;
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j) {
      double const z = Z(i, j);
      Z(i, j) = z + step;
      double const above = loss_of_latent(objective, X, Z);
      Z(i, j) = z - step;
      double const below = loss_of_latent(objective, X, Z);
      Z(i, j) = z;
      worst = std::max(worst, std::abs((above - below) / (2 * step) - gradient(i, j)));
    }
  double const error = worst / gradient.cwiseAbs().maxCoeff();
  INFO(name << ": relative error " << error);
  CHECK(error < 1e-6);
  RowMatrix<double> const P = Z.transpose() * gradient;
  for (index_t i = 0; i < n; ++i)
    for (index_t j = i; j < n; ++j) CHECK(std::abs(P(i, j)) < 1e-12 * P.cwiseAbs().maxCoeff());
}

}  // namespace

TEST_CASE("dL/dZ agrees with central differences and Z^T dL/dZ is strictly lower", "[qr_orth]") {
  check_gradient(Whip{}, "Whip", 1e-7);
  check_gradient(Uniformity{}, "Uniformity", 1e-7);
  check_gradient(Kurtosis{}, "Kurtosis", 1e-6);
  check_gradient(Peak{}, "Peak", 1e-7);
}

TEMPLATE_TEST_CASE("R is orthogonal, U has a positive diagonal, and R U = Z", "[qr_orth]", float, double) {
  using T = TestType;
  Cpu const cpu(2);
  for (index_t const n : {1, 2, 3, 5, 64, 96, 127, 128, 288, 896}) {
    RowMatrix<T> const Z = (haar_rotation(n, 3) + 0.2 / std::sqrt(static_cast<double>(n)) * gaussian(n, n, 4))
                               .template cast<T>();
    auto const factor = qr_orth<T>(cpu, Z);
    CAPTURE(n, factor.condition);
    CHECK(factor.path == QrPath::cholesky);
    CHECK(lapack_ratio(factor.rotation) < 30);
    CHECK(factor.lower.diagonal().minCoeff() > 0);
    CHECK(
        factor.lower.template triangularView<Eigen::StrictlyUpper>().toDenseMatrix().cwiseAbs().maxCoeff() ==
        0);
    T const error = (factor.rotation * factor.lower.transpose() - Z).cwiseAbs().maxCoeff();
    CHECK(error < 20 * std::numeric_limits<T>::epsilon());
  }
}

TEST_CASE("a latent of 2048 channels passes LAPACK's test", "[qr_orth]") {
  RowMatrix<float> const Z =
      gaussian<float>(2048, 2048, 1) / 45.f + 2 * RowMatrix<float>::Identity(2048, 2048);
  auto const factor = qr_orth<float>(Cpu(2), Z);
  CAPTURE(factor.condition, factor.passes);
  CHECK(lapack_ratio(factor.rotation) < 30);
}

TEMPLATE_TEST_CASE("the Householder and Cholesky paths agree", "[qr_orth]", float, double) {
  using T = TestType;
  Cpu const cpu(2);
  double const eps = static_cast<double>(std::numeric_limits<T>::epsilon());
  for (double const condition : {1.0, 5.0, 50.0, 1e3}) {
    RowMatrix<T> const Z = with_condition(150, condition, 7).template cast<T>();
    auto const a = qr_orth<T>(cpu, Z, QrPath::cholesky), b = qr_orth<T>(cpu, Z, QrPath::householder);
    CAPTURE(condition, a.condition, a.passes);
    CHECK(a.path == QrPath::cholesky);
    CHECK(b.path == QrPath::householder);
    CHECK(lapack_ratio(a.rotation) < 30);
    CHECK(lapack_ratio(b.rotation) < 30);
    CHECK(static_cast<double>((a.rotation - b.rotation).cwiseAbs().maxCoeff()) < 30 * condition * eps);
    CHECK(static_cast<double>((a.lower - b.lower).cwiseAbs().maxCoeff()) < 100 * eps);
    CHECK(a.condition == Approx(condition).epsilon(0.6));
    CHECK(a.passes == (a.condition > one_pass_condition ? 2 : 1));
  }
}

TEST_CASE("ill-conditioned and rank-deficient latents fall back to Householder", "[qr_orth]") {
  Cpu const cpu(2);
  RowMatrix<double> deficient = gaussian(60, 60, 1);
  deficient.col(30) = deficient.col(10) + deficient.col(11);
  RowMatrix<double> const zero = RowMatrix<double>::Zero(60, 60);
  for (RowMatrix<double> const& Z : {with_condition(60, 1e12, 3), deficient, zero}) {
    auto const factor = qr_orth<double>(cpu, Z);
    CHECK(factor.path == QrPath::householder);
    CHECK(factor.condition > 1e6);
    CHECK(lapack_ratio(factor.rotation) < 30);
    CHECK(factor.lower.diagonal().minCoeff() >= 0);
    CHECK((factor.rotation * factor.lower.transpose() - Z).cwiseAbs().maxCoeff() < 1e-12);
  }
  CHECK_THROWS_WITH(qr_orth<double>(cpu, deficient, QrPath::cholesky),
                    "[qr_orth] Cholesky failed on a 60 x 60 latent: it is too close to singular; use "
                    "QrPath::automatic");
}

TEST_CASE("the bytes of R do not depend on threads", "[qr_orth]") {
  RowMatrix<float> const Z = gaussian<float>(300, 300, 5) / 17.f + 2 * RowMatrix<float>::Identity(300, 300);
  auto const one = qr_orth<float>(Cpu(1), Z), four = qr_orth<float>(Cpu(4), Z);
  CHECK(std::memcmp(one.rotation.data(), four.rotation.data(), sizeof(float) * 300 * 300) == 0);
  RowMatrix<float> A = gaussian<float>(300, 300, 6), B = A;
  CHECK(qr_orth_gradient<float>(Cpu(1), one, A) == qr_orth_gradient<float>(Cpu(4), four, B));
}

TEST_CASE("qr_orth refuses what it cannot factor", "[qr_orth]") {
  RowMatrix<float> Z = RowMatrix<float>::Identity(4, 4);
  Z(2, 1) = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_WITH(qr_orth<float>(Cpu(1), Z),
                    "[qr_orth] the 4 x 4 latent holds a value that is not finite: lower the learning rate");
  CHECK_THROWS_WITH(qr_orth<float>(Cpu(1), RowMatrix<float>(3, 4)),
                    "[qr_orth] 3 x 4: a square matrix is needed");
  CHECK_THROWS_WITH(qr_orth<float>(Cpu(1), RowMatrix<float>(0, 0)),
                    "[qr_orth] 0 x 0: a square matrix is needed");
}
