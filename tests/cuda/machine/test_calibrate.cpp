// SPDX-License-Identifier: Apache-2.0
// The calibration of the CPU on the fake device: the same losses, from the same templates.
#include <dartquant/calibrate/calibrate.hpp>
#include <dartquant/calibrate/cayley.hpp>
#include <dartquant/calibrate/procrustes.hpp>

#include <cmath>
#include <cstring>

#include <dartquant/cuda/gpu.hpp>

#include "cuda/fake/device.hpp"
#include "support/catch.hpp"
#include "support/synthetic.hpp"

using namespace dartquant;
using dartquant::cuda::Gpu;
using dartquant::testing::outlier_activations;

namespace {

template <class Options>
void check_same(index_t rows, index_t channels, Options const& options) {
  RowMatrix<float> const X = outlier_activations(rows, channels, 1);
  auto const expected = calibrate_rotation(Cpu(1), X, options);
  Gpu const gpu;
  auto device = gpu.matrix<float>(rows, channels);
  gpu.copy(MatrixView<float const>(X), device.view());
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

}  // namespace

TEST_CASE("calibration on a device: QR-Orth takes the steps of the CPU", "[gpu]") {
  check_same(60, 32, CalibrationOptions<>{.epochs = 6, .seed = 1});
  check_same(90, 24, CalibrationOptions<>{.epochs = 2, .batch_rows = 40, .row_scale = RowScale::unit_rms});
  check_same(40, 16, CalibrationOptions<>{.epochs = 2, .qr_path = QrPath::householder});
  check_same(40, 16, CalibrationOptions<Uniformity, Adam>{.epochs = 3});
}

TEST_CASE("calibration on a device: Procrustes and Cayley", "[gpu]") {
  check_same(60, 16, CalibrationOptions<Whip, Procrustes>{.epochs = 3});
  check_same(60, 16, CalibrationOptions<Whip, Cayley>{.epochs = 3});
}

TEST_CASE("calibration on a device: the steady state allocates nothing", "[gpu]") {
  Gpu const gpu;
  RowMatrix<float> const X = outlier_activations(30, 16, 1);
  auto device = gpu.matrix<float>(30, 16);
  gpu.copy(MatrixView<float const>(X), device.view());
  std::vector<int> allocations;
  (void)calibrate_rotation(gpu, device, {.epochs = 6, .progress = [&](CalibrationProgress const&) {
                                           allocations.push_back(test::fake::counts().allocations);
                                         }});
  REQUIRE(allocations.size() == 6);
  CHECK(allocations.back() == allocations[1]);
}
