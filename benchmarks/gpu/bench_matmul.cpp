// SPDX-License-Identifier: Apache-2.0
// The products with 4-bit weights beside cuBLASLt in the same process: long prompts against the int8 tensor
// ceiling and bf16, decoding against the bandwidth of reading.

#include <cstdint>
#include <cstdio>
#include <deque>
#include <exception>
#include <random>
#include <string>
#include <vector>

#include <dartquant/cuda/matmul.hpp>

#include <cublasLt.h>

#include "report.hpp"
#include "timing.hpp"

using namespace dartquant;
using namespace dartquant::cuda;
using namespace dartquant::bench;

namespace {

/// Random bytes on the device, so random levels; time depends on how many bits toggle.
template <class T>
void fill_random(Buffer<T> const& buffer, unsigned seed) {
  std::mt19937_64 random(seed);
  std::vector<std::uint64_t> words((buffer.bytes() + 7) / 8);
  for (auto& word : words) word = random();
  check(cudaMemcpy(buffer.data(), words.data(), buffer.bytes(), cudaMemcpyHostToDevice));
}

template <class T>
void fill(Buffer<T> const& buffer, T value) {
  std::vector<T> const values(buffer.size(), value);
  check(cudaMemcpy(buffer.data(), values.data(), buffer.bytes(), cudaMemcpyHostToDevice));
}

void fill_random_half(Buffer<Half> const& buffer) {
  std::mt19937 random(4);
  std::vector<Half> values(buffer.size());
  for (Half& v : values) v = to_half(static_cast<float>(random() % 2001) / 1000.0f - 1.0f);
  check(cudaMemcpy(buffer.data(), values.data(), buffer.bytes(), cudaMemcpyHostToDevice));
}

/// Packed weights of random levels: tiles hold any bytes, scales are 0.01.
struct RandomWeights {
  WeightShape shape;
  Buffer<std::byte> packed;
  RandomWeights(WeightShape const& of, unsigned seed) : shape(of), packed(packed_weight_bytes(of)) {
    fill_random(packed, seed);
    WeightLayout const l = weight_layout(shape);
    std::vector<float> const scales(static_cast<std::size_t>(l.panels * l.groups * 16), 0.01f);
    check(cudaMemcpy(packed.data() + l.scales, scales.data(), scales.size() * 4, cudaMemcpyHostToDevice));
  }
  /// The same weights at another address.
  RandomWeights(RandomWeights const& other) : shape(other.shape), packed(other.packed.size()) {
    check(cudaMemcpy(packed.data(), other.packed.data(), packed.bytes(), cudaMemcpyDeviceToDevice));
  }
  RandomWeights& operator=(RandomWeights const&) = delete;
  ~RandomWeights() = default;
};

/// A product of cuBLASLt, Y [tokens, out] = X W^T: bytes to int32, or bfloat16 to bfloat16.
class Control {
 public:
  Control(index_t tokens, index_t out, index_t in, bool bytes) : workspace_(std::size_t{64} << 20) {
    auto const size = static_cast<std::size_t>(bytes ? 1 : 2);
    x_.emplace_back(static_cast<std::size_t>(tokens * in) * size);
    x_.emplace_back(static_cast<std::size_t>(out * in) * size);
    x_.emplace_back(static_cast<std::size_t>(out * tokens) * (bytes ? 4 : 2));
    if (bytes) {
      fill_random(x_[0], 1);
      fill_random(x_[1], 2);
    } else {
      fill_bfloat16(x_[0]);
      fill_bfloat16(x_[1]);
    }
    cudaDataType const type = bytes ? CUDA_R_8I : CUDA_R_16BF, result = bytes ? CUDA_R_32I : CUDA_R_16BF;
    check(cublasLtCreate(&handle_));
    check(cublasLtMatmulDescCreate(&product_, bytes ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                                   bytes ? CUDA_R_32I : CUDA_R_32F));
    cublasOperation_t const transpose = CUBLAS_OP_T;
    check(
        cublasLtMatmulDescSetAttribute(product_, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose));
    auto const rows = static_cast<std::uint64_t>(out), cols = static_cast<std::uint64_t>(tokens),
               inner = static_cast<std::uint64_t>(in);
    check(cublasLtMatrixLayoutCreate(&w_layout_, type, inner, rows, in));
    check(cublasLtMatrixLayoutCreate(&x_layout_, type, inner, cols, in));
    check(cublasLtMatrixLayoutCreate(&y_layout_, result, rows, cols, out));
    cublasLtMatmulPreference_t preference{};
    check(cublasLtMatmulPreferenceCreate(&preference));
    std::size_t const limit = workspace_.bytes();
    check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &limit,
                                               sizeof limit));
    int found = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle_, product_, w_layout_, x_layout_, y_layout_, y_layout_,
                                         preference, 1, &algorithm_, &found));
    check(cublasLtMatmulPreferenceDestroy(preference));
    supported_ = found > 0;
  }
  Control(Control const&) = delete;
  Control& operator=(Control const&) = delete;
  ~Control() {
    cublasLtMatrixLayoutDestroy(w_layout_);
    cublasLtMatrixLayoutDestroy(x_layout_);
    cublasLtMatrixLayoutDestroy(y_layout_);
    cublasLtMatmulDescDestroy(product_);
    cublasLtDestroy(handle_);
  }

  [[nodiscard]] bool supported() const { return supported_; }
  void run(bool bytes) const {
    float const one = 1, zero = 0;
    std::int32_t const one_int = 1, zero_int = 0;
    void const* const alpha = bytes ? static_cast<void const*>(&one_int) : &one;
    void const* const beta = bytes ? static_cast<void const*>(&zero_int) : &zero;
    check(cublasLtMatmul(handle_, product_, alpha, x_[1].data(), w_layout_, x_[0].data(), x_layout_, beta,
                         x_[2].data(), y_layout_, x_[2].data(), y_layout_, &algorithm_.algo,
                         workspace_.data(), workspace_.bytes(), nullptr));
  }

 private:
  static void fill_bfloat16(Buffer<std::byte> const& buffer) {
    std::mt19937 random(3);
    std::vector<BFloat16> values(buffer.bytes() / 2);
    for (auto& v : values) v = to_bfloat16(static_cast<float>(random() % 2001) / 1000.0f - 1.0f);
    check(cudaMemcpy(buffer.data(), values.data(), buffer.bytes(), cudaMemcpyHostToDevice));
  }

  std::deque<Buffer<std::byte>> x_;  // X, W, Y
  Buffer<std::byte> workspace_;
  cublasLtHandle_t handle_{};
  cublasLtMatmulDesc_t product_{};
  cublasLtMatrixLayout_t w_layout_{}, x_layout_{}, y_layout_{};
  cublasLtMatmulHeuristicResult_t algorithm_{};
  bool supported_ = false;
};

double control_tops(index_t size, bool bytes) {
  Control const control(size, size, size, bytes);
  if (!control.supported()) return 0;
  double const n = static_cast<double>(size);
  return 2 * n * n * n / median_milliseconds(nullptr, [&] { control.run(bytes); }) / 1e9;
}

/// Quantized activations of random levels.
struct RandomActivations {
  Buffer<std::uint8_t> levels;
  Buffer<float> scales;
  ConstQuantizedRows q;
  RandomActivations(index_t tokens, index_t channels, int bits)
      : levels(static_cast<std::size_t>(tokens * channels * bits / 8)),
        scales(static_cast<std::size_t>(tokens)) {
    fill_random(levels, 9);
    fill(scales, 0.02f);
    q = {tokens,        channels, bits, Symmetry::symmetric, 0, levels.data(), channels * bits / 8,
         scales.data(), 1};
  }
};

void measure_prefill(Report& report, MatmulTarget const& target, index_t size) {
  double const n = static_cast<double>(size), operations = 2 * n * n * n;
  auto const name_of_product = [&](int bits, index_t group) {
    return "W4A" + std::to_string(bits) + (group == 0 ? " per output" : " g128") + " " +
           std::to_string(size) + "^3, " + name_of(matmul_path(target, {{size, size, group}, size, bits}));
  };
  bool wanted = false;
  for (int const bits : {4, 8})
    for (index_t const group : {index_t{0}, index_t{128}})
      wanted = wanted || report.wants(name_of_product(bits, group));
  if (!wanted) return;
  double const int8 = control_tops(size, true), bf16 = control_tops(size, false);
  std::string const cube = " " + std::to_string(size) + "^3";
  report.add({"cuBLASLt int8" + cube, int8, "TOPS", 0, "", 0});
  report.add({"cuBLASLt bf16" + cube, bf16, "TOPS", 0, "", 0});
  double const ceiling = target.architecture == 90  ? report.ceiling("wgmma s8")
                         : target.architecture < 90 ? report.ceiling("mma s4")
                                                    : report.ceiling("mma s8");
  Buffer<BFloat16> const y(static_cast<std::size_t>(size * size));
  for (int const bits : {4, 8})
    for (index_t const group : {index_t{0}, index_t{128}}) {
      MatmulShape const shape{{size, size, group}, size, bits};
      std::string const name = name_of_product(bits, group);
      if (!report.wants(name)) continue;
      RandomWeights const w(shape.weights, 5);
      RandomActivations const x(size, size, bits);
      Buffer<std::byte> const workspace(matmul_workspace_bytes(target, shape));
      double const ms = median_milliseconds(nullptr, [&] {
        matmul(nullptr, shape.weights, w.packed.data(), x.q, nullptr,
               DeviceMatrixView<BFloat16>(y.data(), size, size), workspace.data(), workspace.bytes());
      });
      double const tops = operations / ms / 1e9;
      bool const nibbles = matmul_path(target, shape) == MatmulPath::mma_nibbles;
      double const against = nibbles || target.architecture >= 90 ? ceiling : report.ceiling("mma s8");
      report.add({name, tops, "TOPS", against, "tensor ceiling", group == 0 ? 0.85 : 0.75});
      report.add({name, tops, "TOPS", bf16, "cuBLASLt bf16", bits == 4 && group == 0 ? 1.3 : 0});
      report.add({name, tops, "TOPS", int8, "cuBLASLt int8", 0});
    }
}

/// Weights of several layers, more bytes than any cache has, in turn; one run of a graph calls each once.
void measure_decode(Report& report, index_t out, index_t in, index_t group) {
  WeightShape const shape{out, in, group};
  std::size_t const bytes = packed_weight_bytes(shape);
  std::size_t const copies = report.quick() ? 2 : (std::size_t{1} << 28) / bytes + 1;
  std::deque<RandomWeights> weights;
  for (index_t const tokens : {1, 2, 4, 8, 16})
    for (int const bits : {4, 8, 16}) {
      std::string const name = "decode W4A" + std::to_string(bits) +
                               (group == 0 ? " per output, " : " g128, ") + std::to_string(out) + " x " +
                               std::to_string(in) + ", " + std::to_string(tokens) +
                               (tokens == 1 ? " token" : " tokens");
      if (!report.wants(name)) continue;
      if (weights.empty()) weights.emplace_back(shape, 5u);
      while (weights.size() < copies) weights.push_back(weights.front());
      RandomActivations const x(tokens, in, bits == 16 ? 8 : bits);
      Buffer<Half> const x16(static_cast<std::size_t>(tokens * in));
      fill_random_half(x16);
      Buffer<float> const y(static_cast<std::size_t>(tokens * out));
      DeviceMatrixView<float> const Y(y.data(), tokens, out);
      Graph const graph([&](cudaStream_t stream) {
        for (RandomWeights const& w : weights)
          if (bits == 16)
            matmul(stream, shape, w.packed.data(), DeviceMatrixView<Half const>(x16.data(), tokens, in),
                   nullptr, Y);
          else matmul(stream, shape, w.packed.data(), x.q, nullptr, Y, nullptr, 0);
      });
      double const ms = graph.median_milliseconds() / static_cast<double>(copies);
      double const moved =
          static_cast<double>(bytes) + static_cast<double>(tokens * (in * bits / 8 + out * 4));
      report.add({name, moved / ms / 1e6, "GB/s", report.ceiling("read"), "read bandwidth", 0.85});
    }
}

int run(int argc, char** argv) {
  Report report("matmul", argc, argv);
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0));
  report.device(properties.name);
  MatmulTarget const target = matmul_target();
  measure_prefill(report, target, report.quick() ? 256 : 8192);
  for (index_t const group : {index_t{0}, index_t{128}}) {
    if (report.quick()) {
      measure_decode(report, 512, 512, group);
      continue;
    }
    measure_decode(report, 4096, 4096, group);
    measure_decode(report, 28672, 4096, group);
    measure_decode(report, 4096, 14336, group);
  }
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
