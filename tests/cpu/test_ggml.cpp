// SPDX-License-Identifier: Apache-2.0
// ggml's blocks: golden bytes, the definition of the reference quantizers over all kinds of values, and
// repacking.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <dartquant/kernels.h>
#include <dartquant/core/half.hpp>

#include "cpu/exact.hpp"
#include "cpu/golden.hpp"
#include "support/catch.hpp"

namespace {

using namespace kernel_test;
using dartquant::BFloat16;
using dartquant::Half;
using Random = std::mt19937;

/// The definitions of docs/int4_format.md, section 3, for finite values.
dartquant_block_q4_0 defined_q4(float const* x) {
  float largest = 0, extreme = 0;
  for (int j = 0; j < 32; ++j)
    if (std::fabs(x[j]) > largest) largest = std::fabs(x[j]), extreme = x[j];
  float const d = extreme / -8.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
  dartquant_block_q4_0 block{dartquant::to_half(d).bits, {}};
  for (int j = 0; j < 32; ++j) {
    float const volatile quotient = std::isfinite(inverse) ? x[j] * inverse : 0;  // no fused multiply-add
    int const nibble = std::min(15, static_cast<int>(quotient + 8.5f));
    block.qs[j % 16] = static_cast<std::uint8_t>(block.qs[j % 16] | nibble << (j < 16 ? 0 : 4));
  }
  return block;
}
dartquant_block_q8_0 defined_q8(float const* x) {
  float largest = 0;
  for (int j = 0; j < 32; ++j) largest = std::max(largest, std::fabs(x[j]));
  float const d = largest / 127.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
  dartquant_block_q8_0 block{dartquant::to_half(d).bits, {}};
  for (int j = 0; j < 32; ++j) {
    float const quotient = std::isfinite(inverse) ? x[j] * inverse : 0;
    block.qs[j] = static_cast<std::int8_t>(std::lround(quotient));
  }
  return block;
}

/// One of several kinds of 32 values.
void fill_block(Random& random, int kind, float* x) {
  std::normal_distribution<float> normal;
  float const power = std::ldexp(1.0f, static_cast<int>(random() % 60) - 40);
  for (int j = 0; j < 32; ++j) {
    auto const step = static_cast<float>(static_cast<int>(random() % 33) - 16) / 2;
    switch (kind) {
      case 0:
        x[j] = normal(random);
        break;
      case 1:
        x[j] = normal(random) * power;
        break;
      case 2:
        x[j] = step * power;
        break;  // ties, several extremes
      case 3:
        x[j] = std::nextafter(step * 0.7f, step > 1 ? 9.0f : -9.0f);
        break;  // next to ties
      case 4:
        x[j] = random() % 2 == 0 ? 0.0f : -0.0f;
        break;
      case 5:
        x[j] = step * std::numeric_limits<float>::denorm_min();
        break;
      default:
        x[j] = step * (std::numeric_limits<float>::max() / 8);
        break;
    }
  }
}

void store(dartquant_matrix const& m, std::int64_t at, float value) {
  if (m.type == dartquant_float32) static_cast<float*>(m.data)[at] = value;
  else if (m.type == dartquant_float16) static_cast<Half*>(m.data)[at] = dartquant::to_half(value);
  else static_cast<BFloat16*>(m.data)[at] = dartquant::to_bfloat16(value);
}
float load(dartquant_matrix const& m, std::int64_t at) {
  if (m.type == dartquant_float32) return static_cast<float const*>(m.data)[at];
  return m.type == dartquant_float16 ? to_float(static_cast<Half const*>(m.data)[at])
                                     : to_float(static_cast<BFloat16 const*>(m.data)[at]);
}

template <class Block>
bool same(Block const& a, Block const& b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

}  // namespace

TEST_CASE("Q4_0 and Q8_0 have the golden bytes", "[formats][ggml]") {
  auto const expected = read_golden(std::string(DARTQUANT_TEST_DATA) + "/int4/ggml.golden");
  std::vector<float> x(5 * 96);
  for (int i = 0; i < 5; ++i)
    for (int j = 0; j < 96; ++j)
      x[static_cast<std::size_t>(96 * i + j)] =
          i == 3 ? 0
                 : std::ldexp(static_cast<float>((37 * i + 101 * j + 11 * i * j) % 513 - 256), 4 * i - 12);
  dartquant_matrix const m{x.data(), dartquant_float32, 5, 96, 96};
  std::vector<dartquant_block_q4_0> q4(15);
  std::vector<dartquant_block_q8_0> q8(15);
  for (int part = 0; part < 2; ++part) {
    REQUIRE(dartquant_quantize_q4_0(&m, q4.data(), 3, part, 2) == 0);
    REQUIRE(dartquant_quantize_q8_0(&m, q8.data(), 3, part, 2) == 0);
  }
  CHECK(bytes_of(q4) == expected.at("q4_0"));
  CHECK(bytes_of(q8) == expected.at("q8_0"));

  Plain const four({24, 64, 4, dartquant_symmetric, 32}), eight({24, 64, 8, dartquant_symmetric, 32});
  for (int i = 0; i < 24; ++i) {
    for (int j = 0; j < 64; ++j) {
      four.set_code(i, j, (7 * i + 3 * j + i * j % 5) % 16);
      eight.set_code(i, j, (31 * i + 17 * j) % 256);
    }
    for (int g = 0; g < 2; ++g)
      four.scale(i, g) = eight.scale(i, g) = static_cast<float>((3 + i + 5 * g) / 1000.0);
  }
  q4.resize(48);
  q8.resize(48);
  REQUIRE(dartquant_to_q4_0(&four.q, q4.data(), 2, 0, 1) == 0);
  REQUIRE(dartquant_to_q8_0(&eight.q, q8.data(), 2, 0, 1) == 0);
  CHECK(bytes_of(q4) == expected.at("to_q4_0"));
  CHECK(bytes_of(q8) == expected.at("to_q8_0"));
}

TEST_CASE("Q4_0 and Q8_0 are quantized as ggml's reference defines it", "[formats][ggml]") {
  Random random(11);
  for (dartquant_type const type : {dartquant_float32, dartquant_float16, dartquant_bfloat16})
    for (int round = 0; round < 300; ++round) {
      std::int64_t const rows = 1 + random() % 4, blocks = 1 + random() % 3, extra = random() % 3;
      Values const x(type, rows, 32 * blocks, extra, random() % 8);
      Exact const q4(span(rows, blocks, blocks + extra, 18), 2 * (random() % 8));
      Exact const q8(span(rows, blocks, blocks + extra, 34), 2 * (random() % 8));
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t b = 0; b < blocks; ++b) {
          float values[32];
          fill_block(random, static_cast<int>(random() % 7), values);
          for (int j = 0; j < 32; ++j) store(x.m, i * x.m.stride + 32 * b + j, values[j]);
        }
      std::int64_t const parts = 1 + random() % 5;
      auto* const to4 = q4.as<dartquant_block_q4_0>();
      auto* const to8 = q8.as<dartquant_block_q8_0>();
      bool infinite = false, overflow = false;
      dartquant_status worst4 = 0, worst8 = 0;
      for (std::int64_t part = 0; part < parts; ++part) {
        worst4 = std::max(worst4, dartquant_quantize_q4_0(&x.m, to4, blocks + extra, part, parts));
        worst8 = std::max(worst8, dartquant_quantize_q8_0(&x.m, to8, blocks + extra, part, parts));
      }
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t b = 0; b < blocks; ++b) {
          float values[32];
          for (int j = 0; j < 32; ++j) values[j] = load(x.m, i * x.m.stride + 32 * b + j);
          std::int64_t const at = i * (blocks + extra) + b;
          if (std::all_of(values, values + 32, [](float v) { return std::isfinite(v); })) {
            REQUIRE(same(to4[at], defined_q4(values)));
            REQUIRE(same(to8[at], defined_q8(values)));
            overflow = overflow || (to4[at].d & 0x7C00) == 0x7C00;
          } else {  // rounding to the type made an infinity
            infinite = true;
            REQUIRE(to4[at].d == 0x7E00);
            REQUIRE(to8[at].d == 0x7E00);
            for (auto const byte : to4[at].qs) REQUIRE(byte == 0x88);
            for (auto const byte : to8[at].qs) REQUIRE(byte == 0);
          }
        }
      if (infinite) {
        CHECK(dartquant_status_reason(worst4) == dartquant_not_finite);
        CHECK(dartquant_status_reason(worst8) == dartquant_not_finite);
      } else if (overflow) CHECK(worst4 == 256 * dartquant_arg_scales + dartquant_not_finite);
      else CHECK(worst4 == 0);
    }
}

TEST_CASE("A block with a NaN or an infinity is marked, its neighbours are as ever", "[formats][ggml]") {
  for (float const bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()})
    for (std::size_t at = 32; at < 64; ++at) {
      std::vector<float> x(96);
      for (std::size_t j = 0; j < 96; ++j) x[j] = static_cast<float>(j) - 40;
      x[at] = bad;
      dartquant_matrix const m{x.data(), dartquant_float32, 1, 96, 96};
      dartquant_block_q4_0 q4[3];
      dartquant_block_q8_0 q8[3];
      CHECK(dartquant_quantize_q4_0(&m, q4, 3, 0, 1) == 256 * dartquant_arg_x + dartquant_not_finite);
      CHECK(dartquant_quantize_q8_0(&m, q8, 3, 0, 1) == 256 * dartquant_arg_x + dartquant_not_finite);
      for (std::size_t const b : {std::size_t{0}, std::size_t{2}}) {
        CHECK(same(q4[b], defined_q4(x.data() + 32 * b)));
        CHECK(same(q8[b], defined_q8(x.data() + 32 * b)));
      }
      CHECK(q4[1].d == 0x7E00);
      CHECK(q8[1].d == 0x7E00);
      CHECK(std::all_of(q4[1].qs, q4[1].qs + 16, [](int byte) { return byte == 0x88; }));
      CHECK(std::all_of(q8[1].qs, q8[1].qs + 32, [](int byte) { return byte == 0; }));
    }
}

TEST_CASE("Blocks of any bytes come back through the plain form", "[formats][ggml]") {
  Random random(3);
  for (int round = 0; round < 100; ++round) {
    std::int64_t const rows = 1 + random() % 5, blocks = 1 + random() % 3, extra = random() % 3;
    std::int64_t const parts = 1 + random() % 6;
    PlainShape shape{rows, 32 * blocks, 4, dartquant_symmetric, 32, extra, random() % 4};
    Plain const four(shape);
    shape.bits = 8;
    Plain const eight(shape);
    std::vector<dartquant_block_q4_0> q4(static_cast<std::size_t>(rows * blocks)), again4(q4.size());
    std::vector<dartquant_block_q8_0> q8(q4.size()), again8(q4.size());
    for (auto& block : q4) {
      block.d = static_cast<std::uint16_t>(random() % 0x7C00);  // finite
      for (auto& byte : block.qs) byte = static_cast<std::uint8_t>(random());
    }
    for (auto& block : q8) {
      block.d = static_cast<std::uint16_t>(0x8000 + random() % 0x7C00);
      for (auto& byte : block.qs) byte = static_cast<std::int8_t>(random());
    }
    for (std::int64_t part = 0; part < parts; ++part) {
      REQUIRE(dartquant_from_q4_0(q4.data(), blocks, &four.q, part, parts) == 0);
      REQUIRE(dartquant_from_q8_0(q8.data(), blocks, &eight.q, part, parts) == 0);
    }
    for (std::int64_t part = 0; part < parts; ++part) {
      REQUIRE(dartquant_to_q4_0(&four.q, again4.data(), blocks, part, parts) == 0);
      REQUIRE(dartquant_to_q8_0(&eight.q, again8.data(), blocks, part, parts) == 0);
    }
    REQUIRE(bytes_of(q4) == bytes_of(again4));
    REQUIRE(bytes_of(q8) == bytes_of(again8));
    auto const& first = q4[0];
    CHECK(four.code(0, 0) == (first.qs[0] & 15));
    CHECK(four.code(0, 16) == first.qs[0] >> 4);
    CHECK(four.scale(0, 0) == to_float(Half{first.d}));
    CHECK(eight.code(0, 31) == q8[0].qs[31] + 128);
  }
}
