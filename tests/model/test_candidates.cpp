// SPDX-License-Identifier: Apache-2.0
// The candidates of benchmarks/bench_candidates.cpp: derivatives, and a descent that descends.
#include <dartquant/calibrate/calibrate.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/transform/rotation.hpp>

#include <cmath>
#include <vector>

#include "candidates/lbfgs.hpp"
#include "candidates/mixed.hpp"
#include "support/catch.hpp"

using namespace dartquant;

namespace {

RowMatrix<float> laplace_rows(index_t rows, index_t channels) {
  Philox const random(7);
  RowMatrix<float> X(rows, channels);
  for (index_t i = 0; i < X.size(); ++i) {
    double const u = random.uniform(static_cast<std::uint64_t>(i)) - 0.5;
    X.data()[i] = static_cast<float>(std::copysign(std::log(1 - 2 * std::abs(u) + 1e-9), -u));
  }
  X.col(3) *= 9;
  Cpu(1).normalize_rows<float>(X);
  return X;
}

}  // namespace

TEST_CASE("Whip and peak mixed have the derivative of their sum", "[calibrate][candidates]") {
  index_t const n = 24;
  Philox const random(3);
  std::vector<double> x, slope(static_cast<std::size_t>(n)), unused(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i) x.push_back(3 * random.uniform(static_cast<std::uint64_t>(i)) - 1.4);
  for (double const share : {0.0, 0.3, 1.0}) {
    candidates::WhipAndPeak const objective{.share = share};
    auto const value = [&](std::vector<double> const& at) {
      return objective(VectorView<double const>(at.data(), n), VectorView<double>(unused.data(), n));
    };
    static_cast<void>(objective(VectorView<double const>(x.data(), n), VectorView<double>(slope.data(), n)));
    for (std::size_t i = 0; i < x.size(); ++i) {
      auto up = x, down = x;
      up[i] += 1e-6;
      down[i] -= 1e-6;
      CHECK(slope[i] == Approx((value(up) - value(down)) / 2e-6).epsilon(1e-6).margin(1e-8));
    }
  }
  CHECK_THROWS_AS((candidates::WhipAndPeak{.share = 1.5}.validate()), InvalidArgument);
}

TEST_CASE("L-BFGS on rotations never raises the loss and keeps the rotation orthogonal",
          "[calibrate][candidates]") {
  RowMatrix<float> const X = laplace_rows(512, 32);
  std::vector<double> losses;
  CalibrationOptions<Whip, candidates::Lbfgs> options{.epochs = 60, .batch_rows = 512, .seed = 1};
  options.progress = [&](CalibrationProgress const& epoch) { losses.push_back(epoch.loss); };
  Calibration const found = calibrate_rotation(Cpu(1), X, options);
  REQUIRE(losses.size() > 5);
  for (std::size_t i = 1; i < losses.size(); ++i) CHECK(losses[i] <= losses[i - 1] * (1 + 1e-6));
  Calibration const descent =
      calibrate_rotation(Cpu(1), X, CalibrationOptions<>{.epochs = 60, .batch_rows = 512, .seed = 1});
  CHECK(found.best_loss < 0.5 * (found.initial_loss + descent.best_loss));
  RowMatrix<double> const rest =
      RowMatrix<double>::Identity(32, 32) - found.rotation.transpose() * found.rotation;
  CHECK(rest.cwiseAbs().colwise().sum().maxCoeff() < 30 * 32 * 1.2e-7);

  options.batch_rows = 128;
  CHECK_THROWS_AS(calibrate_rotation(Cpu(1), X, options), InvalidArgument);
}
