// SPDX-License-Identifier: Apache-2.0
//
// Products of float and double matrices, C = A B^T with all sizes equal: Cpu::gemm on the compiled kernels of
// every instruction set that works here, and on Eigen as this program was compiled.
//
//   gemm/f32/512/ISA/T    512^3 on T pinned threads. of_ceiling = operations per second over the measured FMA
//                         peak of the same threads (for eigen: the widest FMA here).
//   of_openblas           our time over that of OpenBLAS sgemm or dgemm, same shape and threads.
//
// All ratios are of first quartiles; ceilings and peers are measured before and after each product. A product
// of one tile runs on one thread.
#include <dartquant/core/compiled_kernels.hpp>
#include <dartquant/core/cpu.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "ceilings.hpp"
#include "peers/peers.hpp"

namespace {

using namespace dartquant;
using namespace dartquant::bench;

/// A Cpu on pinned threads that share out the tiles of a product; the seconds of the thread that took longest
/// are added to `busy`.
Cpu on(PinnedThreads& threads, double& busy) {
  return Cpu(
      [&threads, &busy](index_t parts, auto const& task) {
        busy += threads.timed([&](int thread) {
          for (index_t part = thread; part < parts; part += threads.size()) task(part);
        });
      },
      threads.size());
}

template <class T>
Ceiling ceiling_of(std::optional<CpuKernels> const& kernels) {
  bool const wide = kernels ? kernels->isa() >= dartquant_isa_avx512_vnni
                            : compiled_kernels().isa() >= dartquant_isa_avx512_vnni;
  if constexpr (std::is_same_v<T, float>) return wide ? Ceiling::fma_512 : Ceiling::fma_256;
  else return wide ? Ceiling::fma_512_double : Ceiling::fma_256_double;
}

/// The time of OpenBLAS, measured once more: the first quartile of all so far.
template <class T>
double peer(index_t n, int threads) {
  static std::map<std::tuple<index_t, int>, std::vector<double>> seen;
  std::vector<double>& seconds = seen[{n, threads}];
  seconds.push_back(std::is_same_v<T, float> ? sgemm_seconds(n, n, n, threads)
                                             : dgemm_seconds(n, n, n, threads));
  return typical(seconds);
}

template <class T>
void product(benchmark::State& state, index_t n, std::optional<CpuKernels> const& kernels, int count) {
  static_cast<void>(peer<T>(n, count));
  RowMatrix<T> A(n, n), B(n, n), C(n, n);
  for (index_t i = 0; i < n * n; ++i) {
    A.data()[i] = static_cast<T>(i % 17 - 8);
    B.data()[i] = static_cast<T>(i % 23) / T(23);
  }
  C.setZero();
  Ceiling const what = ceiling_of<T>(kernels);
  std::vector<double> seconds;
  double ceiling = 0;
  {
    PinnedThreads threads(count);
    double busy = 0;
    Cpu const plain = on(threads, busy), cpu = kernels ? plain.with_kernels(*kernels) : plain;
    static_cast<void>(rate(what, threads));
    for (auto _ : state) {
      busy = 0;
      double const start = thread_seconds();
      cpu.gemm<T>(T(1), A, Op::none, B, Op::transpose, T(0), C);
      seconds.push_back(busy > 0 ? busy : thread_seconds() - start);
      state.SetIterationTime(seconds.back());
    }
    ceiling = rate(what, threads);
  }
  double const taken = typical(seconds),
               operations = 2.0 * static_cast<double>(n) * static_cast<double>(n * n);
  double const openblas = peer<T>(n, count);
  state.counters["Gop_per_s"] = operations / taken * 1e-9;
  state.counters["ceiling_G_per_s"] = ceiling * 1e-9;
  if (ceiling > 0) state.counters["of_ceiling"] = operations / taken / ceiling;
  if (openblas > 0) state.counters["of_openblas"] = taken / openblas;
  state.SetLabel(name_of(what));
}

template <class T>
void add(std::string const& type, index_t n, std::optional<CpuKernels> const& kernels, int threads) {
  std::string const name = "gemm/" + type + "/" + std::to_string(n) + "/" +
                           (kernels ? kernels->name() : "eigen") + "/" + std::to_string(threads);
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) { product<T>(state, n, kernels, threads); })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  std::fprintf(stderr, "%s\n", openblas_name());
  std::vector<std::optional<CpuKernels>> machines{std::nullopt};
  for (dartquant_isa const isa : available_isas()) {
    CpuKernels const kernels = compiled_kernels(isa);
    bool const known =
        std::ranges::any_of(machines, [&](auto const& m) { return m && m->tiles == kernels.tiles; });
    if (kernels.tiles != nullptr && !known) machines.emplace_back(kernels);
  }
  for (index_t const n : {64, 256, 512, 1024, 2048})
    for (int const threads : {1, 2})
      for (auto const& kernels : machines) {
        add<float>("f32", n, kernels, threads);
        add<double>("f64", n, kernels, threads);
      }
  benchmark::RunSpecifiedBenchmarks();
}
