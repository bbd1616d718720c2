// SPDX-License-Identifier: Apache-2.0
// The matrix kernels on the CPU: bodies, packing and tensor instructions against the products of kernels.h.

#include <cstdint>
#include <vector>

#include <dartquant/cuda/activations.cuh>
#include <dartquant/cuda/decode.cuh>
#include <dartquant/cuda/decode_float.cuh>
#include <dartquant/cuda/float_product.cuh>
#include <dartquant/cuda/int_product.cuh>
#include <dartquant/cuda/multiply_float.cuh>
#include <dartquant/cuda/multiply_mma.cuh>
#include <dartquant/cuda/multiply_plain.cuh>
#include <dartquant/cuda/multiply_wgmma.cuh>

#include "cuda/products.hpp"
#include "support/catch.hpp"
#include "support/host_tensor_core.hpp"
#include "support/host_thread.hpp"
#include "support/host_warpgroup.hpp"

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
    run_on_host(StageActivations::grid(layout),
                StageActivations{p.x, layout, reinterpret_cast<std::byte*>(staged.data())});
    bool const nibbles = order == StagedOrder::nibbles;
    if (c.w_asymmetric) {
      sums.resize(static_cast<std::size_t>(c.tokens * p.w.groups));
      run_on_host({.blocks_x = static_cast<int>(SumActivations::block_count(c.tokens, p.w.groups))},
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

template <MmaOperands Operand>
void check_mma(ProductCase const& c, ThreadOrder order = ThreadOrder::rising) {
  Operands const operands(c);
  HostProduct product(operands, Operand == MmaOperands::bytes ? StagedOrder::bytes : StagedOrder::nibbles);
  using Kernel = MultiplyMma<Operand>;
  run_on_host(Kernel::grid(product.p), Kernel{product.p}, order);
  product.check();
}

template <int Bits, int TokenTiles, int PieceSteps, bool Corrected>
void check_decode(ProductCase const& c, ThreadOrder order = ThreadOrder::rising,
                  DecodeDevice const& device = {227 * 1024, 2}) {
  REQUIRE(c.x_bits == Bits);
  Operands const operands(c);
  HostProduct product(operands, StagedOrder::bytes);
  product.p.staged = nullptr;  // decode takes activations as they are, and sums them itself
  product.p.x_sums = nullptr;
  using Kernel = Decode<Bits, TokenTiles, PieceSteps, Corrected>;
  DecodePlan const plan = Kernel::plan_of(product.p, device);
  REQUIRE(plan.bytes <= device.shared_bytes);
  run_on_host(plan.grid(), Kernel{product.p, plan}, order);
  product.check();
}

template <WgmmaSums Sums>
void check_wgmma(ProductCase const& c, ThreadOrder order = ThreadOrder::rising) {
  Operands const operands(c);
  HostProduct product(operands, StagedOrder::blocks);
  using Kernel = MultiplyWgmma<Sums>;
  run_on_host(Kernel::grid(product.p), Kernel{product.p, staged_layout(StagedOrder::blocks, c.tokens, c.in)},
              order);
  product.check();
}

void check_plain(ProductCase const& c) {
  Operands const operands(c);
  HostProduct product(operands, StagedOrder::bytes);
  product.p.zero_points_left = false;
  run_on_host(plain_grid(product.p.y), MultiplyPlain{product.p});
  product.check();
}

/// A W4A16 kernel within the bound; `aligned` rows are read 16 bytes at a time.
template <class T, class Kernel>
void check_float(ProductCase const& c, ThreadOrder order = ThreadOrder::rising) {
  Operands const operands(c);
  auto const packed = operands.packed();
  std::int64_t const stride = c.in + c.extra;
  auto const values = operands.float_values<T>(stride);
  std::vector<float> y(static_cast<std::size_t>(c.tokens * (c.out + 1)), -77.0f);
  FloatProduct<T> p{};
  p.w = Weights(operands.shape, reinterpret_cast<std::byte const*>(packed.data()));
  p.x = {values.data(), stride, static_cast<int>(c.tokens), static_cast<int>(c.in),
         stride % 8 == 0 && reinterpret_cast<std::uintptr_t>(values.data()) % 16 == 0};
  p.bias = c.bias ? operands.bias.data() : nullptr;
  p.y = {y.data(), OutputType::float32, c.out + 1, static_cast<int>(c.tokens), static_cast<int>(c.out)};
  if constexpr (requires { Kernel::plan_of(p, DecodeDevice{}); }) {
    DecodePlan const plan = Kernel::plan_of(p, {.shared_bytes = 227 * 1024, .multiprocessors = 2});
    REQUIRE(plan.bytes <= 227 * 1024);
    run_on_host(plan.grid(), Kernel{p, plan}, order);
  } else if constexpr (requires { Kernel::grid(p); }) run_on_host(Kernel::grid(p), Kernel{p}, order);
  else run_on_host(plain_grid(p.y), Kernel{p}, order);
  auto const expected = operands.expected(values, stride);
  std::int64_t wrong = 0;
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    for (std::int64_t i = 0; i < c.out; ++i) {
      auto const at = static_cast<std::size_t>(t * c.out + i);
      double const off =
          static_cast<double>(y[static_cast<std::size_t>(t * (c.out + 1) + i)]) - expected.y[at];
      wrong += !(std::abs(off) <= expected.bound[at]);
    }
    wrong += y[static_cast<std::size_t>(t * (c.out + 1) + c.out)] != -77.0f;
  }
  INFO("tokens " << c.tokens << ", out " << c.out << ", in " << c.in << ", group " << c.group);
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("multiply_mma: bytes, one scale per output", "[cuda][matmul]") {
  for (int const bits : {4, 8})
    for (bool const asymmetric : {false, true}) {
      check_mma<MmaOperands::bytes>({.tokens = 37,
                                     .out = 51,
                                     .in = 203,
                                     .x_bits = bits,
                                     .w_asymmetric = asymmetric,
                                     .x_asymmetric = asymmetric,
                                     .bias = asymmetric,
                                     .extra = asymmetric ? 3 : 0});
    }
  check_mma<MmaOperands::bytes>({.tokens = 130, .out = 140, .in = 64}, ThreadOrder::falling);
  check_mma<MmaOperands::bytes>({.tokens = 1, .out = 1, .in = 1}, ThreadOrder::shuffled);
}

TEST_CASE("multiply_mma: bytes, a scale per group", "[cuda][matmul]") {
  check_mma<MmaOperands::bytes>({.tokens = 9, .out = 130, .in = 500, .group = 32, .bias = true},
                                ThreadOrder::eager);
  check_mma<MmaOperands::bytes>({.tokens = 33,
                                 .out = 17,
                                 .in = 328,
                                 .group = 128,
                                 .x_bits = 8,
                                 .w_asymmetric = true,
                                 .x_asymmetric = true,
                                 .extra = 1});
  check_mma<MmaOperands::bytes>({.tokens = 20,
                                 .out = 40,
                                 .in = 192,
                                 .group = 64,
                                 .w_asymmetric = true,
                                 .x_asymmetric = true,
                                 .x_grouped = true,
                                 .bias = true},
                                ThreadOrder::falling);
  check_mma<MmaOperands::bytes>(
      {.tokens = 20, .out = 40, .in = 160, .group = 96, .x_bits = 8, .x_grouped = true},
      ThreadOrder::shuffled);
}

TEST_CASE("multiply_mma: nibbles", "[cuda][matmul]") {
  check_mma<MmaOperands::nibbles>({.tokens = 37, .out = 51, .in = 203, .extra = 1});
  check_mma<MmaOperands::nibbles>(
      {.tokens = 12, .out = 20, .in = 90, .w_asymmetric = true, .x_asymmetric = true, .bias = true},
      ThreadOrder::shuffled);
  check_mma<MmaOperands::nibbles>({.tokens = 9, .out = 130, .in = 500, .group = 64, .bias = true},
                                  ThreadOrder::eager);
  check_mma<MmaOperands::nibbles>({.tokens = 20,
                                   .out = 40,
                                   .in = 300,
                                   .group = 128,
                                   .w_asymmetric = true,
                                   .x_asymmetric = true,
                                   .x_grouped = true},
                                  ThreadOrder::falling);
}

TEST_CASE("decode: one scale per output", "[cuda][matmul]") {
  check_decode<4, 1, 0, false>({.tokens = 1, .out = 70, .in = 700, .bias = true}, ThreadOrder::eager);
  check_decode<8, 1, 0, true>({.tokens = 8, .out = 32, .in = 64, .x_bits = 8, .x_asymmetric = true});
  check_decode<8, 1, 0, false>({.tokens = 5, .out = 113, .in = 4500, .x_bits = 8, .extra = 1});
  check_decode<8, 2, 0, true>({.tokens = 13,
                               .out = 5,
                               .in = 1030,
                               .x_bits = 8,
                               .w_asymmetric = true,
                               .x_asymmetric = true,
                               .bias = true,
                               .extra = 1},
                              ThreadOrder::falling);
  check_decode<4, 2, 0, true>(
      {.tokens = 16, .out = 33, .in = 201, .w_asymmetric = true, .x_asymmetric = true, .extra = 2},
      ThreadOrder::shuffled);
  check_decode<4, 2, 0, false>({.tokens = 16, .out = 100, .in = 5000}, ThreadOrder::shuffled);
}

TEST_CASE("decode_plan: all warps have weights, and activations fit", "[cuda][matmul]") {
  DecodeShape shape{.panels = 256,
                    .tiles = 224,
                    .tokens = 16,
                    .x_bits = 4,
                    .panels_of_set = 2,
                    .bite = 4,
                    .slot_bytes = 40 * 1024};
  DecodePlan const whole = decode_plan(shape, {227 * 1024, 132});
  CHECK(whole.sets == 128);
  CHECK(whole.blocks == 128);
  CHECK(whole.rounds == 4);  // of 64 tiles
  CHECK(whole.slices() == 1);
  CHECK(whole.bytes == 16 * (4 * 2048 + 16) + 40 * 1024);
  CHECK(decode_plan(shape, {227 * 1024, 100}).blocks == 100);
  shape.x_bits = 8;
  DecodePlan const sliced = decode_plan(shape, {227 * 1024, 132});
  CHECK(sliced.slices() == 4);
  CHECK(sliced.bytes <= 227 * 1024);
  CHECK(sliced.slot_offset == 2 * 16 * sliced.row_stride);
  CHECK(decode_plan(shape, {99 * 1024, 132}).bytes > 99 * 1024);  // fewer tokens do
  shape.tokens = 4;
  CHECK(decode_plan(shape, {99 * 1024, 132}).bytes <= 99 * 1024);
}

TEST_CASE("decode: activations in slices", "[cuda][matmul]") {
  for (ThreadOrder const order : {ThreadOrder::eager, ThreadOrder::falling}) {
    check_decode<4, 2, 0, false>({.tokens = 16, .out = 100, .in = 12416}, order, {120 * 1024, 2});
    check_decode<8, 2, 4, false>({.tokens = 6, .out = 70, .in = 10240, .group = 128, .x_bits = 8}, order,
                                 {90 * 1024, 2});
  }
}

TEST_CASE("decode: a scale per group", "[cuda][matmul]") {
  check_decode<4, 1, 1, false>({.tokens = 3, .out = 40, .in = 704, .group = 32, .bias = true},
                               ThreadOrder::eager);
  check_decode<4, 1, 2, false>({.tokens = 4, .out = 40, .in = 5000, .group = 192, .bias = true},
                               ThreadOrder::eager);
  check_decode<4, 1, 4, false>({.tokens = 1, .out = 100, .in = 9000, .group = 128, .bias = true},
                               ThreadOrder::shuffled);
  check_decode<8, 1, 2, true>({.tokens = 8,
                               .out = 20,
                               .in = 2200,
                               .group = 128,
                               .x_bits = 8,
                               .w_asymmetric = true,
                               .x_asymmetric = true},
                              ThreadOrder::falling);
  check_decode<4, 2, 2, true>({.tokens = 11,
                               .out = 33,
                               .in = 1100,
                               .group = 64,
                               .w_asymmetric = true,
                               .x_asymmetric = true,
                               .x_grouped = true,
                               .bias = true,
                               .extra = 3},
                              ThreadOrder::shuffled);
  check_decode<4, 1, 4, false>({.tokens = 3, .out = 20, .in = 4000, .group = 1536});
  check_decode<8, 1, 2, true>({.tokens = 3,
                               .out = 20,
                               .in = 9000,
                               .group = 4480,
                               .x_bits = 8,
                               .w_asymmetric = true,
                               .x_asymmetric = true,
                               .x_grouped = true});
  check_decode<8, 2, 1, true>(
      {.tokens = 16, .out = 16, .in = 500, .group = 96, .x_bits = 8, .x_grouped = true});
  check_decode<8, 2, 1, false>({.tokens = 16, .out = 40, .in = 1500, .group = 96, .x_bits = 8},
                               ThreadOrder::falling);
  check_decode<8, 2, 4, false>({.tokens = 16, .out = 40, .in = 4400, .group = 256, .x_bits = 8},
                               ThreadOrder::eager);
}

TEST_CASE("multiply_plain: any group", "[cuda][matmul]") {
  check_plain({.tokens = 7,
               .out = 35,
               .in = 203,
               .x_bits = 8,
               .w_asymmetric = true,
               .x_asymmetric = true,
               .bias = true,
               .extra = 1});
  check_plain({.tokens = 3,
               .out = 131,
               .in = 120,
               .group = 40,
               .w_asymmetric = true,
               .x_asymmetric = true,
               .x_grouped = true});
  check_plain({.tokens = 3, .out = 9, .in = 64, .group = 8, .x_grouped = true});
}

TEST_CASE("W4A16 kernels stay within the bound", "[cuda][matmul]") {
  check_float<Half, DecodeFloat<Half, 1, 0>>({.tokens = 5, .out = 40, .in = 600, .bias = true},
                                             ThreadOrder::eager);
  check_float<BFloat16, DecodeFloat<BFloat16, 2, 1>>(
      {.tokens = 14, .out = 35, .in = 331, .group = 32, .w_asymmetric = true, .extra = 1},
      ThreadOrder::falling);
  check_float<Half, DecodeFloat<Half, 1, 4>>(
      {.tokens = 8, .out = 70, .in = 5000, .group = 128, .w_asymmetric = true, .bias = true},
      ThreadOrder::shuffled);
  check_float<Half, DecodeFloat<Half, 1, 4>>(
      {.tokens = 2, .out = 20, .in = 4000, .group = 1536, .w_asymmetric = true});
  check_float<Half, DecodeFloat<Half, 1, 0>>({.tokens = 8, .out = 70, .in = 10000}, ThreadOrder::falling);
  check_float<Half, DecodeFloat<Half, 2, 0>>(
      {.tokens = 16, .out = 20, .in = 3000, .w_asymmetric = true, .extra = 8}, ThreadOrder::eager);
  check_float<Half, MultiplyFloat<Half>>(
      {.tokens = 40, .out = 70, .in = 329, .group = 128, .w_asymmetric = true, .bias = true, .extra = 7},
      ThreadOrder::eager);
  check_float<Half, MultiplyFloat<Half>>({.tokens = 130, .out = 17, .in = 72, .group = 32, .bias = true},
                                         ThreadOrder::shuffled);
  check_float<BFloat16, MultiplyFloat<BFloat16>>({.tokens = 20, .out = 140, .in = 200, .w_asymmetric = true},
                                                 ThreadOrder::falling);
  check_float<float, MultiplyFloatPlain<float>>({.tokens = 3, .out = 9, .in = 90, .group = 8, .bias = true});
  check_float<BFloat16, MultiplyFloatPlain<BFloat16>>(
      {.tokens = 3, .out = 9, .in = 90, .w_asymmetric = true});
}

TEST_CASE("multiply_wgmma, its instructions by their meaning", "[cuda][matmul]") {
  check_wgmma<WgmmaSums::whole>({.tokens = 37, .out = 51, .in = 203, .bias = true});
  check_wgmma<WgmmaSums::whole>({.tokens = 260,
                                 .out = 20,
                                 .in = 1500,
                                 .x_bits = 8,
                                 .w_asymmetric = true,
                                 .x_asymmetric = true,
                                 .extra = 1},
                                ThreadOrder::shuffled);
  check_wgmma<WgmmaSums::stages>({.tokens = 150, .out = 300, .in = 1700, .group = 128, .bias = true});
  check_wgmma<WgmmaSums::stages>({.tokens = 20, .out = 140, .in = 250, .group = 128, .x_bits = 8},
                                 ThreadOrder::falling);
  check_wgmma<WgmmaSums::groups>({.tokens = 20, .out = 140, .in = 1700, .group = 128, .bias = true},
                                 ThreadOrder::falling);
  check_wgmma<WgmmaSums::groups>({.tokens = 129,
                                  .out = 17,
                                  .in = 300,
                                  .group = 256,
                                  .w_asymmetric = true,
                                  .x_asymmetric = true,
                                  .x_grouped = true},
                                 ThreadOrder::shuffled);
}
