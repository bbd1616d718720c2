// SPDX-License-Identifier: Apache-2.0
// Layout 2 of packed weights, byte by byte and there and back, and the choice of kernels.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <dartquant/core/error.hpp>
#include <dartquant/cuda/matmul_path.hpp>
#include <dartquant/cuda/packed_weights.hpp>

#include "cuda/products.hpp"
#include "support/catch.hpp"

using namespace dartquant;
using namespace dartquant::cuda;
using dartquant::test::Operands;
using dartquant::test::ProductCase;

TEST_CASE("pack_weights: the example of docs/int4_format.md", "[cuda][packed_weights]") {
  // out = 2, in = 8, asymmetric, with sums; the matrix of layout 1's example.
  std::vector<std::uint8_t> const levels{0x10, 0x32, 0x54, 0x76, 0xEF, 0xCD, 0xAB, 0x89};
  std::vector<float> const scales{0.5f, 0.25f};
  std::vector<std::int32_t> const zero_points{3, 10};
  WeightShape const shape{2, 8, 0, Symmetry::asymmetric, true};
  PlainWeights const plain{levels.data(), 4, scales.data(), 1, zero_points.data(), 1};
  std::vector<std::byte> packed(packed_weight_bytes(shape));
  REQUIRE(packed.size() == 128 + 512 + 128 + 128 + 128);
  pack_weights(shape, plain, packed.data(), packed.size());
  auto const word = [&](std::size_t at) {
    std::uint32_t w = 0;
    std::memcpy(&w, packed.data() + at, 4);
    return w;
  };
  CHECK(word(0) == 0x34575144u);
  CHECK(word(4) == 2u);
  CHECK(word(128) == 0xFEDCBA98u);           // row 0: lane 0, word 0; levels 0..7 minus 8
  CHECK(word(128 + 4 * 16) == 0x01234567u);  // row 1: lane 4; levels 15..8 minus 8
  CHECK(word(640) == 0x3F000000u);           // scale of row 0
  CHECK(packed[768] == std::byte{0xFB});     // zero point 3 - 8
  CHECK(packed[769] == std::byte{2});        // 10 - 8
  CHECK(word(896) == 4u);                    // 28 - 24
  CHECK(word(900) == 12u);                   // 92 - 80
}

TEST_CASE("pack_weights: there and back, any shape", "[cuda][packed_weights]") {
  for (bool const asymmetric : {false, true})
    for (auto const& [out, in, group] : {std::array<std::int64_t, 3>{1, 1, 0},
                                         {17, 65, 0},
                                         {33, 203, 32},
                                         {16, 128, 128},
                                         {5, 77, 7},
                                         {20, 64, 100}}) {
      Operands const operands(ProductCase{
          .tokens = 1, .out = out, .in = in, .group = group, .w_asymmetric = asymmetric, .extra = 2});
      auto const packed = operands.packed();
      kernel_test::Plain back({.rows = out,
                               .cols = in,
                               .bits = 4,
                               .symmetry = test::symmetry_of(asymmetric),
                               .group = group,
                               .extra = 2});
      std::memset(back.levels.data(), 0, back.levels.size());
      unpack_weights(operands.shape, reinterpret_cast<std::byte const*>(packed.data()), packed.size(),
                     {static_cast<std::uint8_t*>(back.q.levels), back.q.level_stride, back.q.scales,
                      back.q.scale_stride, back.q.zero_points, back.q.zero_point_stride});
      CHECK(back == operands.w);
    }
}

TEST_CASE("pack_weights: what is wrong is said", "[cuda][packed_weights]") {
  Operands const operands(ProductCase{.tokens = 1, .out = 3, .in = 10, .w_asymmetric = true});
  std::size_t const bytes = packed_weight_bytes(operands.shape);
  std::vector<std::byte> packed(bytes, std::byte{7});
  auto const plain = operands.plain_weights();
  auto const sentence = [&](auto const& call) -> std::string {
    try {
      call();
    } catch (InvalidArgument const& e) {
      return e.what();
    }
    return "";
  };
  CHECK(sentence([] {
          (void)packed_weight_bytes({0, 5});
        }) == "[packed_weight_bytes] weights of 0 x 5: at least one output and one input are needed");
  CHECK(sentence([] {
          (void)packed_weight_bytes({1, 5, -1});
        }) == "[packed_weight_bytes] groups of -1 channels: 0 means one scale per output");
  CHECK(sentence([] { (void)packed_weight_bytes({1, 2000000}); }) != "");
  CHECK(sentence([&] { pack_weights(operands.shape, plain, packed.data(), bytes - 1); }) ==
        "[pack_weights] 1023 bytes for packed weights of 1024");
  auto narrow = plain;
  narrow.level_stride = 4;
  CHECK(sentence([&] { pack_weights(operands.shape, narrow, packed.data(), bytes); }) ==
        "[pack_weights] a stride of 4 bytes for rows of 5");
  auto none = plain;
  none.zero_points = nullptr;
  CHECK(sentence([&] { pack_weights(operands.shape, none, packed.data(), bytes); }) != "");
  operands.w.zero_point(1, 0) = 16;
  CHECK(sentence([&] { pack_weights(operands.shape, plain, packed.data(), bytes); }) ==
        "[pack_weights] a zero point of 16 at output 1, group 0: 0..15 is possible");
  CHECK(packed == std::vector<std::byte>(bytes, std::byte{7}));
  operands.w.zero_point(1, 0) = 15;
  pack_weights(operands.shape, plain, packed.data(), bytes);
  WeightShape other = operands.shape;
  other.group = 5;
  other.sums = false;
  kernel_test::Plain back({.rows = 3, .cols = 10, .bits = 4, .symmetry = dartquant_asymmetric, .group = 5});
  CHECK(sentence([&] {
          unpack_weights(other, packed.data(), bytes,
                         {static_cast<std::uint8_t*>(back.q.levels), back.q.level_stride, back.q.scales,
                          back.q.scale_stride, back.q.zero_points, back.q.zero_point_stride});
        }) != "");
}

TEST_CASE("matmul_path: which kernel runs", "[cuda][packed_weights]") {
  WeightShape const per_output{4096, 4096}, g128{4096, 4096, 128}, g64{4096, 4096, 64}, g32{4096, 4096, 32},
      g24{4096, 4080, 24};
  MatmulTarget const a100{80}, rtx4090{89}, h100{90, true}, h100_without{90, false}, b200{100}, t4{75};
  CHECK(matmul_path(a100, {per_output, 512, 4}) == MatmulPath::mma_nibbles);
  CHECK(matmul_path(rtx4090, {g64, 512, 4}) == MatmulPath::mma_nibbles);
  CHECK(matmul_path(rtx4090, {g32, 512, 4}) == MatmulPath::mma_bytes);
  CHECK(matmul_path(a100, {g128, 512, 8}) == MatmulPath::mma_bytes);
  CHECK(matmul_path(a100, {g128, 512, 4, Symmetry::asymmetric}) == MatmulPath::mma_bytes);  // no sums
  CHECK(matmul_path(h100, {per_output, 512, 4}) == MatmulPath::wgmma);
  CHECK(matmul_path(h100, {g128, 17, 8}) == MatmulPath::wgmma);
  CHECK(matmul_path(h100, {g64, 512, 4}) == MatmulPath::mma_bytes);
  CHECK(matmul_path(h100_without, {g128, 512, 4}) == MatmulPath::mma_bytes);
  CHECK(matmul_path(b200, {g128, 512, 4}) == MatmulPath::mma_bytes);
  CHECK(matmul_path(h100, {g128, 16, 4}) == MatmulPath::decode);
  CHECK(matmul_path(h100, {g128, 16, 16}) == MatmulPath::decode);
  CHECK(matmul_path(h100, {g128, 17, 16}) == MatmulPath::mma_floats);
  CHECK(matmul_path(h100, {g24, 1, 4}) == MatmulPath::plain);
  CHECK(matmul_path(h100, {g128, 1, 32}) == MatmulPath::plain);
  CHECK(matmul_path(t4, {g128, 512, 4}) == MatmulPath::plain);
  CHECK(matmul_path(h100, {{16, 200000}, 512, 8}) == MatmulPath::plain);  // sixteen-fold sums would overflow
  // No architecture from 9.0 on takes the path whose instruction it does not have.
  for (int const architecture : {90, 100, 103, 110, 120})
    for (WeightShape const& w : {per_output, g128, g64, g32, g24})
      for (int const bits : {4, 8, 16, 32})
        for (index_t const tokens : {1, 16, 17, 4096})
          CHECK(matmul_path({architecture, true}, {w, tokens, bits}) != MatmulPath::mma_nibbles);
}
