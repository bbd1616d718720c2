// SPDX-License-Identifier: Apache-2.0
#pragma once

// The calibration of the CPU on a device: the same losses, from the same templates; heads one by one
// on the CPU, together on the device.
#include <dartquant/calibrate/calibrate.hpp>
#include <dartquant/calibrate/cayley.hpp>
#include <dartquant/calibrate/procrustes.hpp>
#include <dartquant/calibrate/qr_orth.hpp>
#include <dartquant/transform/rotation.hpp>

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include <dartquant/cuda/gpu.hpp>

#include "cuda/no_device.hpp"
#include "support/catch.hpp"
#include "support/synthetic.hpp"

using namespace dartquant;
using dartquant::cuda::Gpu;
using dartquant::testing::gaussian;
using dartquant::testing::outlier_activations;

namespace {

[[nodiscard]] cuda::DeviceMatrix<float> on_device(Gpu const& gpu, RowMatrix<float> const& host) {
  auto device = gpu.matrix<float>(host.rows(), host.cols());
  gpu.copy(MatrixView<float const>(host), device.view());
  return device;
}

template <class Options>
void check_same(index_t rows, index_t channels, Options const& options) {
  RowMatrix<float> const X = outlier_activations(rows, channels, 1);
  auto const expected = calibrate_rotation(Cpu(1), X, options);
  Gpu const gpu;
  auto const device = on_device(gpu, X);
  auto const found = calibrate_rotation(gpu, device, options);
  REQUIRE(found.loss.size() == expected.loss.size());
  CHECK(found.initial_loss == Approx(expected.initial_loss).epsilon(1e-4));
  for (std::size_t i = 0; i < found.loss.size(); ++i)
    CHECK(found.loss[i] == Approx(expected.loss[i]).epsilon(1e-4));
  CHECK(found.status == expected.status);
  CHECK(found.qr_path == expected.qr_path);
  CHECK(found.orthogonality < 30);
  CHECK((found.rotation.transpose() * found.rotation - RowMatrix<double>::Identity(channels, channels))
            .cwiseAbs()
            .maxCoeff() <= 1e-12);
  auto const again = calibrate_rotation(gpu, device, options);
  CHECK(again.loss == found.loss);
  CHECK(std::memcmp(again.rotation.data(), found.rotation.data(),
                    sizeof(double) * static_cast<std::size_t>(found.rotation.size())) == 0);
}

template <class Options>
void check_heads(index_t tokens, index_t query_heads, index_t kv_heads, index_t head_dim,
                 Options const& options) {
  RowMatrix<float> const X = outlier_activations(tokens, query_heads * head_dim, 3);
  auto const expected = calibrate_heads(Cpu(1), X, query_heads, kv_heads, options);
  Gpu const gpu;
  auto const found = calibrate_heads(gpu, on_device(gpu, X), query_heads, kv_heads, options);
  REQUIRE(found.heads.size() == expected.heads.size());
  for (std::size_t head = 0; head < found.heads.size(); ++head) {
    Calibration const &one = found.heads[head], &other = expected.heads[head];
    CAPTURE(head, one.largest_condition, other.largest_condition);
    REQUIRE(one.loss.size() == other.loss.size());
    CHECK(one.initial_loss == Approx(other.initial_loss).epsilon(1e-4));
    for (std::size_t i = 0; i < one.loss.size(); ++i)
      CHECK(one.loss[i] == Approx(other.loss[i]).epsilon(1e-4));
    CHECK(one.status == other.status);
    CHECK(one.steps == other.steps);
    CHECK(one.qr_path == other.qr_path);
    CHECK(one.largest_condition == Approx(other.largest_condition).epsilon(0.02));
    CHECK(one.learning_rate == Approx(other.learning_rate).epsilon(1e-3));
    CHECK(one.orthogonality < 30);
    CHECK((one.rotation - other.rotation).cwiseAbs().maxCoeff() < 2e-3);
  }
}

}  // namespace

TEST_CASE("calibration on a device: QR-Orth takes the steps of the CPU", "[gpu]") {
  if (test::no_device()) return;
  check_same(60, 32, CalibrationOptions<>{.epochs = 6, .seed = 1});
  check_same(90, 24, CalibrationOptions<>{.epochs = 2, .batch_rows = 40, .row_scale = RowScale::unit_rms});
  check_same(40, 16, CalibrationOptions<>{.epochs = 2, .qr_path = QrPath::householder});
  check_same(40, 16, CalibrationOptions<Uniformity, Adam>{.epochs = 3});
}

TEST_CASE("QR-Orth on a device: latents that one pass in FP32 would not do", "[gpu]") {
  if (test::no_device()) return;
  index_t const n = 60;
  RowMatrix<double> const U = haar_rotation(n, 1), V = haar_rotation(n, 2);
  for (double const condition : {5.0, 300.0, 2e4}) {
    RowMatrix<double> scaled = U;
    for (index_t j = 0; j < n; ++j)
      scaled.col(j) *= std::pow(condition, -static_cast<double>(j) / static_cast<double>(n - 1));
    RowMatrix<float> const Z = (scaled * V).cast<float>();
    RowMatrix<double> const expected = qr_orth<float>(Cpu(1), Z).rotation.cast<double>();
    for (auto const precision : {cuda::GramPrecision::float64, cuda::GramPrecision::float32}) {
      Gpu const gpu(0, {.gram = precision});
      auto const found = qr_orth<float>(gpu, on_device(gpu, Z));
      RowMatrix<double> R(n, n);
      gpu.copy(DeviceMatrixView<float const>(found.rotation), MatrixView<double>(R));
      bool const wide = precision == cuda::GramPrecision::float64;
      CAPTURE(condition, wide, found.condition, found.passes);
      if (wide) CHECK(found.path == QrPath::cholesky);
      if (wide) CHECK(found.passes == (condition > wide_one_pass_condition ? 2 : 1));
      CHECK(orthogonality_ratio(R) < 30);
      CHECK((R - expected).cwiseAbs().maxCoeff() < 2e-6 * condition);
    }
  }
}

TEST_CASE("calibration on a device: Procrustes and Cayley", "[gpu]") {
  if (test::no_device()) return;
  check_same(60, 16, CalibrationOptions<Whip, Procrustes>{.epochs = 3});
  check_same(60, 16, CalibrationOptions<Whip, Cayley>{.epochs = 3});
}

TEST_CASE("heads together: the losses of the heads one by one", "[gpu]") {
  if (test::no_device()) return;
  check_heads(30, 6, 2, 16, CalibrationOptions<>{.epochs = 4, .seed = 1});
  check_heads(40, 2, 2, 12,
              CalibrationOptions<>{.epochs = 2, .batch_rows = 16, .row_scale = RowScale::unit_rms});
  check_heads(20, 2, 1, 9, CalibrationOptions<Uniformity, Adam>{.epochs = 3});
  check_heads(20, 2, 2, 8, CalibrationOptions<>{.epochs = 2, .qr_path = QrPath::householder});
  check_heads(90, 2, 1, 70, CalibrationOptions<>{.epochs = 3, .seed = 2});  // several tiles, one not full
}

TEST_CASE("heads together: a step that is too long, and restarts of the latent", "[gpu]") {
  if (test::no_device()) return;
  CalibrationOptions<> options{.epochs = 5, .schedule = Schedule::constant};
  options.relative_step = 0.9;
  options.initial = InitialRotation::given;
  options.given = gaussian<double>(8, 8, 4);
  options.given.col(0) = options.given.col(1) + 1e-3 * options.given.col(2);  // condition above 100
  check_heads(30, 2, 2, 8, options);
  options.given.col(0) = options.given.col(1);  // singular: Householder
  Gpu const gpu;
  auto const found = calibrate_heads(gpu, on_device(gpu, outlier_activations(30, 16, 3)), 2, 2, options);
  CHECK(found.heads[0].qr_path == QrPath::householder);
  CHECK(found.heads[0].orthogonality < 30);
}
