// SPDX-License-Identifier: Apache-2.0
// The compiled kernels behind the C++ calls, against the same calls on a plain Cpu.
#include <dartquant/core/compiled_kernels.hpp>
#include <dartquant/quant/matmul.hpp>
#include <dartquant/quant/quantize.hpp>
#include <dartquant/transform/hadamard.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "quant/data.hpp"
#include "support/catch.hpp"

using namespace dartquant;
using quant_test::both_symmetries;
using quant_test::normal_matrix;
using quant_test::random_levels;

namespace {

std::vector<Cpu> equipped_cpus(int threads) {
  (void)dartquant_amx_request();
  std::vector<Cpu> cpus;
  for (dartquant_isa const isa : available_isas())
    cpus.push_back(Cpu(threads).with_kernels(compiled_kernels(isa)));
  return cpus;
}

template <class T>
bool same_bytes(MatrixView<T const> A, MatrixView<T const> B) {
  bool same = A.rows() == B.rows() && A.cols() == B.cols();
  for (index_t i = 0; same && i < A.rows(); ++i)
    same = std::memcmp(A.row(i).data(), B.row(i).data(), static_cast<std::size_t>(A.cols()) * sizeof(T)) == 0;
  return same;
}

bool same_bytes(RowMatrix<float> const& A, RowMatrix<float> const& B) { return same_bytes<float>(A, B); }

template <int Bits>
bool same_bytes(IntMatrix<Bits> const& A, IntMatrix<Bits> const& B) {
  return same_bytes<std::uint8_t>(A.bytes(), B.bytes()) && same_bytes<float>(A.scales(), B.scales()) &&
         same_bytes<std::int32_t>(A.zero_points(), B.zero_points());
}

std::vector<QuantizeOptions> quantizers() {
  std::vector<QuantizeOptions> all;
  for (int const bits : {3, 4, 8})
    for (auto const symmetry : both_symmetries) {
      for (auto const granularity : {per_tensor, per_row, per_column, per_group(3), per_group(32)})
        all.push_back({.bits = bits, .granularity = granularity, .symmetry = symmetry, .clip_ratio = 0.9});
    }
  all.push_back({.clip_search = ClipSearch::mse});
  return all;
}

/// What a call says when it refuses.
template <class Call>
std::string refusal(Call const& call) {
  try {
    call();
  } catch (InvalidArgument const& error) {
    return error.what();
  }
  return "accepted";
}

/// (groups + 4) 2^-24 sum of |terms|: groups + 3 roundings of the kernel, see quant/matmul_packed.hpp, and
/// one of the reference. `groups`: an upper bound.
template <int Bits>
void check_close(IntMatrix<Bits> const& X, Int4Matrix const& W, RowMatrix<float> const& Y,
                 RowMatrix<float> const& reference, std::vector<float> const& bias, index_t groups) {
  Cpu const plain(1);
  RowMatrix<double> const x = dequantize(plain, X).template cast<double>(),
                          w = dequantize(plain, W).template cast<double>();
  double const rounding = static_cast<double>(groups + 4) * 1.001 * std::ldexp(1.0, -24);
  RowMatrix<double> const size = x.cwiseAbs() * w.cwiseAbs().transpose();
  for (index_t i = 0; i < Y.rows(); ++i)
    for (index_t o = 0; o < Y.cols(); ++o) {
      double const extra = bias.empty() ? 0.0 : std::abs(bias[static_cast<std::size_t>(o)]);
      REQUIRE(std::abs(static_cast<double>(Y(i, o)) - static_cast<double>(reference(i, o))) <=
              rounding * (size(i, o) + extra));
    }
}

}  // namespace

TEST_CASE("compiled quantizers give the bytes of the plain ones", "[cpp_api]") {
  Cpu const plain(1);
  RowMatrix<float> const wide = normal_matrix(70, 130, 1, 40);
  for (Cpu const& cpu : equipped_cpus(2))
    for (QuantizeOptions const& options : quantizers())
      for (index_t const cols : {1, 2, 33, 97}) {
        INFO(cpu.kernels()->name() << ", " << options.bits << " bits, " << cols << " channels");
        auto const X = MatrixView<float const>(wide).block(0, 5, 70, cols);  // strided
        auto const Q8 = quantize_int8(plain, X, options);
        REQUIRE(same_bytes(quantize_int8(cpu, X, options), Q8));
        REQUIRE(same_bytes(dequantize(cpu, Q8), dequantize(plain, Q8)));
        RowMatrix<float> rounded = as_eigen(X);
        fake_quantize(cpu, rounded, options);
        REQUIRE(same_bytes(rounded, dequantize(plain, Q8)));
        if (options.bits > 4) continue;
        auto const Q4 = quantize(plain, X, options);
        REQUIRE(same_bytes(quantize(cpu, X, options), Q4));
        REQUIRE(same_bytes(dequantize(cpu, Q4), dequantize(plain, Q4)));
      }
}

TEST_CASE("extreme values and empty matrices are quantized as without kernels", "[cpp_api]") {
  Cpu const plain(1);
  RowMatrix<float> X = RowMatrix<float>::Zero(5, 40);
  X.row(1).setConstant(3.4e38f);
  X.row(2).setConstant(1e-45f);
  X.row(3).setConstant(-0.0f);
  X(4, 39) = -3.4e38f;
  RowMatrix<float> const none(0, 8), narrow(3, 0);
  for (Cpu const& cpu : equipped_cpus(1))
    for (auto const symmetry : both_symmetries) {
      QuantizeOptions const options{.granularity = per_group(16), .symmetry = symmetry, .clip_ratio = 1e-60};
      REQUIRE(
          same_bytes(quantize(cpu, X, {.symmetry = symmetry}), quantize(plain, X, {.symmetry = symmetry})));
      REQUIRE(same_bytes(quantize(cpu, X, options), quantize(plain, X, options)));
      REQUIRE(quantize(cpu, none).rows() == 0);
      REQUIRE(dequantize(cpu, quantize(cpu, narrow)).cols() == 0);
    }
}

TEST_CASE("a value that is not finite gets the same sentence", "[cpp_api][error]") {
  for (Cpu const& cpu : equipped_cpus(2))
    for (float const bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      RowMatrix<float> X = normal_matrix(700, 96, 2);
      X(650, 17) = X(300, 95) = bad;
      Cpu const plain(1);
      std::string const sentence = refusal([&] { (void)quantize(plain, X); });
      REQUIRE(sentence.find("row 300, channel 95") != std::string::npos);
      REQUIRE(refusal([&] { (void)quantize(cpu, X); }) == sentence);
      RowMatrix<float> Y = X, Z = X;
      REQUIRE(refusal([&] { fake_quantize(cpu, Y, {.bits = 8}); }) ==
              refusal([&] { fake_quantize(plain, Z, {.bits = 8}); }));
    }
}

TEST_CASE("compiled Hadamard transforms give the bytes of the plain ones", "[cpp_api]") {
  struct Shape {
    index_t channels, block;
  };
  Cpu const plain(1);
  for (Cpu const& cpu : equipped_cpus(2))
    for (Shape const shape : {Shape{1, 1},
                              {2, 2},
                              {64, 64},
                              {96, 16},
                              {96, 96},
                              {60, 20},
                              {344, 344},
                              {1376, 344},
                              {448, 448},
                              {1024, 1024}}) {
      INFO(cpu.kernels()->name() << ", " << shape.channels << " channels in blocks of " << shape.block);
      Hadamard const hadamard(shape.channels, shape.block);
      RowMatrix<float> const wide = normal_matrix(37, shape.channels + 3, 3, 50);
      RowMatrix<float> X = wide, Y = wide;
      hadamard.apply(cpu, X.middleCols(2, shape.channels));
      hadamard.apply(plain, Y.middleCols(2, shape.channels));
      REQUIRE(same_bytes(X, Y));
      hadamard.apply_inverse(cpu, X.middleCols(2, shape.channels));
      hadamard.apply_inverse(plain, Y.middleCols(2, shape.channels));
      REQUIRE(same_bytes(X, Y));
    }
}

TEST_CASE("compiled products under unit scales are the exact integers", "[cpp_api]") {
  Cpu const plain(1);
  for (Cpu const& cpu : equipped_cpus(2)) {
    std::uint64_t seed = 10;
    for (index_t const channels : {1, 7, 40, 200})
      for (auto const x : both_symmetries)
        for (auto const w : both_symmetries)
          for (auto const fine : {per_row, per_group(8), per_group(32)})
            for (auto const wide : {per_row, per_group(16), per_group(64)}) {
              INFO(cpu.kernels()->name() << ", " << channels << " channels");
              seed += 3;
              auto const W = random_levels<4>(19, channels, {.granularity = fine, .symmetry = w}, seed);
              auto const X4 = random_levels<4>(3, channels, {.granularity = wide, .symmetry = x}, seed + 1);
              auto const X8 =
                  random_levels<8>(2, channels, {.bits = 8, .granularity = wide, .symmetry = x}, seed + 2);
              REQUIRE(same_bytes(matmul(cpu, X4, W), matmul(plain, X4, W)));
              REQUIRE(same_bytes(matmul(cpu, X8, W), matmul(plain, X8, W)));
            }
  }
}

TEST_CASE("compiled products keep to the bound, with a bias, whatever shares a scale", "[cpp_api]") {
  Cpu const plain(1);
  RowMatrix<float> const values = normal_matrix(21, 136, 4), X = normal_matrix(5, 136, 5, 30);
  std::vector<float> bias(21);
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<float>(i) - 7.25f;
  std::vector<RowMatrix<float>> first;
  for (Cpu const& cpu : equipped_cpus(2)) {
    std::size_t at = 0;
    for (auto const fine : {per_tensor, per_row, per_column, per_group(12), per_group(32), per_group(64)})
      for (auto const wide : {per_tensor, per_row, per_column, per_group(32), per_group(64)}) {
        auto const W = quantize(plain, values, {.granularity = fine});
        auto const X4 = quantize(plain, X, {.granularity = wide, .symmetry = Symmetry::asymmetric});
        auto const X8 =
            quantize_int8(plain, X, {.bits = 8, .granularity = wide, .symmetry = Symmetry::asymmetric});
        RowMatrix<float> const Y4 = matmul(cpu, X4, W, bias), Y8 = matmul(cpu, X8, W, bias);
        check_close(X4, W, Y4, matmul(plain, X4, W, bias), bias, 5);
        check_close(X8, W, Y8, matmul(plain, X8, W, bias), bias, 5);
        if (first.size() <= at) first.insert(first.end(), {Y4, Y8});  // of the portable kernels
        REQUIRE(same_bytes(Y4, first[at]));
        REQUIRE(same_bytes(Y8, first[at + 1]));
        at += 2;
        RowMatrix<double> const size =
            X.cast<double>().cwiseAbs() * dequantize(plain, W).cast<double>().cwiseAbs().transpose();
        RowMatrix<double> const error = (matmul(cpu, X, W).cast<double>() -
                                         X.cast<double>() * dequantize(plain, W).cast<double>().transpose());
        REQUIRE(((error.cwiseAbs() - (136 + 8) * std::ldexp(1.0, -24) * size).array() <= 0).all());
      }
  }
}

TEST_CASE("packed weights are multiplied as often as wanted, on any number of threads", "[cpp_api]") {
  Cpu const one = Cpu(1).with_kernels(compiled_kernels()), four = Cpu(4).with_kernels(compiled_kernels());
  auto const W = quantize(one, normal_matrix(120, 256, 6), {.granularity = per_group(64)});
  PackedInt4 const packed = pack(one, W), same = pack(four, W), fine = pack(one, W, {.group = 32});
  REQUIRE(packed.rows() == 120);
  REQUIRE(packed.cols() == 256);
  REQUIRE(packed.group() == 64);
  REQUIRE(fine.group() == 32);
  REQUIRE(packed.bytes() == same.bytes());
  REQUIRE(std::memcmp(packed.data(), same.data(), packed.bytes()) == 0);
  for (index_t const tokens : {0, 1, 300}) {
    RowMatrix<float> const X = normal_matrix(tokens, 256, 7);
    auto const X4 = quantize(one, X);
    auto const X8 = quantize_int8(one, X, {.bits = 8, .symmetry = Symmetry::asymmetric});
    REQUIRE(same_bytes(matmul(one, X4, packed), matmul(four, X4, packed)));
    REQUIRE(same_bytes(matmul(one, X8, packed), matmul(four, X8, packed)));
    REQUIRE(same_bytes(matmul(one, X, packed), matmul(four, X, packed)));
    REQUIRE(same_bytes(matmul(one, X4, packed), matmul(one, X4, W)));
  }
  four.for_each(3, [&](Cpu const& serial, index_t) {
    if (serial.kernels() == nullptr) throw InvalidArgument("the kernels were lost");
  });
}

TEST_CASE("what cannot be packed or multiplied gets a sentence", "[cpp_api][error]") {
  Cpu const plain(1), cpu = Cpu(1).with_kernels(compiled_kernels());
  RowMatrix<float> const values = normal_matrix(6, 48, 8);
  auto const W = quantize(plain, values, {.granularity = per_group(16)});
  CHECK_THROWS_WITH(pack(plain, W),
                    "[pack] packed weights need compiled kernels, and this Cpu has none: use "
                    "Cpu(threads).with_kernels(compiled_kernels())");
  CHECK_THROWS_WITH(pack(cpu, quantize(plain, RowMatrix<float>(0, 4))),
                    "[pack] weights of 0 x 4: at least one output and one input are needed");
  CHECK_THROWS_WITH(pack(cpu, quantize(plain, values, {.granularity = per_column})),
                    Catch::Contains("one scale per column has no packed form"));
  CHECK_THROWS_WITH(pack(cpu, W, {.group = 32}),
                    "[pack] groups of 32 channels from scales of 16: packed groups are whole rows, or a "
                    "multiple of 8 that divides the weights' own");
  CHECK_THROWS_WITH(pack(cpu, quantize(plain, values, {.granularity = per_group(12)})),
                    Catch::Contains("groups of 12 channels"));
  PackedInt4 const packed = pack(cpu, W, {.sums = false});
  auto const X8 = quantize_int8(plain, values, {.bits = 8, .symmetry = Symmetry::asymmetric});
  CHECK_THROWS_WITH(matmul(cpu, X8, packed),
                    "[matmul] asymmetric 8-bit activations need weights that are packed with sums of levels");
  CHECK_THROWS_WITH(matmul(cpu, quantize(plain, values, {.granularity = per_group(24)}), packed),
                    Catch::Contains("[matmul] scales of 24 channels of X and of 16 of the packed W"));
  CHECK_THROWS_WITH(matmul(cpu, quantize(plain, normal_matrix(2, 47, 9)), packed),
                    "[matmul] X is 2 x 47 and W is 6 x 48: the channels must agree");
  CHECK_THROWS_WITH(matmul(plain, values, packed), Catch::Contains("this Cpu has none"));
}

TEST_CASE("an instruction set is chosen by name, and refused where it is missing", "[cpp_api]") {
  REQUIRE(available_isas().front() == dartquant_isa_portable);
  REQUIRE(isa_of_name("portable") == dartquant_isa_portable);
  REQUIRE(isa_of_name("neon_i8mm") == dartquant_isa_neon_i8mm);
  REQUIRE_FALSE(isa_of_name("sse9").has_value());
  REQUIRE(std::string(compiled_kernels(dartquant_isa_portable).name()) == "portable");
  std::string const refused = refusal([] { (void)compiled_kernels(static_cast<dartquant_isa>(7)); });
  REQUIRE(
      refused.starts_with("[compiled_kernels] the instruction set unknown is not available here; these are: "
                          "portable"));
  REQUIRE(Cpu(1).kernels() == nullptr);
}
