// SPDX-License-Identifier: Apache-2.0
//
// What a calibration costs beside what it cannot avoid.
//
//   step/2048     one QR-Orth step, 2048 channels, 4096 rows, all hardware threads. of_products = its time
//   over that
//                 of its two unavoidable products, X R and O^T dL/dO, measured in the same run.
//   step/Procrustes/2048, step/Cayley/2048  the same for the other two optimizers.
//   learn/NAME/512/EPOCHS  whole calibrations, 16384 rows in batches of 4096: the loss reached against the
//   time. heads/64x128  calibrate_heads: 64 heads of 128, 4096 tokens, 4 epochs of one step. objective/F loss
//   and slope of 4096 x 2048 values. of_bandwidth = bytes read and written per second over those of
//                 a copy (read + write) of the same size, measured in the same run.
//   qr/2048       the orthonormalisation alone: Cholesky, one and two passes.
#include <dartquant/calibrate/calibrate.hpp>
#include <dartquant/calibrate/cayley.hpp>
#include <dartquant/calibrate/procrustes.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <string>

namespace {

namespace dq = dartquant;
using dq::index_t;
using Matrix = dq::RowMatrix<float>;

dq::Cpu const& cpu() {
  static dq::Cpu const machine;
  return machine;
}

/// Laplace values with a large channel every 64, rows of unit RMS.
Matrix activations(index_t tokens, index_t channels) {
  Matrix X(tokens, channels);
  dq::Philox const random(1);
  cpu().parallel_for(tokens, 64, [&](index_t first, index_t last) {
    for (index_t i = first * channels; i < last * channels; ++i) {
      double const u = random.uniform(static_cast<std::uint64_t>(i)) - 0.5;
      double const value = std::copysign(std::log(1 - 2 * std::abs(u) + 1e-9), -u);
      X.data()[i] = static_cast<float>(i % 64 == 5 ? 10 * value + 5 : value);
    }
  });
  cpu().normalize_rows<float>(X);
  return X;
}

template <class Body>
double seconds(Body const& body) {
  auto const start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <class Optimizer>
void step(benchmark::State& state) {
  index_t const channels = state.range(0), rows = 4096;
  Matrix const X = activations(rows, channels);
  dq::CalibrationOptions<dq::Whip, Optimizer> options{.schedule = dq::Schedule::constant};
  if constexpr (dq::detail::takes_learning_rate<Optimizer>()) options.learning_rate = 1e-2f;
  Matrix const start = dq::random_hadamard(channels, 1).cast<float>();
  // Procrustes: as on changing batches, so that a step is one product X R and not a search.
  dq::detail::Descent<float, dq::Cpu, dq::Whip, Optimizer> descent(cpu(), options, start, {rows, 2, 500});
  Matrix O(rows, channels), A(channels, channels);
  double loss = descent.forward(X);
  if (!descent.backward()) state.SkipWithError("no gradient");
  double products = 0, steps = 0;
  for (auto _ : state) {
    double const taken = seconds([&] {
      loss = descent.forward(X);
      if (!descent.backward()) state.SkipWithError("no gradient");
    });
    steps += taken;
    products += seconds([&] {
      cpu().gemm<float>(1, X, dq::Op::none, descent.rotation(), dq::Op::none, 0, O);
      cpu().gemm<float>(1, O, dq::Op::transpose, X, dq::Op::none, 0, A);
    });
    state.SetIterationTime(taken);
  }
  double const flops =
      4.0 * static_cast<double>(rows * channels * channels) * static_cast<double>(state.iterations());
  state.counters["of_products"] = steps / products;
  state.counters["products_GFLOPS"] = flops / products * 1e-9;
  state.counters["threads"] = cpu().threads();
  state.counters["whip_per_channel"] = loss / static_cast<double>(channels);
}

/// Whip per channel of 16384 rows after so many epochs of four batches, and the time they took.
template <class Optimizer>
void learn(benchmark::State& state) {
  index_t const channels = state.range(0);
  Matrix const X = activations(16384, channels);
  dq::CalibrationOptions<dq::Whip, Optimizer> const options{.epochs = state.range(1), .seed = 1};
  double loss = 0;
  for (auto _ : state) {
    auto const found = dq::calibrate_rotation(cpu(), X, options);
    loss = dq::loss_per_channel(cpu(), dq::apply(cpu(), found.rotation, X));
  }
  state.counters["whip_per_channel"] = loss;
  state.counters["threads"] = cpu().threads();
}

void qr(benchmark::State& state) {
  index_t const channels = 2048;
  Matrix Z = dq::random_hadamard(channels, 1).cast<float>();
  if (state.range(0) == 2) Z.col(3) = 20 * Z.col(3) + Z.col(4);  // conditioned badly enough for a second pass
  int passes = 0;
  for (auto _ : state) passes = dq::qr_orth<float>(cpu(), Z).passes;
  state.counters["passes"] = passes;
  state.counters["threads"] = cpu().threads();
}

void heads(benchmark::State& state) {
  index_t const count = 64, head_dim = 128, tokens = 4096;
  Matrix const X = activations(tokens, count * head_dim);
  dq::CalibrationOptions<> const options{.epochs = 4};
  double orthogonality = 0;
  for (auto _ : state)
    for (auto const& one : dq::calibrate_heads(cpu(), X, count, count, options).heads)
      orthogonality = std::max(orthogonality, one.orthogonality);
  state.counters["worst_orthogonality"] = orthogonality;
  state.counters["head_steps_per_second"] = benchmark::Counter(static_cast<double>(count * options.epochs),
                                                               benchmark::Counter::kIsIterationInvariantRate);
  state.counters["threads"] = cpu().threads();
}

template <class Objective>
void objective(benchmark::State& state) {
  index_t const rows = 4096, channels = 2048;
  Matrix const O = activations(rows, channels);
  Matrix slope = Matrix::Zero(rows, channels);
  double copies = 0, passes = 0;
  for (auto _ : state) {
    copies += seconds([&] { cpu().copy(dq::MatrixView<float const>(O), dq::MatrixView<float>(slope)); });
    double const taken =
        seconds([&] { benchmark::DoNotOptimize(cpu().objective<float>(Objective{}, O, slope)); });
    passes += taken;
    state.SetIterationTime(taken);
  }
  double const bytes = 8.0 * static_cast<double>(rows * channels) * static_cast<double>(state.iterations());
  state.counters["of_bandwidth"] = copies / passes;
  state.counters["GB_per_s"] = bytes / passes * 1e-9;
  state.counters["copy_GB_per_s"] = bytes / copies * 1e-9;
  state.counters["threads"] = cpu().threads();
}

BENCHMARK(step<dq::Sgd>)->Name("step")->Arg(512)->Arg(2048)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(step<dq::Procrustes>)
    ->Name("step/Procrustes")
    ->Arg(512)
    ->Arg(2048)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(step<dq::Cayley>)
    ->Name("step/Cayley")
    ->Arg(512)
    ->Arg(2048)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(learn<dq::Sgd>)
    ->Name("learn/QR-Orth")
    ->ArgsProduct({{512}, {3, 10, 40}})
    ->Iterations(1)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(learn<dq::Cayley>)
    ->Name("learn/Cayley")
    ->ArgsProduct({{512}, {3, 10, 40}})
    ->Iterations(1)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(learn<dq::Procrustes>)
    ->Name("learn/Procrustes")
    ->ArgsProduct({{512}, {1, 3, 10}})
    ->Iterations(1)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(qr)->Name("qr/2048")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(heads)->Name("heads/64x128")->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(objective<dq::Whip>)->Name("objective/Whip")->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(objective<dq::Uniformity>)
    ->Name("objective/Uniformity")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(objective<dq::Kurtosis>)
    ->Name("objective/Kurtosis")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(objective<dq::Variance>)
    ->Name("objective/Variance")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(objective<dq::Peak>)->Name("objective/Peak")->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(objective<dq::QuantError>)
    ->Name("objective/QuantError")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
