// SPDX-License-Identifier: Apache-2.0
// Row kernels against what the machine can do: butterflies in the cache against the rate of additions, rows
// in memory against the in-place stream, fused quantization against the time its bytes take. Every line
// states
//   of_ceiling     rate of the kernel / rate of its ceiling, both measured in this process
//   least, median  of the times, over the first quartile, which the rates are made of
// One group of lines per instruction set; "plain" is the header's own loop, compiled as this file is.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <dartquant/kernels.h>
#include <dartquant/core/butterfly.hpp>

#include "ceilings.hpp"
#include "cpu/detect.hpp"

namespace {

using namespace dartquant::bench;
using dartquant::cpu::RowKernels;

/// Pinned threads, made when they are first needed; only one set spins at a time.
PinnedThreads& threads_of(int count) {
  static std::unique_ptr<PinnedThreads> pool;
  if (pool == nullptr || pool->size() != count) {
    pool.reset();
    pool = std::make_unique<PinnedThreads>(count);
  }
  return *pool;
}

/// Three regions of memory on huge pages that all measurements share: inputs, outputs, scales and the like.
HugeBuffer& inputs() {
  static HugeBuffer buffer(sweep_bytes);
  return buffer;
}
HugeBuffer& outputs() {
  static HugeBuffer buffer(sweep_bytes);
  return buffer;
}
HugeBuffer& scales() {
  static HugeBuffer buffer(std::size_t{32} << 20);
  return buffer;
}

/// Normal-sized values of a type; random bits would be NaN now and then.
void fill(dartquant_type type) {
  static int filled = -1;
  if (filled == type) return;
  filled = type;
  auto const value = [](std::size_t i) { return static_cast<std::uint32_t>(i * 2654435761u >> 16); };
  if (type == dartquant_float32)
    for (std::size_t i = 0; i < sweep_bytes / 4; ++i)
      inputs().as<float>()[i] = static_cast<float>(value(i) & 0xFFFu) - 2047.5f;
  else  // the sign, an exponent near that of 1, and the mantissa
    for (std::size_t i = 0; i < sweep_bytes / 2; ++i)
      inputs().as<std::uint16_t>()[i] =
          static_cast<std::uint16_t>((value(i) & 0x83FFu) | (type == dartquant_float16 ? 0x3C00u : 0x3F80u));
}

/// Runs body on all threads once per iteration and returns the typical seconds.
template <class Body>
double seconds_of(benchmark::State& state, PinnedThreads& threads, Body const& body) {
  std::vector<double> taken;
  threads.run(body);  // touches what it needs
  for (auto _ : state) {
    double const seconds = threads.timed(body);
    state.SetIterationTime(seconds);
    taken.push_back(seconds);
  }
  state.counters["least"] = quantile(taken, 0) / typical(taken);
  state.counters["median"] = quantile(taken, 0.5) / typical(taken);
  return typical(taken);
}

dartquant_cpu processor(dartquant_isa isa) {
  dartquant_cpu cpu{};
  static_cast<void>(dartquant_cpu_detect(&cpu));
  static_cast<void>(dartquant_cpu_choose(&cpu, isa));
  return cpu;
}

/// The widest additions that an instruction set has; portable code is held against 256 bits.
Ceiling additions(dartquant_isa isa) {
  return isa == dartquant_isa_avx512_vnni ? Ceiling::add_512 : Ceiling::add_256;
}

/// A transform with the base that its block asks for.
struct Transform {
  std::vector<std::int8_t> base;
  dartquant_transform c{nullptr, 0, nullptr, 0};

  explicit Transform(std::int64_t block) {
    std::int64_t order = 1;
    if (block > 0) static_cast<void>(dartquant_hadamard_base(block, nullptr, 0, &order));
    if (order > 1) {
      base.resize(static_cast<std::size_t>(order * order));
      static_cast<void>(dartquant_hadamard_base(block, base.data(), base.size(), &order));
    }
    c = {nullptr, block, order > 1 ? base.data() : nullptr, order};
  }
};

/// Per value; see RowKernels::multiply_base.
double additions_of(std::int64_t block) {
  double const order = static_cast<double>(Transform(block).c.base_order);
  return std::log2(static_cast<double>(block) / order) + (order > 1 ? order / 4 + 3 : 0);
}

constexpr std::int64_t cached_values = 4096;  // short blocks are transformed many at a time

/// Butterflies in L1 (L2 from 16384 on). `walsh` transforms `count` blocks of `length`.
template <class Walsh>
void butterflies(benchmark::State& state, std::int64_t length, Ceiling ceiling, Walsh const& walsh) {
  PinnedThreads& threads = threads_of(1);
  fill(dartquant_float32);
  std::int64_t const count = std::max<std::int64_t>(1, cached_values / length),
                     times = 163840 / (count * length);
  float* const x = outputs().as<float>();
  std::fill_n(x, count * length, 0.0f);  // stays zero: additions of numbers that do not grow
  rate(ceiling, threads);
  double const seconds = seconds_of(state, threads, [&](int) {
    for (std::int64_t i = 0; i < times; ++i) walsh(x, count, length);
  });
  double const best = static_cast<double>(times * count * length) * additions_of(length) / seconds;
  double const peak = rate(ceiling, threads);
  state.counters["Gadd/s"] = best * 1e-9;
  state.counters["ceiling_Gadd/s"] = peak * 1e-9;
  state.counters["of_ceiling"] = best / peak;
  state.counters["us_per_block"] = seconds * 1e6 / static_cast<double>(times * count);
}

/// Workspaces of the threads.
struct Workspaces {
  std::size_t bytes = 0;
  std::vector<std::unique_ptr<HugeBuffer>> buffers;
  Workspaces(std::int64_t cols, int count) {
    static_cast<void>(dartquant_rows_workspace_size(cols, &bytes));
    for (int i = 0; i < count; ++i) buffers.push_back(std::make_unique<HugeBuffer>(bytes));
  }
  [[nodiscard]] void* of(int part) const { return buffers[static_cast<std::size_t>(part)]->as(); }
};

std::int64_t rows_in_memory(std::int64_t cols, dartquant_type type) {
  return static_cast<std::int64_t>(sweep_bytes) / (cols * (type == dartquant_float32 ? 4 : 2));
}

/// dartquant_hadamard in place, rows in memory (`rows` 0) or a few rows that stay in the cache.
void hadamard(benchmark::State& state, dartquant_isa isa, std::int64_t cols, std::int64_t block,
              std::int64_t rows, int count) {
  PinnedThreads& threads = threads_of(count);
  fill(dartquant_float32);
  dartquant_cpu const cpu = processor(isa);
  Transform const transform(block);
  bool const cached = rows != 0;
  if (!cached) rows = rows_in_memory(cols, dartquant_float32);
  int const times = cached ? 40 : 1;
  dartquant_matrix const x{inputs().as(), dartquant_float32, rows, cols, cols};
  Workspaces const spaces(cols, count);
  Ceiling const ceiling = cached ? additions(isa) : Ceiling::stream;
  rate(ceiling, threads);
  double const seconds = seconds_of(state, threads, [&](int part) {
    for (int i = 0; i < times; ++i)
      static_cast<void>(
          dartquant_hadamard(&cpu, &transform.c, &x, &x, spaces.of(part), spaces.bytes, part, count));
  });
  double const values = static_cast<double>(rows * cols * times), peak = rate(ceiling, threads);
  double const best = values * (cached ? additions_of(block) : 8.0) / seconds;
  state.counters[cached ? "Gadd/s" : "GB/s"] = best * 1e-9;
  state.counters["of_ceiling"] = best / peak;
  state.counters["us_per_row"] = seconds * 1e6 * count / static_cast<double>(rows * times);
}

/// The least time for these bytes: reads alone at the read rate, all of them at that of the in-place stream.
double traffic_seconds(double read, double written, PinnedThreads& threads) {
  return std::max(read / rate(Ceiling::read, threads), (read + written) / rate(Ceiling::stream, threads));
}

struct Quantization {
  std::int64_t cols, block, group;  ///< block 0: no transform; group 0: one scale per row
  std::int32_t bits;
  dartquant_symmetry symmetry;
  dartquant_type type;
};

dartquant_quantized quantized(Quantization const& q, std::int64_t rows) {
  std::int64_t const groups = q.group == 0 ? 1 : q.cols / q.group;
  float* const first = scales().as<float>();
  return {
      rows,
      q.cols,
      q.bits,
      q.symmetry,
      q.group,
      outputs().as(),
      q.cols * q.bits / 8,
      first,
      groups,
      q.symmetry == dartquant_symmetric ? nullptr : reinterpret_cast<std::int32_t*>(first + rows * groups),
      groups};
}

double bytes_of(dartquant_quantized const& q) {
  double const groups = static_cast<double>(q.rows * q.scale_stride);
  return static_cast<double>(q.rows * q.level_stride) + groups * (q.symmetry == dartquant_symmetric ? 4 : 8);
}

/// of_ceiling: the time that the bytes take; of_additions: the time that the butterflies alone take.
void quantize(benchmark::State& state, dartquant_isa isa, Quantization const& what, int count) {
  PinnedThreads& threads = threads_of(count);
  fill(what.type);
  dartquant_cpu const cpu = processor(isa);
  Transform const transform(what.block);
  std::int64_t const rows = rows_in_memory(what.cols, what.type);
  dartquant_matrix const x{inputs().as(), what.type, rows, what.cols, what.cols};
  dartquant_quantized const q = quantized(what, rows);
  Workspaces const spaces(what.cols, count);
  rate(Ceiling::read, threads);
  double const seconds = seconds_of(state, threads, [&](int part) {
    static_cast<void>(
        dartquant_quantize(&cpu, &transform.c, &x, 1.0f, &q, spaces.of(part), spaces.bytes, part, count));
  });
  double const values = static_cast<double>(rows * what.cols);
  double const read = values * (what.type == dartquant_float32 ? 4 : 2);
  state.counters["GB/s"] = (read + bytes_of(q)) / seconds * 1e-9;
  state.counters["of_ceiling"] = traffic_seconds(read, bytes_of(q), threads) / seconds;
  state.counters["ns_per_1024"] = seconds * 1e9 * count / values * 1024;
  if (what.block != 0)
    state.counters["of_additions"] =
        values * additions_of(what.block) / rate(additions(isa), threads) / seconds;
}

void dequantize(benchmark::State& state, dartquant_isa isa, Quantization const& what, int count) {
  PinnedThreads& threads = threads_of(count);
  dartquant_cpu const cpu = processor(isa);
  std::int64_t const rows = rows_in_memory(what.cols, what.type);
  dartquant_matrix const y{inputs().as(), what.type, rows, what.cols, what.cols};
  fill(what.type);
  dartquant_quantized const q = quantized(what, rows);
  Workspaces const spaces(what.cols, count);
  static_cast<void>(
      dartquant_quantize(&cpu, nullptr, &y, 1.0f, &q, spaces.of(0), spaces.bytes, 0, 1));  // valid levels
  rate(Ceiling::stream, threads);
  double const seconds = seconds_of(state, threads, [&](int part) {
    static_cast<void>(dartquant_dequantize(&cpu, &q, &y, spaces.of(part), spaces.bytes, part, count));
  });
  double const written = static_cast<double>(rows * what.cols) * (what.type == dartquant_float32 ? 4 : 2);
  // Lines are read before they are written: as many bytes as an in-place pass over Y, and the levels.
  double const traffic = 2 * written + bytes_of(q);
  state.counters["GB/s"] = (written + bytes_of(q)) / seconds * 1e-9;
  state.counters["of_ceiling"] = traffic / rate(Ceiling::stream, threads) / seconds;
}

template <class Body>
void add(std::string const& name, Body body) {
  benchmark::RegisterBenchmark(name.c_str(), body)->UseManualTime();
}

void add_in_cache(dartquant_isa isa, std::string const& set) {
  for (std::int64_t const length : {64, 128, 256, 1024, 4096, 32768}) {
    dartquant_cpu const cpu = processor(isa);
    RowKernels const* const kernels = dartquant::cpu::kernels_of(&cpu).rows;
    add("butterflies/" + set + "/" + std::to_string(length),
        [=](benchmark::State& state) { butterflies(state, length, additions(isa), kernels->walsh); });
  }
  add("hadamard_in_cache/" + set + "/4096",
      [=](benchmark::State& state) { hadamard(state, isa, 4096, 4096, 1, 1); });
  add("hadamard_in_cache/" + set + "/128",
      [=](benchmark::State& state) { hadamard(state, isa, 4096, 128, 1, 1); });
}

void add_in_memory(dartquant_isa isa, std::string const& set, int count) {
  std::string const end = "/threads:" + std::to_string(count);
  for (std::int64_t const block : {128, 4096})
    add("hadamard_in_memory/" + set + "/" + std::to_string(block) + end,
        [=](benchmark::State& state) { hadamard(state, isa, 4096, block, 0, count); });
  for (std::int64_t const cols : {5120, 14336, 11008}) {  // bases of order 20, 28 and 172
    add("hadamard_in_memory/" + set + "/" + std::to_string(cols) + end,
        [=](benchmark::State& state) { hadamard(state, isa, cols, cols, 0, count); });
    add("quantize_int4_per_token/" + set + "/block:" + std::to_string(cols) + "/bfloat16" + end,
        [=](benchmark::State& state) {
          quantize(state, isa, {cols, cols, 0, 4, dartquant_symmetric, dartquant_bfloat16}, count);
        });
  }
  static char const* const types[] = {"float32", "float16", "bfloat16"};
  for (auto const type : {dartquant_float32, dartquant_float16, dartquant_bfloat16}) {
    std::string const name = std::string("/") + types[type] + end;
    for (std::int64_t const block : {0, 128, 4096})
      add("quantize_int4_per_token/" + set + "/block:" + std::to_string(block) + name,
          [=](benchmark::State& state) {
            quantize(state, isa, {4096, block, 0, 4, dartquant_symmetric, type}, count);
          });
    for (std::int32_t const bits : {4, 8})
      add("quantize_kv_cache/" + set + "/head:128/bits:" + std::to_string(bits) + name,
          [=](benchmark::State& state) {
            quantize(state, isa, {1024, 128, 128, bits, dartquant_asymmetric, type}, count);
          });
    add("dequantize_int4_group128/" + set + name, [=](benchmark::State& state) {
      dequantize(state, isa, {4096, 0, 128, 4, dartquant_symmetric, type}, count);
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  for (auto const isa : {dartquant_isa_avx512_vnni, dartquant_isa_avx2, dartquant_isa_portable}) {
    dartquant_cpu cpu = processor(isa);
    if (cpu.chosen != static_cast<std::uint32_t>(isa)) continue;
    std::string const set = dartquant_isa_name(isa);
    add_in_cache(isa, set);
    for (int const count : {1, 2}) add_in_memory(isa, set, count);
  }
  for (std::int64_t const length : {64, 128, 256, 1024, 4096, 32768})
    add("butterflies/plain/" + std::to_string(length), [=](benchmark::State& state) {
      butterflies(state, length, Ceiling::add_256, [](float* x, std::int64_t count, std::int64_t block) {
        dartquant::walsh_hadamard(dartquant::MatrixView<float>(x, 1, count * block), block);
      });
    });
  benchmark::RunSpecifiedBenchmarks();
}
