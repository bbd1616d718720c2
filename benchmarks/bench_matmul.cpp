// SPDX-License-Identifier: Apache-2.0
//
// The products with packed 4-bit weights, 4096 x 4096, beside what the machine can do and what other
// libraries do. Every instruction set that works here, 1 and 2 pinned threads.
//
//   gemm/W4A8/g32/ISA/T    256 tokens. of_ceiling = operations per second over the measured peak of the
//                          instruction that ISA multiplies with (vpdpbusd on zmm or ymm, tiles, the AVX2
//                          mix).
//   gemv/W4A8/g32/ISA/T    1 token, over so many weight matrices in turn that they come from memory.
//   of_ceiling
//                          = packed bytes read per second over the read bandwidth of the same threads.
//   gemv/.../4k            the same with the weights on pages of 4 KiB, as a mapped file has them; over the
//                          read bandwidth of huge pages all the same.
//   .../W4A32/...          float activations, three products of bytes each: over a third of that peak and
//                          over the read bandwidth.
//   of_onednn, of_sgemm    our time over the time of oneDNN's s8 product and of OpenBLAS sgemm, same shape
//   and
//                          threads (for one token oneDNN turns over as many bytes of its weights).
//
// All ratios are of first quartiles: ceilings and peers are measured before and after every kernel. For
// oneDNN without AMX: ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI.
#include <dartquant/kernels.h>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "ceilings.hpp"
#include "peers/peers.hpp"

namespace {

using namespace dartquant::bench;

constexpr std::int64_t out = 4096, in = 4096, gemm_tokens = 256;

struct Kernel {
  dartquant_isa isa;
  std::int64_t tokens, group;
  int x_bits, threads;
  Pages pages = Pages::huge;
};

void require(dartquant_status status) {
  if (status == 0) return;
  std::fprintf(stderr, "%s %s\n", dartquant_argument_text(dartquant_status_argument(status)),
               dartquant_reason_text(dartquant_status_reason(status)));
  std::exit(1);
}

template <class T>
std::vector<T> random_bytes(std::size_t count) {
  std::mt19937_64 random(count);
  std::vector<T> values(count);
  auto* const bytes = reinterpret_cast<unsigned char*>(values.data());
  for (std::size_t i = 0; i < count * sizeof(T); ++i) bytes[i] = static_cast<unsigned char>(random());
  return values;
}

/// Packed weights, as many copies as fill sweep_bytes.
struct Weights {
  dartquant_weights shape;
  std::size_t bytes = 0, stride, copies;
  std::unique_ptr<HugeBuffer> data;

  Weights(std::int64_t group, Pages pages) : shape{out, in, group, dartquant_symmetric, 0} {
    require(dartquant_packed_size(&shape, &bytes));
    stride = (bytes + 4095) / 4096 * 4096;
    copies = (sweep_bytes + stride - 1) / stride;
    data = std::make_unique<HugeBuffer>(copies * stride + 65536, pages);
    std::int64_t const groups = group == 0 ? 1 : in / group;
    auto levels = random_bytes<std::uint8_t>(static_cast<std::size_t>(out * in / 2));
    std::vector<float> scales(static_cast<std::size_t>(out * groups), 0.01f);
    dartquant_quantized const q{
        out, in, 4, dartquant_symmetric, group, levels.data(), in / 2, scales.data(), groups, nullptr, 0};
    require(dartquant_pack(&shape, &q, data->as(), bytes, 0, 1));
    for (std::size_t i = 1; i < copies; ++i) std::memcpy(data->as() + i * stride, data->as(), bytes);
  }
  [[nodiscard]] void const* copy(std::size_t i) const { return data->as() + i % copies * stride; }
};

Weights const& weights_of(std::int64_t group, Pages pages) {
  static std::optional<std::pair<std::int64_t, Pages>> known;
  static std::unique_ptr<Weights> weights;
  if (std::pair const wanted{group, pages}; known != wanted) {  // one at a time: they are large
    weights.reset();
    weights = std::make_unique<Weights>(group, pages);
    known = wanted;
  }
  return *weights;
}

/// Activations, output and workspaces of one kernel.
class Run {
 public:
  explicit Run(Kernel const& kernel)
      : kernel_(kernel),
        weights_(weights_of(kernel.group, kernel.pages)),
        levels_(static_cast<std::size_t>(kernel.tokens * in)),
        scales_(static_cast<std::size_t>(kernel.tokens), 0.02f),
        values_(static_cast<std::size_t>(kernel.tokens * in) * sizeof(float)),
        y_(static_cast<std::size_t>(kernel.tokens * out) * sizeof(float)) {
    require(dartquant_cpu_detect(&cpu_));
    require(dartquant_cpu_choose(&cpu_, kernel.isa));
    for (std::int64_t i = 0; i < kernel.tokens * in; ++i)
      values_.as<float>()[i] = static_cast<float>(levels_.as()[i]) - 128.0f;
    require(dartquant_matmul_workspace_size(&weights_.shape, kernel.tokens, kernel.x_bits, &workspace_));
    workspace_ = (workspace_ + 4095) / 4096 * 4096;
    workspaces_ = std::make_unique<HugeBuffer>(workspace_ * static_cast<std::size_t>(kernel.threads));
  }

  /// Seconds of one product with the next copy of the weights.
  double operator()(PinnedThreads& threads) {
    void const* const packed = weights_.copy(kernel_.tokens == 1 ? next_++ : 0);
    return threads.timed([&](int part) { multiply(packed, part); });
  }
  /// Products that make one measurement: a single token passes over all copies.
  [[nodiscard]] int products() const { return kernel_.tokens == 1 ? static_cast<int>(weights_.copies) : 1; }
  [[nodiscard]] double bytes() const { return static_cast<double>(weights_.bytes - 64); }

 private:
  void multiply(void const* packed, int part) {
    dartquant_matrix const y{y_.as(), dartquant_float32, kernel_.tokens, out, out};
    void* const workspace = workspaces_->as() + static_cast<std::size_t>(part) * workspace_;
    if (kernel_.x_bits > 8) {
      dartquant_matrix const x{values_.as(), dartquant_float32, kernel_.tokens, in, in};
      require(dartquant_matmul_float(&cpu_, &weights_.shape, packed, weights_.bytes, &x, nullptr, &y,
                                     workspace, workspace_, part, kernel_.threads));
      return;
    }
    dartquant_quantized const x{kernel_.tokens,
                                in,
                                kernel_.x_bits,
                                dartquant_symmetric,
                                0,
                                levels_.as(),
                                kernel_.x_bits == 4 ? in / 2 : in,
                                scales_.data(),
                                1,
                                nullptr,
                                0};
    require(dartquant_matmul(&cpu_, &weights_.shape, packed, weights_.bytes, &x, nullptr, &y, workspace,
                             workspace_, part, kernel_.threads));
  }

  Kernel kernel_;
  Weights const& weights_;
  dartquant_cpu cpu_{};
  HugeBuffer levels_;  // on whole cache lines, as those of the peers are
  std::vector<float> scales_;
  HugeBuffer values_, y_;
  std::size_t workspace_ = 0, next_ = 0;
  std::unique_ptr<HugeBuffer> workspaces_;
};

Ceiling ceiling_of(Kernel const& kernel) {
  if (kernel.tokens == 1) return Ceiling::read;
  switch (kernel.isa) {
    case dartquant_isa_amx_int8:
      return Ceiling::tiles;
    case dartquant_isa_avx512_vnni:
      return Ceiling::vnni_512;
    case dartquant_isa_avx_vnni:
      return Ceiling::vnni_256;
    default:
      return Ceiling::avx2_int8;
  }
}

struct PeerTimes {
  double sgemm, onednn;
};

/// The times of the peers, measured once more: the first quartiles of all so far.
PeerTimes peers(std::int64_t tokens, int threads) {
  static std::map<std::pair<std::int64_t, int>, std::array<std::vector<double>, 2>> seen;
  auto& [sgemm, onednn] = seen[{tokens, threads}];
  std::int64_t const turned_over = tokens == 1 ? static_cast<std::int64_t>(sweep_bytes) : 1;
  sgemm.push_back(sgemm_seconds(tokens, out, in, threads));
  onednn.push_back(onednn_seconds(tokens, out, in, threads, turned_over));
  return {typical(sgemm), typical(onednn)};
}

void product(benchmark::State& state, Kernel const& kernel) {
  static_cast<void>(peers(kernel.tokens, kernel.threads));
  Run run(kernel);
  std::vector<double> seconds;
  double ceiling = 0;
  {
    PinnedThreads threads(kernel.threads);
    static_cast<void>(rate(ceiling_of(kernel), threads));
    for (auto _ : state) {
      double taken = 0;
      for (int i = 0; i < run.products(); ++i) taken += run(threads);
      state.SetIterationTime(taken / run.products());
      seconds.push_back(taken / run.products());
    }
    ceiling = rate(ceiling_of(kernel), threads);
  }
  double const taken = typical(seconds);
  state.counters["least"] = quantile(seconds, 0) / taken;
  state.counters["median"] = quantile(seconds, 0.5) / taken;
  PeerTimes const times = peers(kernel.tokens, kernel.threads);
  double const operations = 2.0 * static_cast<double>(kernel.tokens * out * in);
  double const work = kernel.tokens == 1 ? run.bytes() : operations * (kernel.x_bits > 8 ? 3 : 1);
  state.counters["ms"] = taken * 1e3;
  state.counters["Gop_per_s"] = operations / taken * 1e-9;
  if (kernel.tokens == 1) state.counters["GB_per_s"] = run.bytes() / taken * 1e-9;
  state.counters["ceiling_G_per_s"] = ceiling * 1e-9;
  if (ceiling > 0) state.counters["of_ceiling"] = work / taken / ceiling;
  if (times.onednn > 0) state.counters["of_onednn"] = taken / times.onednn;
  if (times.sgemm > 0) state.counters["of_sgemm"] = taken / times.sgemm;
  state.SetLabel(name_of(ceiling_of(kernel)));
}

void add(Kernel const& kernel) {
  std::string const name = std::string(kernel.tokens == 1 ? "gemv" : "gemm") + "/W4A" +
                           std::to_string(kernel.x_bits) + "/" +
                           (kernel.group == 0 ? "channel" : "g" + std::to_string(kernel.group)) + "/" +
                           dartquant_isa_name(kernel.isa) + "/" + std::to_string(kernel.threads) +
                           (kernel.pages == Pages::small ? "/4k" : "");
  benchmark::RegisterBenchmark(name.c_str(), [kernel](benchmark::State& state) { product(state, kernel); })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  static_cast<void>(dartquant_amx_request());
  dartquant_cpu cpu{};
  require(dartquant_cpu_detect(&cpu));
  std::fprintf(stderr, "%s\n%s\n", openblas_name(), onednn_name());
  print_ceilings(3);
  struct Shape {
    std::int64_t tokens;
    Pages pages;
  };
  for (std::int64_t const group : {32, 128, 0})
    for (Shape const shape : {Shape{1, Pages::huge}, {gemm_tokens, Pages::huge}, {1, Pages::small}})
      for (int const x_bits : {8, 4, 32})
        for (int isa = dartquant_isa_avx2; isa < dartquant_isa_count; ++isa)
          for (int const threads : {1, 2})
            if (dartquant_cpu_supports(&cpu, static_cast<dartquant_isa>(isa)) != 0)
              add({static_cast<dartquant_isa>(isa), shape.tokens, group, x_bits, threads, shape.pages});
  benchmark::RunSpecifiedBenchmarks();
}
