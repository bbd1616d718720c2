// SPDX-License-Identifier: Apache-2.0
#include <dartquant/calibrate/calibrate.hpp>
#include <dartquant/calibrate/procrustes.hpp>

#include <cmath>
#include <cstring>
#include <limits>

#include <Eigen/SVD>

#include "support/catch.hpp"
#include "support/synthetic.hpp"

using namespace dartquant;
using dartquant::testing::gaussian;
using dartquant::testing::outlier_activations;

namespace {

using Options = CalibrationOptions<Whip, Procrustes>;

bool same_bytes(RowMatrix<double> const& A, RowMatrix<double> const& B) {
  return A.size() == B.size() &&
         std::memcmp(A.data(), B.data(), sizeof(double) * static_cast<std::size_t>(A.size())) == 0;
}

/// A symmetric positive definite matrix with eigenvalues from 1 down to 1 / condition.
RowMatrix<double> definite(index_t n, double condition, std::uint64_t seed) {
  Eigen::VectorXd values(n);
  for (index_t i = 0; i < n; ++i)
    values[i] = std::pow(condition, -static_cast<double>(i) / static_cast<double>(n - 1));
  RowMatrix<double> const V = haar_rotation(n, seed);
  return V * values.asDiagonal() * V.transpose();
}

double largest(RowMatrix<double> const& A) { return A.cwiseAbs().maxCoeff(); }

/// Never rises: the initial loss, then that of every epoch.
void check_falls(Calibration const& found) {
  double before = found.initial_loss;
  index_t rises = 0;
  for (double const loss : found.loss) {
    rises += !(loss <= before);
    before = loss;
  }
  CHECK(rises == 0);
  CHECK(found.best_loss < found.initial_loss);
  CHECK(found.orthogonality < 30);
}

/// An objective whose derivative is never finite.
struct NoSlope {
  template <class V>
  void operator()(V const& x, V& value, V& slope) const {
    value = x * x;
    slope = x / (x - x);
  }
};

}  // namespace

TEST_CASE("the polar factor of Q H is Q, for any guess of the smallest singular value", "[polar]") {
  Cpu const cpu(2);
  for (double const condition : {1.0, 50.0, 2000.0})
    for (double const guess : {0.0, 1.0, 30.0}) {  // times the truth
      index_t const n = 40;
      RowMatrix<double> const Q = haar_rotation(n, 1), M = 7 * Q * definite(n, condition, 2);
      auto const wide = polar_factor<double>(cpu, M, guess * 7 / condition);
      auto const narrow = polar_factor<float>(cpu, RowMatrix<float>(M.cast<float>()), guess * 7 / condition);
      CAPTURE(condition, guess);
      CHECK(wide.converged);
      CHECK(narrow.converged);
      CHECK(largest(wide.rotation - Q) < 1e-12 * condition);
      CHECK(largest(narrow.rotation.cast<double>() - Q) < 1e-5 * std::sqrt(condition) + 1e-6);
      CHECK(orthogonality_ratio(RowMatrix<double>(narrow.rotation.cast<double>())) < 30);
      CHECK(narrow.iterations <= 9);
      auto const plain = polar_factor<float>(cpu, RowMatrix<float>(M.cast<float>()), guess * 7 / condition,
                                             40, PolarPath::products);
      CHECK(plain.converged);
      CHECK(plain.factorisations == 0);
      CHECK(largest((plain.rotation - narrow.rotation).cast<double>()) < 2e-6 * condition + 1e-6);
      if (guess == 1) CHECK(plain.iterations <= 6 + static_cast<int>(std::log(condition) + 2));
    }
}

TEST_CASE("the polar factor is that of the singular value decomposition at every size and scale", "[polar]") {
  Cpu const cpu(2);
  index_t const n = 24;
  for (double const condition : {1e3, 1e7, 1e9})
    for (double const scale : {1.0, 1e-30, 1e30}) {
      CAPTURE(condition, scale);
      RowMatrix<double> const M = scale * haar_rotation(n, 5) * definite(n, condition, 6);
      Eigen::JacobiSVD<Eigen::MatrixXd> const svd(Eigen::MatrixXd(M / scale),
                                                  Eigen::ComputeFullU | Eigen::ComputeFullV);
      RowMatrix<double> const Q = svd.matrixU() * svd.matrixV().transpose();
      for (PolarPath const path : {PolarPath::automatic, PolarPath::products}) {
        auto const wide = polar_factor<double>(cpu, M, 0, 60, path);
        CHECK(wide.converged);
        CHECK(largest(wide.rotation - Q) < 1e-14 * condition);
        CHECK(largest(wide.rotation.transpose() * wide.rotation - RowMatrix<double>::Identity(n, n)) < 1e-13);
        // In float a singular value below rounding has any direction: orthogonal, and of the largest trace.
        auto const narrow = polar_factor<float>(cpu, RowMatrix<float>(M.cast<float>()), 0, 60, path);
        if (!narrow.converged) continue;
        RowMatrix<double> const R = narrow.rotation.cast<double>();
        CHECK(orthogonality_ratio(R) < 30);
        CHECK((R.transpose() * M).trace() / scale == Approx(svd.singularValues().sum()).epsilon(1e-4));
      }
    }
  // Rank 3 of 24, the rest rounding: a rotation of the largest trace, or none.
  RowMatrix<double> const low = gaussian(n, 3, 7) * gaussian(3, n, 8);
  auto const any = polar_factor<float>(cpu, RowMatrix<float>(low.cast<float>()));
  if (any.converged) {
    RowMatrix<double> const R = any.rotation.cast<double>();
    CHECK(orthogonality_ratio(R) < 30);
    CHECK(
        (R.transpose() * low).trace() ==
        Approx(Eigen::JacobiSVD<Eigen::MatrixXd>(Eigen::MatrixXd(low)).singularValues().sum()).epsilon(1e-4));
  }
}

TEST_CASE("the polar factor has the same bytes for any number of threads", "[polar][threads]") {
  RowMatrix<float> const M = gaussian(300, 300, 9).cast<float>();
  auto const one = polar_factor<float>(Cpu(1), M), many = polar_factor<float>(Cpu(4), M);
  CHECK(one.factorisations == 2);
  CHECK(std::memcmp(one.rotation.data(), many.rotation.data(), sizeof(float) * 300 * 300) == 0);
}

TEST_CASE("a matrix without a polar factor is reported", "[polar]") {
  Cpu const cpu(1);
  RowMatrix<double> M = RowMatrix<double>::Zero(5, 5);
  CHECK_FALSE(polar_factor<double>(cpu, M).converged);
  M(2, 3) = 1;
  CHECK_FALSE(polar_factor<double>(cpu, M).converged);
  M(1, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK_FALSE(polar_factor<double>(cpu, M).converged);
  RowMatrix<double> one(1, 1);
  one << -3;
  CHECK(polar_factor<double>(cpu, one).rotation(0, 0) == Approx(-1));
  CHECK_THROWS_WITH(polar_factor<double>(cpu, RowMatrix<double>(2, 3)),
                    "[polar_factor] 2 x 3: a square matrix is needed");
  CHECK_THROWS_WITH(polar_factor<double>(cpu, M, -1),
                    "[polar_factor] smallest singular value -1: must not be negative");
  CHECK_THROWS_WITH(polar_factor<double>(cpu, M, 0, 0),
                    "[polar_factor] 0 iterations: at least one is needed");
}

TEST_CASE("a step solves the Procrustes problem of minus the gradient", "[procrustes]") {
  index_t const n = 12, rows = 60;
  Cpu const cpu(1);
  RowMatrix<double> const X = gaussian(rows, n, 1), R = haar_rotation(n, 2);
  RowMatrix<double> slope(rows, n), phi = X * R;
  double const start = cpu.objective<double>(Whip{}, RowMatrix<double>(X * R), slope);
  phi = phi.unaryExpr([](double y) { return std::copysign(std::exp(-std::abs(y)), y); });
  RowMatrix<double> const G = X.transpose() * phi / rows;
  CHECK(largest(X.transpose() * slope + G) < 1e-14);

  // -G is the derivative of the loss by R: central differences along random directions.
  for (std::uint64_t seed : {3u, 4u, 5u}) {
    RowMatrix<double> const D = gaussian(n, n, seed);
    double const h = 1e-6;
    double const up = cpu.objective<double>(Whip{}, RowMatrix<double>(X * (R + h * D)), slope),
                 down = cpu.objective<double>(Whip{}, RowMatrix<double>(X * (R - h * D)), slope);
    CHECK((up - down) / (2 * h) == Approx(-G.cwiseProduct(D).sum()).epsilon(1e-6));
  }
  for (double const proximity : {0.0, 0.3}) {
    Options const options{.optimizer = {.proximity = proximity}};
    detail::Descent<double, Cpu, Whip, Procrustes> descent(cpu, options, R, {rows, 1, 1});
    CHECK(descent.forward(X) == Approx(start));
    REQUIRE(descent.backward());
    // R'^T M is symmetric for the polar factor R' of M, and its trace is the largest possible one.
    RowMatrix<double> const M = G * std::sqrt(static_cast<double>(n)) / G.norm() + proximity * R;
    RowMatrix<double> const H = descent.rotation().transpose() * M;
    CHECK(largest(H - H.transpose()) < 1e-10);
    CHECK(H.trace() > (R.transpose() * M).trace());
  }
}

TEST_CASE("on one batch the loss never rises", "[procrustes]") {
  Cpu const cpu(2);
  RowMatrix<float> const X = outlier_activations(900, 48, 2);
  RowMatrix<double> const wide = X.cast<double>();
  for (double const proximity : {0.0, 0.02})
    check_falls(calibrate_rotation(
        cpu, X, Options{.optimizer = {.proximity = proximity, .stop = 0}, .epochs = 100, .seed = 3}));
  auto const plain = calibrate_rotation(
      cpu, wide, Options{.optimizer = {.proximity = 0, .stop = 0}, .epochs = 100, .seed = 3});
  check_falls(plain);
  CHECK(plain.shortened > 0);
  // An objective whose curvature is nowhere near that of Whip.
  auto const error = calibrate_rotation(
      cpu, X, CalibrationOptions<QuantError, Procrustes>{.optimizer = {.stop = 0}, .epochs = 30});
  check_falls(error);
  CHECK(error.shortened > 0);
}

TEST_CASE("Procrustes passes QR-Orth's loss in a quarter of its steps", "[procrustes]") {
  Cpu const cpu(2);
  RowMatrix<float> const X = outlier_activations(5000, 64, 2);
  auto const rival = calibrate_rotation(cpu, X, {.batch_rows = 2000, .seed = 3});
  auto const found = calibrate_rotation(cpu, X, Options{.batch_rows = 2000, .seed = 3});
  CHECK(found.steps == 39);  // 13 epochs of 3 batches
  CHECK(rival.steps == 159);
  CHECK(found.initial_loss == Approx(rival.initial_loss).epsilon(1e-5));
  CHECK(found.best_loss < rival.best_loss);
  CHECK(found.status == CalibrationStatus::converged);
  CHECK(found.orthogonality < 30);
  CHECK(found.learning_rate == 0);
  CHECK(largest(found.rotation.transpose() * found.rotation - RowMatrix<double>::Identity(64, 64)) <= 1e-12);
  auto const whole = calibrate_rotation(cpu, X, Options{.epochs = 200, .batch_rows = 5000, .seed = 3});
  CHECK(whole.steps < 200);  // the stop rule
  CHECK(whole.status == CalibrationStatus::converged);
  check_falls(whole);
}

TEST_CASE("Procrustes: equal seeds give equal bytes for any threads and strides", "[procrustes]") {
  RowMatrix<float> const X = outlier_activations(1500, 80, 7);
  RowMatrix<float> wide = RowMatrix<float>::Zero(1500, 99);
  wide.middleCols(7, 80) = X;
  for (index_t const batch_rows : {400, 4096}) {
    Options const options{.epochs = 4, .batch_rows = batch_rows, .seed = 9};
    auto const one = calibrate_rotation(Cpu(1), X, options);
    for (int const threads : {2, 4}) {
      auto const again = calibrate_rotation(Cpu(threads), wide.middleCols(7, 80), options);
      CHECK(same_bytes(one.rotation, again.rotation));
      CHECK(one.loss == again.loss);
    }
  }
}

TEST_CASE("Procrustes on heads", "[procrustes][heads]") {
  RowMatrix<float> const X = outlier_activations(500, 6 * 16, 20);
  Options const options{.epochs = 8, .seed = 2};
  auto const found = calibrate_heads(Cpu(1), X, 6, 3, options),
             threads = calibrate_heads(Cpu(4), X, 6, 3, options);
  REQUIRE(found.heads.size() == 3);
  for (std::size_t head = 0; head < 3; ++head) {
    check_falls(found.heads[head]);
    CHECK(same_bytes(found.heads[head].rotation, threads.heads[head].rotation));
  }
}

TEST_CASE("Procrustes on activations of any rank gives an orthonormal rotation", "[procrustes]") {
  Cpu const cpu(1);
  auto const run = [&](RowMatrix<float> const& X) {
    auto const found = calibrate_rotation(cpu, X, Options{.epochs = 12, .seed = 1});
    CHECK(found.orthogonality < 30);
    CHECK(found.best_loss <= found.initial_loss);
    CHECK(found.status != CalibrationStatus::not_finite);
    return found;
  };
  RowMatrix<float> const zeros = RowMatrix<float>::Zero(40, 16);
  auto const still = run(zeros);
  CHECK(still.status == CalibrationStatus::stalled);
  CHECK(largest(still.rotation - random_hadamard(16, 1)) < 1e-12);

  auto const constant = run(RowMatrix<float>::Constant(40, 16, 1.0f));
  CHECK(constant.best_loss < constant.initial_loss);
  auto const token = run(outlier_activations(1, 48, 3));
  CHECK(token.best_loss < token.initial_loss);
  CHECK(token.best_loss_per_channel() < 0.4);  // one token can be made nearly flat: 0.368
  RowMatrix<float> X = outlier_activations(200, 32, 4);
  X.rightCols(20) = X.leftCols(20);  // duplicate channels
  X.col(3).setZero();
  check_falls(run(X));
  check_falls(run(outlier_activations(5, 64, 5)));
  (void)run(outlier_activations(30, 1, 6));
  (void)run(outlier_activations(30, 2, 6));
  (void)run(1e-6f * X);
  (void)run(1e12f * X);
  RowMatrix<float> sparse = RowMatrix<float>::Zero(300, 16);
  sparse.topRows(20) = outlier_activations(20, 16, 8);
  auto const batches = calibrate_rotation(cpu, sparse, Options{.batch_rows = 10, .seed = 1});
  CHECK(batches.status != CalibrationStatus::not_finite);  // most batches are zeros
  CHECK(batches.steps == 30);
  CHECK(batches.orthogonality < 30);

  auto const control = calibrate_rotation(cpu, X, CalibrationOptions<Variance, Procrustes>{});
  CHECK(control.status == CalibrationStatus::stalled);
  CHECK(control.steps == 0);
  auto const broken = calibrate_rotation(cpu, X, CalibrationOptions<NoSlope, Procrustes>{.epochs = 5});
  CHECK(broken.status == CalibrationStatus::not_finite);
  CHECK(largest(broken.rotation - random_hadamard(32, 0)) < 1e-12);
}

TEST_CASE("Procrustes refuses bad options with one sentence", "[procrustes]") {
  Cpu const cpu(1);
  RowMatrix<float> const X = outlier_activations(20, 8, 1);
  CHECK_THROWS_WITH(calibrate_rotation(cpu, X, Options{.optimizer = {.proximity = -1}}),
                    "[Procrustes] proximity -1: must be finite and not negative");
  CHECK_THROWS_WITH(calibrate_rotation(cpu, X, Options{.optimizer = {.stop = 1}}),
                    "[Procrustes] stop 1: must be in [0, 1)");
  CHECK_THROWS_WITH(calibrate_rotation(cpu, X, Options{.learning_rate = 0.5f}),
                    "[calibrate] learning_rate 0.5: this optimizer takes none; leave it unset");
  CHECK_THROWS_WITH(calibrate_rotation(cpu, X, Options{.epochs = -1}),
                    "[calibrate] epochs -1: must be positive, or 0 for about 40 steps");
}
