// SPDX-License-Identifier: Apache-2.0
// gpu_bench_rows: the kernels on rows against a copy of as many bytes, measured in the same run. GB/s count
// what must be moved: each input read once, each result written once.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <dartquant/kernels.h>
#include <dartquant/cuda/hadamard.hpp>
#include <dartquant/cuda/quantize.hpp>

#include "report.hpp"
#include "timing.hpp"

namespace {

using namespace dartquant;
using namespace dartquant::bench;

/// Values of a random walk of bits: normal enough for ranges, never zeros, which would use less power. They
/// come again after 2^20.
std::vector<std::uint16_t> random_bfloat16(std::size_t count) {
  constexpr std::size_t period = std::size_t{1} << 20;
  std::vector<std::uint16_t> values(count);
  std::uint32_t state = 1;
  for (std::size_t i = 0; i < std::min(count, period); ++i) {
    state = state * 1664525u + 1013904223u;
    values[i] = to_bfloat16(static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-30f).bits;
  }
  for (std::size_t i = period; i < count; i += period)
    std::copy_n(values.begin(), std::min(period, count - i), values.begin() + static_cast<std::ptrdiff_t>(i));
  return values;
}

/// Sets of buffers that together exceed the L2 cache, used in turn.
struct Sets {
  static constexpr int count = 4;
  std::vector<Buffer<std::uint16_t>*> x, y;
  std::vector<Buffer<float>*> scales;
  int next = 0;

  Sets(std::int64_t rows, std::int64_t cols) {
    auto const size = static_cast<std::size_t>(rows * cols);
    std::vector<std::uint16_t> const values = random_bfloat16(size);
    for (int i = 0; i < count; ++i) {
      x.push_back(new Buffer<std::uint16_t>(size));
      y.push_back(new Buffer<std::uint16_t>(size));
      scales.push_back(new Buffer<float>(size / 32));
      cuda::check(cudaMemcpy(x.back()->data(), values.data(), 2 * size, cudaMemcpyHostToDevice));
      cuda::check(cudaMemset(y.back()->data(), 0x11, 2 * size));
    }
  }
  Sets(Sets const&) = delete;
  Sets& operator=(Sets const&) = delete;
  ~Sets() {
    for (auto* b : x) delete b;
    for (auto* b : y) delete b;
    for (auto* b : scales) delete b;
  }
  int turn() { return next = (next + 1) % count; }
};

/// A base on the device.
struct Base {
  std::int64_t order = 1;
  Buffer<std::int8_t> signs{1024 * 1024};
  explicit Base(std::int64_t block) {
    if (dartquant_hadamard_base(block, nullptr, 0, &order) != 0 || order == 1) return;
    std::vector<std::int8_t> host(static_cast<std::size_t>(order * order));
    dartquant_hadamard_base(block, host.data(), host.size(), &order);
    cuda::check(cudaMemcpy(signs.data(), host.data(), host.size(), cudaMemcpyHostToDevice));
  }
  [[nodiscard]] cuda::RowTransform transform(std::int64_t block) const {
    return {nullptr, block, order == 1 ? nullptr : signs.data(), order};
  }
};

class Rows {
 public:
  Rows(Report& report, std::int64_t rows, std::int64_t cols)
      : report_(report), rows_(rows), cols_(cols), sets_(rows, cols) {}

  void run(std::int64_t block, double target) {
    Base const base(block);
    cuda::RowTransform const transform = base.transform(block);
    std::string const shape =
        std::to_string(rows_) + " x " + std::to_string(cols_) + ", block " + std::to_string(block);
    double const values = static_cast<double>(rows_ * cols_);
    measure("Hadamard bf16, " + shape, 4 * values, target,
            [&](int i) { cuda::hadamard(nullptr, transform, x(i), y(i)); });
    measure("Hadamard + quantize int4 per token, " + shape, 2.5 * values, target,
            [&](int i) { cuda::quantize(nullptr, transform, x(i), levels(i, 4, 0)); });
    measure("Hadamard + quantize int4 per 128, " + shape, (2.5 + 4.0 / 128) * values, target,
            [&](int i) { cuda::quantize(nullptr, transform, x(i), levels(i, 4, 128)); });
    measure("Hadamard + quantize int8 per token, " + shape, 3 * values, target,
            [&](int i) { cuda::quantize(nullptr, transform, x(i), levels(i, 8, 0)); });
  }

  void run_storage() {
    double const values = static_cast<double>(rows_ * cols_);
    std::string const shape = std::to_string(rows_) + " x " + std::to_string(cols_);
    measure("quantize int4 per token, " + shape, 2.5 * values, 0.9,
            [&](int i) { cuda::quantize(nullptr, {}, x(i), levels(i, 4, 0)); });
    measure("RMSNorm + Hadamard + quantize int4 per token, " + shape, 2.5 * values, 0.9, [&](int i) {
      cuda::quantize(nullptr, cuda::RowNorm{nullptr, cuda::ElementType::float32, 1e-5}, {nullptr, 4096}, x(i),
                     levels(i, 4, 0));
    });
    measure("dequantize int4 per 128 to bf16, " + shape, (2.5 + 4.0 / 128) * values, 0.9,
            [&](int i) { cuda::dequantize(nullptr, levels(i, 4, 128), y(i)); });
  }

 private:
  cuda::ConstRows x(int i) const {
    return {sets_.x[static_cast<std::size_t>(i)]->data(), cuda::ElementType::bfloat16, rows_, cols_, cols_};
  }
  cuda::Rows y(int i) const {
    return {sets_.y[static_cast<std::size_t>(i)]->data(), cuda::ElementType::bfloat16, rows_, cols_, cols_};
  }
  /// In a buffer of results, where values as inputs stay what they are.
  cuda::QuantizedRows levels(int i, int bits, std::int64_t group) const {
    auto const at = static_cast<std::size_t>((i + 1) % Sets::count);
    return {rows_,
            cols_,
            bits,
            Symmetry::symmetric,
            group,
            reinterpret_cast<std::uint8_t*>(sets_.y[at]->data()),
            cols_ * bits / 8,
            sets_.scales[at]->data(),
            group == 0 ? 1 : cols_ / group,
            nullptr,
            0};
  }

  template <class Call>
  void measure(std::string const& name, double bytes, double target, Call const& call) {
    if (!report_.wants(name)) return;
    double const time = median_milliseconds(
        nullptr, [&] { call(sets_.turn()); }, 9, Sets::count);
    // A copy that moves as many bytes, half read and half written, over the same buffers.
    auto const portion = static_cast<std::size_t>(bytes / 2) / 16 * 16;
    auto const copy = [&] {
      auto const i = static_cast<std::size_t>(sets_.turn());
      cuda::check(cudaMemcpyAsync(sets_.y[i]->data(), sets_.x[i]->data(), portion, cudaMemcpyDeviceToDevice,
                                  nullptr));
    };
    double const copied = median_milliseconds(nullptr, copy, 9, Sets::count);
    report_.add({name, bytes / time * 1e-6, "GB/s", 2.0 * static_cast<double>(portion) / copied * 1e-6,
                 "copy", target});
  }

  Report& report_;
  std::int64_t rows_, cols_;
  Sets sets_;
};

/// One row: what a decoded token waits for.
void latency(Report& report) {
  std::string const name = "Hadamard + quantize int4, one row of 4096, time of a call";
  if (!report.wants(name)) return;
  Sets sets(1, 4096);
  cuda::RowTransform const transform{nullptr, 4096, nullptr, 1};
  cuda::QuantizedRows const q{1,    4096,
                              4,    Symmetry::symmetric,
                              0,    reinterpret_cast<std::uint8_t*>(sets.y[0]->data()),
                              2048, sets.scales[0]->data(),
                              1,    nullptr,
                              0};
  cuda::ConstRows const x{sets.x[0]->data(), cuda::ElementType::bfloat16, 1, 4096, 4096};
  cudaStream_t stream{};
  cudaGraph_t graph{};
  cudaGraphExec_t replay{};
  cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cuda::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  constexpr int calls = 100;  // one after another
  for (int i = 0; i < calls; ++i) cuda::quantize(stream, transform, x, q);
  cuda::check(cudaStreamEndCapture(stream, &graph));
  cuda::check(cudaGraphInstantiate(&replay, graph, 0));
  double const time = median_milliseconds(stream, [&] { cuda::check(cudaGraphLaunch(replay, stream)); });
  report.add({name, time / calls, "ms", 0.003, "3 us", 1});
  cuda::check(cudaGraphExecDestroy(replay));
  cuda::check(cudaGraphDestroy(graph));
  cuda::check(cudaStreamDestroy(stream));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Report report("rows", argc, argv);
    cudaDeviceProp properties{};
    cuda::check(cudaGetDeviceProperties(&properties, 0));
    report.device(properties.name);
    std::int64_t const values = report.quick() ? 1 << 20 : 64 << 20;
    for (std::int64_t const cols : {1024, 4096, 8192, 16384, 32768})
      Rows(report, values / cols, cols).run(cols, cols <= 8192 ? 0.9 : 0.8);
    Rows(report, values / 4096, 4096).run(128, 0.9);
    for (std::int64_t const cols : {5120, 11008, 14336}) Rows(report, values / cols, cols).run(cols, 0.9);
    Rows(report, values / 4096, 4096).run_storage();
    latency(report);
    return report.finish();
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
