// SPDX-License-Identifier: Apache-2.0
#include <dartquant/quant/quantize.hpp>

#include "data.hpp"
#include "support/catch.hpp"

using namespace dartquant;
namespace dq = dartquant;
using quant_test::all_granularities;
using quant_test::both_symmetries;
using quant_test::normal_matrix;

TEST_CASE("the call reads as the design shows it", "[quantize]") {
  dq::Cpu const cpu(1);
  dq::RowMatrix<float> const W = normal_matrix(4, 300, 1);
  dq::Int4Matrix const W4 = dq::quantize(cpu, W, {.granularity = dq::per_group(128)});
  CHECK(W4.scales().rows() == 4);
  CHECK(W4.scales().cols() == 3);  // 128, 128 and a shorter group of 44
  CHECK(W4.bytes().cols() == 150);
  CHECK(W4.granularity() == dq::per_group(128));
  dq::Int4Matrix const X4 = dq::quantize(cpu, W, {.granularity = dq::per_row});
  CHECK(X4.scales().cols() == 1);
  std::vector<float> raw{1, 2, 3, 4, 5, 6};
  CHECK(dq::quantize(cpu, {raw.data(), 2, 3}).level(1, 2) == 7);
}

TEST_CASE("dequantize(quantize(X)) is fake_quantize(X), bit for bit", "[quantize]") {
  Cpu const cpu(2);
  std::uint64_t seed = 20;
  for (auto const& [rows, cols] :
       {std::pair(1, 1), std::pair(1, 64), std::pair(6, 1), std::pair(5, 67), std::pair(40, 130)}) {
    auto const X = normal_matrix(rows, cols, ++seed, 30);
    for (int bits = 2; bits <= 8; ++bits)
      for (auto const symmetry : both_symmetries)
        for (auto const granularity : all_granularities())
          for (auto const search : {ClipSearch::none, ClipSearch::mse}) {
            if (search == ClipSearch::mse && cols == 130) continue;  // long, and covered by the others
            QuantizeOptions const options{
                .bits = bits, .granularity = granularity, .symmetry = symmetry, .clip_search = search};
            RowMatrix<float> fake = X;
            fake_quantize(cpu, fake, options);
            CAPTURE(rows, cols, bits, granularity.group);
            REQUIRE(dequantize(cpu, quantize_int8(cpu, X, options)) == fake);
            if (bits <= 4) REQUIRE(dequantize(cpu, quantize(cpu, X, options)) == fake);
          }
  }
}

TEST_CASE("levels stay in their range and both storages hold the same ones", "[quantize]") {
  Cpu const cpu(1);
  auto const X = normal_matrix(9, 33, 7, 10);
  for (int bits = 2; bits <= 8; ++bits)
    for (auto const symmetry : both_symmetries) {
      QuantizeOptions const options{.bits = bits, .symmetry = symmetry, .clip_ratio = 0.3};
      auto const Q = quantize_int8(cpu, X, options);
      auto const [lowest, highest] = levels(bits, symmetry);
      int least = highest, most = lowest;
      for (index_t i = 0; i < X.rows(); ++i)
        for (index_t j = 0; j < X.cols(); ++j) {
          least = std::min(least, Q.level(i, j));
          most = std::max(most, Q.level(i, j));
          if (bits <= 4) REQUIRE(quantize(cpu, X, options).level(i, j) == Q.level(i, j));
        }
      CHECK(least == lowest);  // hard clipping reaches both ends
      CHECK(most == highest);
      CHECK(Q.bits() == bits);
      CHECK(Q.symmetry() == symmetry);
    }
}

TEST_CASE("the packed layout: even channel low, odd tail zero", "[quantize]") {
  Cpu const cpu(1);
  RowMatrix<float> X(2, 3);
  X << 7, -7, 3, 0, 1, -7;
  auto const Q = quantize(cpu, X);
  REQUIRE(Q.bytes().cols() == 2);
  CHECK(Q.bytes()(0, 0) == 0x97);
  CHECK(Q.bytes()(0, 1) == 0x03);
  CHECK(Q.bytes()(1, 0) == 0x10);
  CHECK(Q.bytes()(1, 1) == 0x09);
  CHECK(Q.scales()(0, 0) == 1.0f);
  RowMatrix<float> Y(1, 3);
  Y << -5, 10, 0;
  auto const U = quantize(cpu, Y, {.symmetry = Symmetry::asymmetric});
  CHECK(U.scales()(0, 0) == 1.0f);
  CHECK(U.zero_points()(0, 0) == 5);
  CHECK(U.bytes()(0, 0) == 0xF0);
  CHECK(U.bytes()(0, 1) == 0x05);
}

TEST_CASE("levels can be set one by one", "[quantize]") {
  Int4Matrix Q(3, 5, {});
  Int8Matrix U(3, 5, {.bits = 8, .symmetry = Symmetry::asymmetric});
  for (int i = 0; i < 3; ++i)
    for (int j = 4; j >= 0; --j) {
      Q.set_level(i, j, (i * 5 + j) - 8);
      U.set_level(i, j, 255 - (i * 5 + j));
    }
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 5; ++j) {
      CHECK(Q.level(i, j) == (i * 5 + j) - 8);
      CHECK(U.level(i, j) == 255 - (i * 5 + j));
    }
  Q.scales()(1, 0) = 0.5f;
  U.zero_points()(2, 0) = 250;
  Cpu const cpu(1);
  CHECK(dequantize(cpu, Q)(1, 2) == -0.5f);
  CHECK(dequantize(cpu, U)(2, 0) == -5.0f);
  CHECK_THROWS_WITH(Int4Matrix(-1, 5, {}), "[IntMatrix] -1 x 5: sizes cannot be negative");
  CHECK(Int4Matrix().rows() == 0);
}

TEST_CASE("the scales of every granularity have their place", "[quantize]") {
  Cpu const cpu(1);
  auto const X = normal_matrix(3, 10, 9);
  auto const shape = [&](Granularity granularity) {
    auto const Q = quantize(cpu, X, {.granularity = granularity});
    return std::pair(Q.scales().rows(), Q.scales().cols());
  };
  CHECK(shape(per_tensor) == std::pair<index_t, index_t>(1, 1));
  CHECK(shape(per_row) == std::pair<index_t, index_t>(3, 1));
  CHECK(shape(per_column) == std::pair<index_t, index_t>(1, 10));
  CHECK(shape(per_group(4)) == std::pair<index_t, index_t>(3, 3));
  CHECK(shape(per_group(64)) == std::pair<index_t, index_t>(3, 1));
  auto const Q = quantize(cpu, X, {.granularity = per_group(4)});
  CHECK(Q.scale(2, 9) == X.row(2).tail(2).cwiseAbs().maxCoeff() / 7);
  auto const C = quantize(cpu, X, {.granularity = per_column});
  CHECK(C.scale(1, 3) == X.col(3).cwiseAbs().maxCoeff() / 7);
}
