// SPDX-License-Identifier: Apache-2.0
#include <dartquant/calibrate/calibrate.hpp>
#include <dartquant/calibrate/cayley.hpp>

#include <cmath>
#include <cstring>
#include <utility>

#include <Eigen/LU>

#include "support/catch.hpp"
#include "support/synthetic.hpp"

using namespace dartquant;
using dartquant::testing::gaussian;
using dartquant::testing::outlier_activations;

namespace {

using Options = CalibrationOptions<Whip, Cayley>;

bool same_bytes(RowMatrix<double> const& A, RowMatrix<double> const& B) {
  return A.size() == B.size() &&
         std::memcmp(A.data(), B.data(), sizeof(double) * static_cast<std::size_t>(A.size())) == 0;
}

/// By power iteration, to convergence.
double largest_singular_value(RowMatrix<double> const& W) {
  Eigen::VectorXd x = gaussian(W.cols(), 1, 5);
  for (int round = 0; round < 2000; ++round) x = (W.transpose() * (W * x)).normalized();
  return (W * x).norm();
}

}  // namespace

TEST_CASE("a step is the Cayley transform of the skew gradient", "[cayley]") {
  index_t const n = 12, rows = 60;
  Cpu const cpu(1);
  RowMatrix<double> const X = gaussian(rows, n, 1), R = haar_rotation(n, 2);
  RowMatrix<double> slope(rows, n);
  double const start = cpu.objective<double>(Whip{}, RowMatrix<double>(X * R), slope);
  RowMatrix<double> const gradient = X.transpose() * slope;
  RowMatrix<double> const W = 0.5 * (R * gradient.transpose() - gradient * R.transpose());
  RowMatrix<double> const I = RowMatrix<double>::Identity(n, n);
  auto const step = [&](float rate, int iterations, StepLimit limit) {
    Options const options{.optimizer = {.iterations = iterations, .limit = limit},
                          .learning_rate = rate,
                          .schedule = Schedule::constant};
    detail::Descent<double, Cpu, Whip, Cayley> descent(cpu, options, R, {rows, 1, 1});
    CHECK(descent.forward(X) == Approx(start));
    REQUIRE(descent.backward());
    double const loss = descent.forward(X);
    return std::pair(RowMatrix<double>(descent.rotation()), loss);
  };
  auto const exact = [&](double rate) {
    RowMatrix<double> const left = I - rate / 2 * W, right = (I + rate / 2 * W) * R;
    return RowMatrix<double>(left.partialPivLu().solve(right));
  };
  CHECK((step(0.25f, 60, StepLimit::one_norm).first - exact(0.25)).cwiseAbs().maxCoeff() < 1e-13);
  // Beyond the limit the rate is 2 q / |W|.
  double const one_norm = W.cwiseAbs().colwise().sum().maxCoeff();
  CHECK((step(1e4f, 80, StepLimit::one_norm).first - exact(1 / one_norm)).cwiseAbs().maxCoeff() < 1e-13);
  double const spectral = largest_singular_value(W);
  auto const far = step(1e4f, 80, StepLimit::spectral).first;
  CHECK((far - exact(1 / spectral)).cwiseAbs().maxCoeff() < 0.05);
  // Few iterations: off by O(rate^(iterations + 2)).
  CHECK((step(0.05f, 2, StepLimit::one_norm).first - exact(0.05f)).cwiseAbs().maxCoeff() < 1e-5);
  // The loss falls by the rate times the squared norm of the Riemannian gradient W R.
  float const small = 1e-5f;
  CHECK((start - step(small, 5, StepLimit::one_norm).second) / static_cast<double>(small) ==
        Approx(W.squaredNorm()).epsilon(1e-3));
}

TEST_CASE("Cayley SGD lowers Whip on activations with outliers", "[cayley]") {
  Cpu const cpu(2);
  RowMatrix<float> const X = outlier_activations(3000, 64, 2);
  for (StepLimit const limit : {StepLimit::one_norm, StepLimit::spectral})
    for (int const iterations : {2, 5}) {
      auto const found = calibrate_rotation(
          cpu, X, Options{.optimizer = {.iterations = iterations, .limit = limit}, .epochs = 80, .seed = 3});
      CHECK(found.best_loss < 0.96 * found.initial_loss);
      CHECK(found.orthogonality < 30);
      CHECK(found.learning_rate > 0);
      CHECK(found.steps == 80);
      RowMatrix<float> const O = X * found.rotation.cast<float>();
      CHECK(found.best_loss_per_channel() == Approx(loss_per_channel(cpu, O)).epsilon(1e-4));
    }
  auto const rate =
      calibrate_rotation(cpu, X, Options{.optimizer = {.momentum = 0}, .epochs = 10, .learning_rate = 1.5f});
  CHECK(rate.learning_rate == Approx(1.5));
  CHECK(rate.best_loss < rate.initial_loss);
}

TEST_CASE("Cayley: equal seeds give equal bytes for any threads; heads", "[cayley]") {
  RowMatrix<float> const X = outlier_activations(900, 80, 7);
  Options const options{.epochs = 3, .batch_rows = 400, .seed = 9};
  auto const one = calibrate_rotation(Cpu(1), X, options);
  for (int const threads : {2, 4}) {
    auto const again = calibrate_rotation(Cpu(threads), X, options);
    CHECK(same_bytes(one.rotation, again.rotation));
    CHECK(one.loss == again.loss);
  }
  auto const heads = calibrate_heads(Cpu(1), X, 5, 5, options),
             more = calibrate_heads(Cpu(4), X, 5, 5, options);
  for (std::size_t head = 0; head < 5; ++head) {
    CHECK(heads.heads[head].best_loss < heads.heads[head].initial_loss);
    CHECK(heads.heads[head].orthogonality < 30);
    CHECK(same_bytes(heads.heads[head].rotation, more.heads[head].rotation));
  }
}

TEST_CASE("Cayley on degenerate activations and bad options", "[cayley]") {
  Cpu const cpu(1);
  auto const still =
      calibrate_rotation(cpu, RowMatrix<float>(RowMatrix<float>::Zero(40, 16)), Options{.epochs = 5});
  CHECK(still.status == CalibrationStatus::stalled);
  CHECK(still.orthogonality < 30);
  for (index_t const rows : {1, 9})
    for (RowMatrix<float> const& X :
         {outlier_activations(rows, 24, 3), RowMatrix<float>(RowMatrix<float>::Constant(rows, 24, 2.0f)),
          outlier_activations(rows, 1, 3)}) {
      auto const found = calibrate_rotation(cpu, X, Options{.epochs = 20});
      CHECK(found.orthogonality < 30);
      CHECK(found.best_loss <= found.initial_loss);
      CHECK(found.status != CalibrationStatus::not_finite);
    }
  auto const wild =
      calibrate_rotation(cpu, outlier_activations(100, 24, 3), Options{.epochs = 20, .learning_rate = 1e6f});
  CHECK(wild.orthogonality < 30);
  CHECK(wild.best_loss <= wild.initial_loss);
  RowMatrix<float> const X = outlier_activations(20, 8, 1);
  CHECK_THROWS_WITH(calibrate_rotation(cpu, X, Options{.optimizer = {.momentum = 1}}),
                    "[Cayley] momentum 1: must be in [0, 1)");
  CHECK_THROWS_WITH(calibrate_rotation(cpu, X, Options{.optimizer = {.iterations = 0}}),
                    "[Cayley] 0 iterations: at least one is needed");
  CHECK_THROWS_WITH(calibrate_rotation(cpu, X, Options{.optimizer = {.q = 1}}),
                    "[Cayley] q 1: must be above 0 and below 1");
}
