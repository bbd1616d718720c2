// SPDX-License-Identifier: Apache-2.0
#include <dartquant/calibrate/calibrate.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "support/synthetic.hpp"
#include "support/catch.hpp"

using namespace dartquant;
using dartquant::testing::outlier_activations;

namespace {

bool same_bytes(RowMatrix<double> const& A, RowMatrix<double> const& B) {
  return A.rows() == B.rows() && A.cols() == B.cols() &&
         std::memcmp(A.data(), B.data(), sizeof(double) * static_cast<std::size_t>(A.size())) == 0;
}

/// An objective whose derivative is never finite.
struct NoSlope {
  template <class V>
  void operator()(V const& x, V& value, V& slope) const {
    value = x * x;
    slope = x / (x - x);
  }
};

/// Whip per channel of X R.
double whip(RowMatrix<float> const& X, RowMatrix<double> const& R) {
  RowMatrix<float> const O = X * R.cast<float>();
  return loss_per_channel(Cpu(1), O);
}

}  // namespace

TEST_CASE("the call of the design: paper's rate, objective named, everything else by default",
          "[calibrate]") {
  Cpu const cpu(2);
  RowMatrix<float> const X = outlier_activations(600, 64, 1);
  auto const found =
      calibrate_rotation(cpu, X, {.objective = Whip{}, .epochs = 10, .learning_rate = 1.5e-3f, .seed = 1});
  CHECK(found.learning_rate == Approx(1.5e-3));
  CHECK(found.loss.size() == 10);
  CHECK(found.steps == 10);
  CHECK(found.best_loss < found.initial_loss);
  CHECK(found.best_loss_per_channel() == Approx(whip(X, found.rotation)).epsilon(1e-5));
  CHECK(found.initial_loss_per_channel() == Approx(whip(X, random_hadamard(64, 1))).epsilon(1e-5));
}

TEST_CASE("Whip falls far below a random Hadamard on activations with outliers", "[calibrate]") {
  Cpu const cpu(2);
  RowMatrix<float> const X = outlier_activations(9000, 96, 2);
  std::vector<double> told;
  auto const found = calibrate_rotation(
      cpu, X, {.seed = 3, .progress = [&](CalibrationProgress const& p) { told.push_back(p.loss); }});
  CHECK(found.initial_loss_per_channel() > 0.5);
  CHECK(found.best_loss_per_channel() < 0.485);
  CHECK(whip(X, found.rotation) < 0.487);
  CHECK(found.status == CalibrationStatus::converged);
  CHECK(found.steps == 159);  // 53 epochs of 3 batches
  CHECK(told == found.loss);
  CHECK(found.orthogonality < 30);
  CHECK((found.rotation.transpose() * found.rotation - RowMatrix<double>::Identity(96, 96))
            .cwiseAbs()
            .maxCoeff() <= 1e-12);
  RowMatrix<double> const fresh = outlier_activations<double>(2000, 96, 2);
  CHECK(whip(fresh.cast<float>(), found.rotation) < whip(fresh.cast<float>(), random_hadamard(96, 3)) - 0.01);
}

TEST_CASE("every objective improves on where it began, and Variance has no signal", "[calibrate]") {
  Cpu const cpu(2);
  RowMatrix<float> const X = outlier_activations(1000, 64, 4);
  auto const improves = [&](auto options) {
    options.epochs = 40;
    auto const found = calibrate_rotation(cpu, X, options);
    CHECK(found.best_loss < 0.97 * found.initial_loss);
    CHECK(found.orthogonality < 30);
    return found;
  };
  auto const uniform = improves(CalibrationOptions<Uniformity>{});
  CHECK(whip(X, uniform.rotation) < whip(X, random_hadamard(64, 0)) - 0.005);
  (void)improves(CalibrationOptions<Kurtosis>{});
  (void)improves(CalibrationOptions<Peak>{});
  (void)improves(CalibrationOptions<QuantError>{});
  (void)improves(CalibrationOptions<Whip, Adam>{});

  auto const still = calibrate_rotation(cpu, X, CalibrationOptions<Variance>{.seed = 5});
  CHECK(still.status == CalibrationStatus::stalled);
  CHECK(still.steps == 0);
  CHECK((still.rotation - random_hadamard(64, 5)).cwiseAbs().maxCoeff() < 1e-12);
}

TEST_CASE("float and double calibrations agree", "[calibrate]") {
  RowMatrix<double> const X = outlier_activations<double>(500, 32, 6);
  auto const wide = calibrate_rotation(Cpu(1), X, {.epochs = 5, .seed = 1});
  auto const narrow = calibrate_rotation(Cpu(1), RowMatrix<float>(X.cast<float>()), {.epochs = 5, .seed = 1});
  CHECK((wide.rotation - narrow.rotation).cwiseAbs().maxCoeff() < 1e-4);
}

TEST_CASE("equal seeds give equal bytes for any threads and strides, other seeds do not", "[calibrate]") {
  RowMatrix<float> const X = outlier_activations(3000, 80, 7);
  RowMatrix<float> wide = RowMatrix<float>::Zero(3000, 99);
  wide.middleCols(7, 80) = X;
  CalibrationOptions<> const options{.epochs = 6, .batch_rows = 700, .seed = 9};
  auto const one = calibrate_rotation(Cpu(1), X, options);
  for (int const threads : {1, 2, 4}) {
    auto const again = calibrate_rotation(Cpu(threads), wide.middleCols(7, 80), options);
    CHECK(same_bytes(one.rotation, again.rotation));
    CHECK(one.loss == again.loss);
  }
  auto other = options;
  other.seed = 10;
  CHECK_FALSE(same_bytes(one.rotation, calibrate_rotation(Cpu(2), X, other).rotation));
  CalibrationOptions<Uniformity> const uniform{.epochs = 2, .batch_rows = 700};
  CHECK(same_bytes(calibrate_rotation(Cpu(1), X, uniform).rotation,
                   calibrate_rotation(Cpu(4), X, uniform).rotation));
}

TEST_CASE("any number of channels and rows", "[calibrate]") {
  for (index_t const channels : {1, 2, 3, 5, 64, 96, 127, 128, 288})
    for (index_t const rows : {index_t{1}, index_t{301}}) {
      RowMatrix<float> const X = outlier_activations(rows, channels, 8);
      auto const found = calibrate_rotation(Cpu(2), X, {.epochs = 4, .batch_rows = 100});
      CAPTURE(channels, rows);
      CHECK(found.orthogonality < 30);
      CHECK(found.best_loss <= found.initial_loss);
      CHECK(found.rotation.rows() == channels);
    }
}

TEST_CASE("896 channels", "[calibrate]") {
  auto const found = calibrate_rotation(Cpu(2), outlier_activations(1200, 896, 8), {.epochs = 3});
  CHECK(found.orthogonality < 30);
  CHECK(found.best_loss < found.initial_loss);
}

TEST_CASE("a calibration begins where it is told", "[calibrate]") {
  Cpu const cpu(1);
  RowMatrix<float> const X = outlier_activations(400, 16, 9);
  RowMatrix<double> const start = haar_rotation(16, 77);
  auto const given =
      calibrate_rotation(cpu, X, {.epochs = 1, .initial = InitialRotation::given, .given = start, .seed = 1});
  CHECK(given.initial_loss_per_channel() == Approx(whip(X, start)).epsilon(1e-5));
  auto const identity = calibrate_rotation(cpu, X, {.epochs = 1, .initial = InitialRotation::identity});
  CHECK(identity.initial_loss_per_channel() == Approx(loss_per_channel(cpu, X)).epsilon(1e-5));
  auto const haar = calibrate_rotation(cpu, X, {.epochs = 1, .initial = InitialRotation::haar, .seed = 77});
  CHECK(haar.initial_loss == Approx(given.initial_loss).epsilon(1e-5));
  auto const householder = calibrate_rotation(cpu, X, {.epochs = 3, .qr_path = QrPath::householder});
  CHECK(householder.qr_path == QrPath::householder);
  auto const cholesky = calibrate_rotation(cpu, X, {.epochs = 3});
  CHECK(cholesky.qr_path == QrPath::cholesky);
  CHECK((householder.rotation - cholesky.rotation).cwiseAbs().maxCoeff() < 1e-4);
}

TEST_CASE("the best rotation is kept and the status tells what happened", "[calibrate]") {
  Cpu const cpu(1);
  RowMatrix<float> const X = outlier_activations(500, 32, 10);
  auto const wild =
      calibrate_rotation(cpu, X, {.epochs = 30, .learning_rate = 1e5f, .schedule = Schedule::constant});
  CHECK(wild.best_loss <= wild.initial_loss);
  CHECK(wild.orthogonality < 30);
  CHECK(wild.largest_condition > 1);
  auto const broken = calibrate_rotation(cpu, X, CalibrationOptions<NoSlope>{.epochs = 5});
  CHECK(broken.status == CalibrationStatus::not_finite);
  CHECK(broken.orthogonality < 30);
  CHECK((broken.rotation - random_hadamard(32, 0)).cwiseAbs().maxCoeff() < 1e-12);
  auto const early = calibrate_rotation(
      cpu, X, {.epochs = 2, .relative_step = 0.01, .schedule = Schedule::constant, .tolerance = 0});
  CHECK(early.status == CalibrationStatus::max_epochs);
}

TEST_CASE("unit-RMS rows make the scale of the rows irrelevant", "[calibrate]") {
  RowMatrix<float> const X = outlier_activations(700, 32, 11);
  RowMatrix<float> scaled = X * 0.125f;  // exact
  scaled.row(5).setZero();
  RowMatrix<float> plain = X;
  plain.row(5).setZero();
  CalibrationOptions<> const options{.epochs = 5, .batch_rows = 200, .row_scale = RowScale::unit_rms};
  auto const a = calibrate_rotation(Cpu(1), plain, options), b = calibrate_rotation(Cpu(1), scaled, options);
  CHECK((a.rotation - b.rotation).cwiseAbs().maxCoeff() < 1e-5);
  CHECK(a.initial_loss_per_channel() > 0.45);
}

TEST_CASE("one rotation per KV head, learned from the rows of its query heads", "[calibrate][heads]") {
  index_t const tokens = 700, query_heads = 6, kv_heads = 3, head_dim = 16;
  RowMatrix<float> X(tokens, query_heads * head_dim);
  for (index_t head = 0; head < query_heads; ++head)
    X.middleCols(head * head_dim, head_dim) =
        outlier_activations(tokens, head_dim, 20 + static_cast<unsigned>(head));
  CalibrationOptions<> options{.epochs = 12, .batch_rows = 500, .seed = 2};
  index_t told = 0;
  options.progress = [&](CalibrationProgress const& p) { told = std::max(told, p.epoch); };
  auto const found = calibrate_heads(Cpu(1), X, query_heads, kv_heads, options);
  REQUIRE(found.heads.size() == 3);
  CHECK(told == 3);
  options.progress = nullptr;
  for (index_t head = 0; head < kv_heads; ++head) {
    auto const& one = found.heads[static_cast<std::size_t>(head)];
    CHECK(one.best_loss < one.initial_loss);
    CHECK(one.orthogonality < 30);
    RowMatrix<float> stacked(2 * tokens, head_dim);
    stacked << X.middleCols(2 * head * head_dim, head_dim), X.middleCols((2 * head + 1) * head_dim, head_dim);
    CHECK(same_bytes(one.rotation, calibrate_rotation(Cpu(1), stacked, options).rotation));
  }
  auto const threads = calibrate_heads(Cpu(4), X, query_heads, kv_heads, options);
  for (std::size_t head = 0; head < 3; ++head)
    CHECK(same_bytes(found.heads[head].rotation, threads.heads[head].rotation));
}

TEST_CASE("calibration refuses bad input with one sentence", "[calibrate]") {
  Cpu const cpu(1);
  RowMatrix<float> X = outlier_activations(20, 8, 1);
  CHECK_THROWS_WITH(calibrate_rotation(cpu, RowMatrix<float>(0, 8)),
                    "[calibrate_rotation] X is 0 x 8: at least one row and one channel are needed");
  CHECK_THROWS_WITH(calibrate_rotation(cpu, X, {.epochs = -1}),
                    "[calibrate] epochs -1: must be positive, or 0 for about 160 steps");
  CHECK_THROWS_WITH(calibrate_rotation(cpu, X, {.batch_rows = 0}),
                    "[calibrate] batch_rows 0: at least one row is needed");
  CHECK_THROWS_WITH(
      calibrate_rotation(cpu, X, {.learning_rate = -1.f}),
      "[calibrate] learning_rate -1: must be positive and finite; leave it unset to have it chosen");
  CHECK_THROWS_WITH(calibrate_rotation(cpu, X, {.optimizer = Sgd{.momentum = 1}}),
                    "[Sgd] momentum 1: must be in [0, 1)");
  CHECK_THROWS_WITH(calibrate_rotation(cpu, X, CalibrationOptions<QuantError>{.objective = {.bits = 9}}),
                    "[QuantError] 9 bits: 2 to 8 are possible");
  CHECK_THROWS_WITH(calibrate_rotation(cpu, X, {.initial = InitialRotation::given}),
                    "[calibrate_rotation] the given rotation is 0 x 0 but X has 8 channels");
  CHECK_THROWS_WITH(calibrate_heads(cpu, X, 4, 3),
                    "[calibrate_heads] 4 query heads and 3 KV heads: the second must divide the first");
  CHECK_THROWS_WITH(
      calibrate_heads(cpu, X, 3, 1),
      "[calibrate_heads] X is 20 x 8 for 3 heads: rows are needed, and the heads must divide the "
      "channels");
  X(17, 5) = std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH(calibrate_rotation(cpu, X),
                    "[calibrate_rotation] X holds inf at row 17, channel 5: all activations must be finite");
  CHECK_THROWS_AS(calibrate_heads(cpu, X, 2, 2), InvalidArgument);
}
