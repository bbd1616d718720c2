// SPDX-License-Identifier: Apache-2.0
// The converters between packed formats and the calls that pack weights, 4096 x 4096, one thread:
//   weights/s     weights converted per second
//   of_ceiling    the bytes read and written per second over those of a copy in memory, both of this process
// Times are first quartiles of those that the thread had a processor.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <dartquant/kernels.h>

#include "ceilings.hpp"

namespace {

using namespace dartquant::bench;
constexpr std::int64_t rows = 4096, cols = 4096;

void require(dartquant_status status) {
  if (status == 0) return;
  std::fprintf(stderr, "%s %s\n", dartquant_argument_text(dartquant_status_argument(status)),
               dartquant_reason_text(dartquant_status_reason(status)));
  std::exit(1);
}

/// A matrix of random levels; every scale is 0.01.
struct Levels {
  std::int32_t bits;
  std::int64_t group, groups = cols / group;
  HugeBuffer levels{static_cast<std::size_t>(rows * cols)};
  std::vector<float> scales = std::vector<float>(static_cast<std::size_t>(rows * groups), 0.01f);

  [[nodiscard]] dartquant_quantized matrix() {
    return {rows,   cols,    bits, dartquant_symmetric, group, levels.as(), cols * bits / 8, scales.data(),
            groups, nullptr, 0};
  }
  [[nodiscard]] double bytes() const {
    return static_cast<double>(rows * cols * bits / 8 + rows * groups * 4);
  }
};

template <class Convert>
void convert(benchmark::State& state, double bytes, Convert const& call) {
  PinnedThreads threads(1);
  threads.run([&](int) { require(call()); });
  rate(Ceiling::copy, threads);
  std::vector<double> taken;
  for (auto _ : state) {
    taken.push_back(threads.timed([&](int) { require(call()); }));
    state.SetIterationTime(taken.back());
  }
  double const seconds = typical(taken);
  state.counters["weights/s"] = static_cast<double>(rows * cols) / seconds;
  state.counters["GB/s"] = bytes / seconds * 1e-9;
  state.counters["of_ceiling"] = bytes / seconds / rate(Ceiling::copy, threads);
  state.counters["least"] = quantile(taken, 0) / seconds;
  state.counters["median"] = quantile(taken, 0.5) / seconds;
}

/// Registers one call that reads and writes `bytes` together.
template <class Call>
void add(std::string const& name, double bytes, Call const& call) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { convert(state, bytes, call); })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

/// Registers the two directions of a format of `size` bytes.
template <class To, class From>
void add(char const* name, Levels& levels, double size, To const& to, From const& from) {
  double const bytes = size + levels.bytes();
  dartquant_quantized const q = levels.matrix();
  add(std::string("to_") + name, bytes, [=] { return to(q); });
  add(std::string("from_") + name, bytes, [=] { return from(q); });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  constexpr std::int64_t blocks = rows * cols / 32, groups = cols / 128;
  Levels g32{4, 32}, g32_bytes{8, 32}, g128{4, 128};
  HugeBuffer words(std::size_t{64} << 20), zeros(std::size_t{1} << 20);
  std::vector<std::uint16_t> halves(static_cast<std::size_t>(rows * groups));

  auto* const q4 = words.as<dartquant_block_q4_0>();
  add(
      "q4_0/g32", g32, static_cast<double>(blocks * 18),
      [=](dartquant_quantized const& q) { return dartquant_to_q4_0(&q, q4, cols / 32, 0, 1); },
      [=](dartquant_quantized const& q) { return dartquant_from_q4_0(q4, cols / 32, &q, 0, 1); });
  auto* const q8 = words.as<dartquant_block_q8_0>();
  add(
      "q8_0/g32", g32_bytes, static_cast<double>(blocks * 34),
      [=](dartquant_quantized const& q) { return dartquant_to_q8_0(&q, q8, cols / 32, 0, 1); },
      [=](dartquant_quantized const& q) { return dartquant_from_q8_0(q8, cols / 32, &q, 0, 1); });

  HugeBuffer values(static_cast<std::size_t>(rows * cols) * sizeof(float));
  for (std::int64_t i = 0; i < rows * cols; ++i)
    values.as<float>()[i] = static_cast<float>(values.as<std::uint32_t>()[i] >> 8) * 0x1p-23f - 1.0f;
  dartquant_matrix const x{values.as(), dartquant_float32, rows, cols, cols};
  add("quantize_q4_0/float32", static_cast<double>(rows * cols * 4 + blocks * 18),
      [=] { return dartquant_quantize_q4_0(&x, q4, cols / 32, 0, 1); });
  add("quantize_q8_0/float32", static_cast<double>(rows * cols * 4 + blocks * 34),
      [=] { return dartquant_quantize_q8_0(&x, q8, cols / 32, 0, 1); });
  HugeBuffer halves_of_x(static_cast<std::size_t>(rows * cols) * 2);
  for (std::int64_t i = 0; i < rows * cols; ++i)  // the sign, an exponent near that of 1, and the mantissa
    halves_of_x.as<std::uint16_t>()[i] =
        static_cast<std::uint16_t>((halves_of_x.as<std::uint16_t>()[i] & 0x83FFu) | 0x3F80u);
  dartquant_matrix const bf16{halves_of_x.as(), dartquant_bfloat16, rows, cols, cols};
  add("quantize_q4_0/bfloat16", static_cast<double>(rows * cols * 2 + blocks * 18),
      [=] { return dartquant_quantize_q4_0(&bf16, q4, cols / 32, 0, 1); });
  add("quantize_q8_0/bfloat16", static_cast<double>(rows * cols * 2 + blocks * 34),
      [=] { return dartquant_quantize_q8_0(&bf16, q8, cols / 32, 0, 1); });

  auto* const packed = words.as<std::int32_t>();
  double const size = static_cast<double>(rows * cols / 2 + rows * groups * 2);
  dartquant_compressed_tensors const tensors{
      packed, {halves.data(), dartquant_float16, rows, groups, groups}, nullptr};
  add(
      "compressed_tensors/g128", g128, size,
      [=](dartquant_quantized const& q) { return dartquant_to_compressed_tensors(&q, &tensors, 0, 1); },
      [=](dartquant_quantized const& q) { return dartquant_from_compressed_tensors(&tensors, &q, 0, 1); });
  dartquant_matrix const transposed{halves.data(), dartquant_float16, groups, rows, rows};
  dartquant_gptq const gptq{dartquant_gptq_v2, packed, zeros.as<std::int32_t>(), transposed, nullptr};
  add(
      "gptq/g128", g128, size,
      [=](dartquant_quantized const& q) { return dartquant_to_gptq(&q, &gptq, 0, 1); },
      [=](dartquant_quantized const& q) { return dartquant_from_gptq(&gptq, &q, 0, 1); });
  dartquant_awq const awq{packed, zeros.as<std::int32_t>(), transposed};
  add(
      "awq/g128", g128, size, [=](dartquant_quantized const& q) { return dartquant_to_awq(&q, &awq, 0, 1); },
      [=](dartquant_quantized const& q) { return dartquant_from_awq(&awq, &q, 0, 1); });

  dartquant_weights const shape{rows, cols, 128, dartquant_symmetric, 0};
  std::size_t bytes = 0;
  require(dartquant_packed_size(&shape, &bytes));
  add(
      "compute_layout/g128", g128, static_cast<double>(bytes),
      [=](dartquant_quantized const& q) { return dartquant_pack(&shape, &q, packed, bytes, 0, 1); },
      [=](dartquant_quantized const& q) { return dartquant_unpack(&shape, packed, bytes, &q, 0, 1); });

  benchmark::RunSpecifiedBenchmarks();
}
