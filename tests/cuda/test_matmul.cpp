// SPDX-License-Identifier: Apache-2.0
// The matrix kernels on the CPU: bodies, packing and tensor instructions against the products of kernels.h.

#include <cstdint>
#include <vector>

#include <dartquant/cuda/activations.cuh>
#include <dartquant/cuda/int_product.cuh>
#include <dartquant/cuda/multiply_mma.cuh>

#include "cuda/products.hpp"
#include "support/catch.hpp"
#include "support/host_tensor_core.hpp"
#include "support/host_thread.hpp"

using namespace dartquant;
using namespace dartquant::cuda;
using dartquant::test::Operands;
using dartquant::test::ProductCase;
using dartquant::test::run_on_host;
using dartquant::test::ThreadOrder;

namespace {

/// Everything that an integer product on the CPU needs: staged activations, sums, and Y with a guard.
struct HostProduct {
  Operands const& operands;
  kernel_test::Exact packed, staged;
  std::vector<std::int32_t> sums;
  std::vector<float> y;
  IntProduct p{};

  HostProduct(Operands const& of, StagedOrder order)
      : operands(of),
        packed(of.packed()),
        staged(static_cast<std::size_t>(staged_layout(order, of.c.tokens, of.c.in).bytes())),
        y(static_cast<std::size_t>(of.c.tokens * (of.c.out + 3)), -77.0f) {
    auto const& c = of.c;
    p.w = Weights(of.shape, reinterpret_cast<std::byte const*>(packed.data()));
    p.x = of.activations();
    StagedLayout const layout = staged_layout(order, c.tokens, c.in);
    p.staged = reinterpret_cast<std::byte const*>(staged.data());
    run_on_host({.blocks_x = static_cast<int>(StageActivations::blocks(layout))},
                StageActivations{p.x, layout, reinterpret_cast<std::byte*>(staged.data())});
    bool const nibbles = order == StagedOrder::nibbles;
    if (c.w_asymmetric) {
      sums.resize(static_cast<std::size_t>(c.tokens * p.w.groups));
      run_on_host({.blocks_x = static_cast<int>(SumActivations::blocks(c.tokens, p.w.groups))},
                  SumActivations{p.x, nibbles, p.w.groups, sums.data()});
      p.x_sums = sums.data();
    }
    p.zero_points_left = c.x_asymmetric && (c.x_bits == 8 || nibbles);
    p.bias = c.bias ? of.bias.data() : nullptr;
    p.y = {y.data(), OutputType::float32, c.out + 3, static_cast<int>(c.tokens), static_cast<int>(c.out)};
  }

  /// Whether Y is what the CPU computes, bit for bit, and what lies between its rows is untouched.
  void check() const {
    auto const& c = operands.c;
    auto const expected = operands.expected();
    std::int64_t wrong = 0, touched = 0;
    for (std::int64_t t = 0; t < c.tokens; ++t) {
      for (std::int64_t i = 0; i < c.out; ++i)
        wrong += std::memcmp(&y[static_cast<std::size_t>(t * (c.out + 3) + i)],
                             &expected[static_cast<std::size_t>(t * c.out + i)], 4) != 0;
      for (std::int64_t i = c.out; i < c.out + 3; ++i)
        touched += y[static_cast<std::size_t>(t * (c.out + 3) + i)] != -77.0f;
    }
    INFO("tokens " << c.tokens << ", out " << c.out << ", in " << c.in << ", group " << c.group << ", x bits "
                   << c.x_bits << ", asymmetric w x " << c.w_asymmetric << c.x_asymmetric << ", x grouped "
                   << c.x_grouped);
    CHECK(wrong == 0);
    CHECK(touched == 0);
  }
};

template <MmaOperands Operand, bool Grouped>
void check_mma(ProductCase const& c, ThreadOrder order = ThreadOrder::rising) {
  Operands const operands(c);
  HostProduct product(operands, Operand == MmaOperands::bytes ? StagedOrder::bytes : StagedOrder::nibbles);
  using Kernel = MultiplyMma<Operand, Grouped>;
  run_on_host(Kernel::grid(product.p), Kernel{product.p}, order);
  product.check();
}

}  // namespace

TEST_CASE("multiply_mma: bytes, one scale per output", "[cuda][matmul]") {
  for (int const bits : {4, 8})
    for (bool const asymmetric : {false, true}) {
      check_mma<MmaOperands::bytes, false>({.tokens = 37,
                                            .out = 51,
                                            .in = 203,
                                            .x_bits = bits,
                                            .w_asymmetric = asymmetric,
                                            .x_asymmetric = asymmetric,
                                            .bias = asymmetric,
                                            .extra = asymmetric ? 3 : 0});
    }
  check_mma<MmaOperands::bytes, false>({.tokens = 130, .out = 140, .in = 64}, ThreadOrder::falling);
  check_mma<MmaOperands::bytes, false>({.tokens = 1, .out = 1, .in = 1}, ThreadOrder::shuffled);
}

TEST_CASE("multiply_mma: bytes, a scale per group", "[cuda][matmul]") {
  check_mma<MmaOperands::bytes, true>({.tokens = 9, .out = 130, .in = 200, .group = 32, .bias = true});
  check_mma<MmaOperands::bytes, true>({.tokens = 33,
                                       .out = 17,
                                       .in = 328,
                                       .group = 128,
                                       .x_bits = 8,
                                       .w_asymmetric = true,
                                       .x_asymmetric = true,
                                       .extra = 1});
  check_mma<MmaOperands::bytes, true>({.tokens = 20,
                                       .out = 40,
                                       .in = 192,
                                       .group = 64,
                                       .w_asymmetric = true,
                                       .x_asymmetric = true,
                                       .x_grouped = true,
                                       .bias = true},
                                      ThreadOrder::falling);
  check_mma<MmaOperands::bytes, true>(
      {.tokens = 20, .out = 40, .in = 160, .group = 96, .x_bits = 8, .x_grouped = true},
      ThreadOrder::shuffled);
}

TEST_CASE("multiply_mma: nibbles", "[cuda][matmul]") {
  check_mma<MmaOperands::nibbles, false>({.tokens = 37, .out = 51, .in = 203, .extra = 1});
  check_mma<MmaOperands::nibbles, false>(
      {.tokens = 12, .out = 20, .in = 90, .w_asymmetric = true, .x_asymmetric = true, .bias = true},
      ThreadOrder::shuffled);
  check_mma<MmaOperands::nibbles, true>({.tokens = 9, .out = 130, .in = 328, .group = 64, .bias = true});
  check_mma<MmaOperands::nibbles, true>({.tokens = 20,
                                         .out = 40,
                                         .in = 300,
                                         .group = 128,
                                         .w_asymmetric = true,
                                         .x_asymmetric = true,
                                         .x_grouped = true},
                                        ThreadOrder::falling);
}
