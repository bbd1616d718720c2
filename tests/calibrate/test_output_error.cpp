// SPDX-License-Identifier: Apache-2.0
#include <dartquant/calibrate/calibrate.hpp>
#include <dartquant/calibrate/cayley.hpp>
#include <dartquant/calibrate/output_error.hpp>

#include <cmath>
#include <cstring>

#include "support/catch.hpp"
#include "support/synthetic.hpp"

using namespace dartquant;
using dartquant::testing::gaussian;
using dartquant::testing::outlier_activations;

namespace {

using Batch = detail::RotatedBatch<double, Cpu, OutputError>;

double range_of(Eigen::RowVectorXd const& y) {
  return std::max(y.maxCoeff(), 0.0) - std::min(y.minCoeff(), 0.0);
}

/// q(Y) - Y by its definition: 16 levels over the range, zero exact.
RowMatrix<double> rounding_error(RowMatrix<double> const& Y) {
  RowMatrix<double> E(Y.rows(), Y.cols());
  for (index_t t = 0; t < Y.rows(); ++t) {
    double const scale = range_of(Y.row(t)) / 15,
                 zero = std::nearbyint(-std::min(Y.row(t).minCoeff(), 0.0) / scale);
    for (index_t i = 0; i < Y.cols(); ++i) {
      double const level = std::min(std::max(std::nearbyint(Y(t, i) / scale) + zero, 0.0), 15.0);
      E(t, i) = scale * (level - zero) - Y(t, i);
    }
  }
  return E;
}

}  // namespace

TEST_CASE("the output error is that of the layer's outputs", "[output-error]") {
  Cpu const cpu(2);
  index_t const rows = 30, n = 16, outputs = 24;
  RowMatrix<double> const X = gaussian(rows, n, 1), W = gaussian(outputs, n, 2), R = haar_rotation(n, 3);
  OutputError const objective{.factor = W.transpose()};
  Batch batch(cpu, objective, rows, n);
  RowMatrix<double> const Y = X * R, E = rounding_error(Y);
  RowMatrix<double> const outputs_error = (Y + E) * (W * R).transpose() - X * W.transpose();
  CHECK(batch.loss(cpu, X, R) == Approx(outputs_error.squaredNorm() / rows).epsilon(1e-10));

  OutputError const plain{.factor = RowMatrix<double>::Identity(n, n)};
  RowMatrix<double> slope(rows, n);
  CHECK(Batch(cpu, plain, rows, n).loss(cpu, X, R) ==
        Approx(cpu.objective<double>(QuantError{}, Y, slope)).epsilon(1e-10));
}

TEST_CASE("its gradient is exact where the residuals are held constant", "[output-error]") {
  Cpu const cpu(1);
  index_t const rows = 40, n = 12;
  RowMatrix<double> X = gaussian(rows, n, 4);
  X.row(0).setZero();              // nothing to round
  X.row(1) = X.row(1).cwiseAbs();  // one end at zero when R = I
  RowMatrix<double> const W = gaussian(20, n, 5), H = W.transpose() * W;
  OutputError const objective{.factor = W.transpose()};
  for (RowMatrix<double> const& R :
       {haar_rotation(n, 6), RowMatrix<double>(RowMatrix<double>::Identity(n, n))}) {
    RowMatrix<double> const Y = X * R;
    RowMatrix<double> U = rounding_error(Y);
    U.row(0).setZero();
    for (index_t t = 1; t < rows; ++t) U.row(t) /= range_of(Y.row(t));
    auto const smooth = [&](RowMatrix<double> const& A) {
      RowMatrix<double> const moved = X * A;
      double sum = 0;
      for (index_t t = 0; t < rows; ++t)
        sum += std::pow(range_of(moved.row(t)), 2) * (U.row(t) * A.transpose() * H * A).dot(U.row(t));
      return sum / rows;
    };
    Batch batch(cpu, objective, 100, n);
    CHECK(batch.loss(cpu, X, R) == Approx(smooth(R)).epsilon(1e-10));
    RowMatrix<double> G = RowMatrix<double>::Ones(n, n);
    batch.gradient(cpu, 3, 2, G);
    G.array() = (G.array() - 2) / 3;
    for (std::uint64_t seed : {7u, 8u, 9u}) {
      RowMatrix<double> const D = gaussian(n, n, seed);
      double const h = 1e-6;
      CHECK((smooth(R + h * D) - smooth(R - h * D)) / (2 * h) ==
            Approx(G.cwiseProduct(D).sum()).epsilon(1e-5));
    }
  }
}

TEST_CASE("Cayley lowers the output error, with equal bytes for any threads", "[output-error]") {
  RowMatrix<float> const X = outlier_activations(700, 32, 1);
  RowMatrix<double> W = gaussian(40, 32, 2);
  W.col(3) *= 5;
  CalibrationOptions<OutputError, Cayley> const options{
      .objective = {.factor = W.transpose()}, .epochs = 20, .batch_rows = 300, .seed = 3};
  auto const one = calibrate_rotation(Cpu(1), X, options), many = calibrate_rotation(Cpu(4), X, options);
  CHECK(one.best_loss < 0.97 * one.initial_loss);
  CHECK(one.orthogonality < 30);
  CHECK(one.loss == many.loss);
  CHECK(std::memcmp(one.rotation.data(), many.rotation.data(), sizeof(double) * 32 * 32) == 0);

  auto wrong = options;
  wrong.objective.factor = RowMatrix<double>::Identity(31, 31);
  CHECK_THROWS_WITH(calibrate_rotation(Cpu(1), X, wrong),
                    "[OutputError] factor is 31 x 31 but there are 32 channels");
  wrong.objective.factor.resize(0, 0);
  CHECK_THROWS_WITH(calibrate_rotation(Cpu(1), X, wrong),
                    "[OutputError] factor is 0 x 0: one row per channel and finite values are needed");
}
