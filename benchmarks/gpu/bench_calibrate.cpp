// SPDX-License-Identifier: Apache-2.0
// Learning rotations on the GPU: orthogonalisation beside cuSOLVER's, one step of R1 beside its two products,
// and whole models: R1 and all R2 of the shapes of Llama models, from activations with outliers in bfloat16.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include <dartquant/calibrate/calibrate.hpp>
#include <dartquant/calibrate/qr_orth.hpp>
#include <dartquant/core/half.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/cuda/gpu.hpp>
#include <dartquant/transform/rotation.hpp>

#include <cusolverDn.h>

#include "report.hpp"
#include "timing.hpp"

using namespace dartquant;
using namespace dartquant::bench;
using dartquant::cuda::Gpu;

namespace {

/// The median time of work that waits for the device itself, in milliseconds.
double wall_milliseconds(Gpu const& gpu, int repeats, std::function<void()> const& work) {
  std::vector<double> times;
  for (int i = 0; i <= repeats; ++i) {  // the first fills the pool
    gpu.synchronize();
    auto const start = std::chrono::steady_clock::now();
    work();
    gpu.synchronize();
    if (i > 0)
      times.push_back(
          std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return times[static_cast<std::size_t>(repeats / 2)];
}

/// Activations of RMS about 1 as large models have them: a few channels tens of times larger than the rest,
/// and tokens of different size. Stored in bfloat16.
RowMatrix<BFloat16> outlier_activations(index_t tokens, index_t channels, std::uint64_t seed) {
  std::vector<float> scale(static_cast<std::size_t>(channels), 0.6f);
  for (index_t j = 0; j < channels; j += std::max<index_t>(1, channels / 40))
    scale[static_cast<std::size_t>(j)] = 3.0f + 0.15f * static_cast<float>(j % 97);
  RowMatrix<BFloat16> X(tokens, channels);
  std::uint32_t state = 0x9E3779B9u ^ static_cast<std::uint32_t>(seed);
  for (index_t i = 0; i < tokens; ++i) {
    float const size = 0.7f + 0.6f * static_cast<float>(i % 64) / 64;
    for (index_t j = 0; j < channels; ++j) {
      float sum = 0;  // of four uniform numbers: near enough to Gaussian, and fast
      for (int k = 0; k < 4; ++k) {
        state = state * 1664525u + 1013904223u;
        sum += static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
      }
      X(i, j) = to_bfloat16(size * scale[static_cast<std::size_t>(j)] * 1.7f * sum);
    }
  }
  return X;
}

/// X in float on the device, by way of its bfloat16.
cuda::DeviceMatrix<float> upload(Gpu const& gpu, RowMatrix<BFloat16> const& X, BFloat16* staging) {
  auto const bytes = static_cast<std::size_t>(X.size()) * sizeof(BFloat16);
  cuda::check(cudaMemcpyAsync(staging, X.data(), bytes, cudaMemcpyHostToDevice, gpu.stream()));
  auto device = gpu.matrix<float>(X.rows(), X.cols());
  gpu.copy(DeviceMatrixView<BFloat16>(staging, X.rows(), X.cols()), device.view());
  return device;
}

void measure_qr(Report& report, Gpu const& gpu, index_t n) {
  std::string const name = "QR " + std::to_string(n) + ", fp32";
  if (!report.wants(name)) return;
  auto Z = gpu.matrix<float>(n, n);
  RowMatrix<double> const start = random_hadamard(n, 3);
  RowMatrix<float> near = start.cast<float>();
  Philox const random(4);
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; j += 7)
      near(i, j) += 0.002f * static_cast<float>(random.sign(static_cast<std::uint64_t>(i * n + j)));
  gpu.copy(MatrixView<float const>(near), Z.view());
  double const ms = wall_milliseconds(gpu, 5, [&] { (void)qr_orth<float>(gpu, Z); });
  std::string const order = " " + std::to_string(n) + " time";
  double const library = report.ceiling("geqrf" + order) + report.ceiling("orgqr" + order);
  report.add({name, ms, "ms", library, "geqrf + orgqr", 4});
}

void measure_heads(Report& report, Gpu const& gpu, index_t heads, index_t n) {
  std::string const name =
      "orthonormalize " + std::to_string(heads) + " x " + std::to_string(n) + " x " + std::to_string(n);
  if (!report.wants(name)) return;
  auto const square = [&] { return gpu.matrix<float>(heads * n, n); };
  auto Z = square(), R = square(), L = square(), first = square(), second = square();
  RowMatrix<float> const start = random_hadamard(n, 5).cast<float>();
  for (index_t head = 0; head < heads; ++head)
    gpu.copy(MatrixView<float const>(start), Z.view().rows(head * n, n));
  auto state = gpu.matrix<double>(head_state::count, heads);
  RowMatrix<double> zero = RowMatrix<double>::Zero(head_state::count, heads);
  zero.row(head_state::going).setOnes();
  zero.row(head_state::finite).setOnes();
  gpu.copy(MatrixView<double const>(zero), state.view());
  QrLimits const limits{one_pass_condition, two_pass_condition, two_pass_condition};
  double const ms =
      wall_milliseconds(gpu, 7, [&] { gpu.orthonormalize_heads(Z, R, L, first, second, limits, state); });

  // cuSOLVER has no batched formation of Q: one call after another.
  cusolverDnHandle_t solver{};
  cuda::check(cusolverDnCreate(&solver));
  cuda::check(cusolverDnSetStream(solver, gpu.stream()));
  int const order = static_cast<int>(n);
  Buffer<float> const tau(static_cast<std::size_t>(n));
  Buffer<int> const info(1);
  int geqrf = 0, orgqr = 0;
  cuda::check(cusolverDnSgeqrf_bufferSize(solver, order, order, R.data(), order, &geqrf));
  cuda::check(cusolverDnSorgqr_bufferSize(solver, order, order, order, R.data(), order, tau.data(), &orgqr));
  int const words = std::max(geqrf, orgqr);
  Buffer<float> const work(static_cast<std::size_t>(words));
  auto const all = [&](bool form) {
    for (index_t head = 0; head < heads; ++head) {
      float* const at = R.data() + head * n * n;
      if (form)
        cuda::check(cusolverDnSorgqr(solver, order, order, order, at, order, tau.data(), work.data(), words,
                                     info.data()));
      else
        cuda::check(
            cusolverDnSgeqrf(solver, order, order, at, order, tau.data(), work.data(), words, info.data()));
    }
  };
  double const formed = wall_milliseconds(gpu, 1, [&] { all(true); });
  cuda::check(cusolverDnDestroy(solver));
  report.add({name, ms, "ms", formed, "a loop of orgqr", 20});
}

void measure_step(Report& report, Gpu const& gpu, index_t channels, index_t rows) {
  std::string const name =
      "R1 step, " + std::to_string(channels) + " channels, " + std::to_string(rows) + " rows";
  if (!report.wants(name)) return;
  auto const host = outlier_activations(rows, channels, 1);
  Buffer<BFloat16> const staging(static_cast<std::size_t>(rows * channels));
  auto const X = upload(gpu, host, staging.data());
  auto const found = calibrate_rotation(
      gpu, X, CalibrationOptions<>{.epochs = 12, .batch_rows = rows, .tolerance = 0, .seed = 1});
  double const ms =
      (found.seconds.back() - found.seconds[1]) * 1000 / static_cast<double>(found.seconds.size() - 2);
  auto R = gpu.matrix<float>(channels, channels), O = gpu.matrix<float>(rows, channels);
  gpu.copy(MatrixView<float const>(RowMatrix<float>(found.rotation.cast<float>())), R.view());
  auto const products = [&](Gpu const& on) {
    return wall_milliseconds(on, 5, [&] {
      on.gemm<float>(1.0f, X, Op::none, R, Op::none, 0.0f, O);
      on.gemm<float>(1.0f, X, Op::transpose, O, Op::none, 0.0f, R);
    });
  };
  Gpu const plain(gpu.stream(), {.products = cuda::Products::float32});
  report.add({name, ms, "ms", products(plain), "its two products in FP32", 1 / 1.5});
  report.add({name, ms, "ms", products(gpu), "its two products as they are computed", 0});
}

/// A product of R1's step in every way, timed and against FP64.
void measure_products(Report& report, Gpu const& gpu, index_t rows, index_t channels) {
  struct Way {
    char const* name;
    cuda::Products products;
  };
  std::string const shape =
      ", " + std::to_string(rows) + " x " + std::to_string(channels) + " x " + std::to_string(channels);
  if (!report.wants("product" + shape)) return;
  auto const host = outlier_activations(rows, channels, 1);
  Buffer<BFloat16> const staging(static_cast<std::size_t>(host.size()));
  auto const X = upload(gpu, host, staging.data());
  auto R = gpu.matrix<float>(channels, channels), O = gpu.matrix<float>(rows, channels);
  RowMatrix<float> const rotation = random_hadamard(channels, 3).cast<float>();
  gpu.copy(MatrixView<float const>(rotation), R.view());
  auto wide_X = gpu.matrix<double>(rows, channels), wide_R = gpu.matrix<double>(channels, channels),
       exact = gpu.matrix<double>(rows, channels);
  gpu.copy(X.view(), wide_X.view());
  gpu.copy(R.view(), wide_R.view());
  gpu.gemm<double>(1.0, wide_X, Op::none, wide_R, Op::none, 0.0, exact);
  RowMatrix<double> expected(rows, channels);
  RowMatrix<float> found(rows, channels);
  gpu.copy(exact.view(), MatrixView<double>(expected));
  double plain = 0;
  for (Way const& way : {Way{"FP32", cuda::Products::float32}, Way{"tf32x3", cuda::Products::tf32x3},
                         Way{"TF32", cuda::Products::tf32}}) {
    Gpu const on(gpu.stream(), {.products = way.products});
    double const ms =
        wall_milliseconds(on, 5, [&] { on.gemm<float>(1.0f, X, Op::none, R, Op::none, 0.0f, O); });
    gpu.copy(O.view(), MatrixView<float>(found));
    double const error = (found.cast<double>() - expected).norm() / expected.norm();
    if (plain == 0) plain = ms;
    report.add({std::string("product in ") + way.name + shape, ms, "ms", plain, "FP32", 0});
    report.add({std::string("product in ") + way.name + shape + ": relative error", error, "", 0, "", 0});
  }
}

/// The R2 of one layer, its heads of 128 together.
void measure_layer(Report& report, Gpu const& gpu, index_t heads, index_t tokens) {
  std::string const name = "R2 of a layer, " + std::to_string(heads) + " heads of 128";
  if (!report.wants(name)) return;
  auto const host = outlier_activations(tokens, heads * 128, 2);
  Buffer<BFloat16> const staging(static_cast<std::size_t>(host.size()));
  auto const X = upload(gpu, host, staging.data());
  double const ms = wall_milliseconds(
      gpu, 3, [&] { (void)calibrate_heads(gpu, X, heads, heads, CalibrationOptions<>{.seed = 1}); });
  report.add({name, ms, "ms", 0, "", 0});
}

struct ModelShape {
  char const* name;
  index_t channels, layers, query_heads, kv_heads;
  double seconds;  ///< the target; 0: none
};

/// R1 from activations pooled over layers, then R2 of every layer from fresh activations.
void measure_model(Report& report, ModelShape const& m, index_t rows, index_t tokens) {
  std::string const name = std::string("R1 and all R2, ") + m.name;
  if (!report.wants(name)) return;
  Gpu const gpu;  // a pool of its own: bytes_held is this model's peak
  index_t const head_channels = m.query_heads * 128;
  auto const pooled = outlier_activations(rows, m.channels, 1),
             heads = outlier_activations(tokens, head_channels, 2);
  Buffer<BFloat16> const staging(static_cast<std::size_t>(std::max(pooled.size(), heads.size())));
  auto const start = std::chrono::steady_clock::now();
  Calibration r1;
  {
    auto const X = upload(gpu, pooled, staging.data());
    r1 = calibrate_rotation(gpu, X, CalibrationOptions<>{.seed = 1});
  }
  double const after_r1 = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  double r2_loss = 0;
  for (index_t layer = 0; layer < m.layers; ++layer) {
    auto const X = upload(gpu, heads, staging.data());
    auto const found = calibrate_heads(gpu, X, m.query_heads, m.kv_heads,
                                       CalibrationOptions<>{.seed = static_cast<std::uint64_t>(layer)});
    for (Calibration const& head : found.heads) r2_loss += head.best_loss_per_channel();
  }
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  report.add({name, seconds, "s", m.seconds, "the target", m.seconds > 0 ? 1.0 : 0.0});
  report.add({name + ": R1 alone", after_r1, "s", 0, "", 0});
  double const held = static_cast<double>(gpu.bytes_held() + staging.bytes()) / 1e9;
  report.add({name + ": peak device memory", held, "GB", 0, "", 0});
  report.add({name + ": Whip per channel of R1, learned", r1.best_loss_per_channel(), "",
              r1.initial_loss_per_channel(), "random Hadamard", 0});
  report.add({name + ": Whip per channel of R2, mean", r2_loss / static_cast<double>(m.layers * m.kv_heads),
              "", 0, "", 0});

  // The paper's recipe on the same rows: ten epochs, a fixed learning rate.
  auto const X = upload(gpu, pooled, staging.data());
  auto const paper =
      calibrate_rotation(gpu, X, CalibrationOptions<>{.epochs = 10, .learning_rate = 1.5e-3f, .seed = 1});
  report.add({name + ": Whip of the paper's recipe over ours", paper.best_loss / r1.best_loss, "x", 1,
              "equal", 0.995});
}

int run(int argc, char** argv) {
  Report report("calibrate", argc, argv);
  Gpu const gpu;
  report.device(gpu.name());
  bool const quick = report.quick();
  measure_qr(report, gpu, quick ? 256 : 4096);
  measure_qr(report, gpu, quick ? 128 : 1024);
  measure_heads(report, gpu, quick ? 16 : 1024, 128);
  measure_products(report, gpu, quick ? 512 : 8192, quick ? 256 : 4096);
  measure_step(report, gpu, quick ? 256 : 4096, quick ? 512 : 8192);
  measure_layer(report, gpu, quick ? 2 : 32, quick ? 128 : 2048);
  if (quick) {
    measure_model(report, {"a small shape", 256, 2, 4, 2, 0}, 512, 128);
    return report.finish();
  }
  measure_model(report, {"Llama-2-7B shape", 4096, 32, 32, 32, 10}, 8192, 2048);
  measure_model(report, {"Llama-3-8B shape", 4096, 32, 32, 8, 0}, 8192, 2048);
  measure_model(report, {"Llama-2-70B shape", 8192, 80, 64, 8, 60}, 8192, 2048);
  return report.finish();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
