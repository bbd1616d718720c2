// SPDX-License-Identifier: Apache-2.0
// The formats byte by byte: the examples of docs/int4_format.md, the golden files, and round trips.

#include <algorithm>
#include <cmath>
#include <cstdint>
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
using dartquant::Half;
using Random = std::mt19937;

std::map<std::string, Bytes> golden(std::string const& name) {
  return read_golden(std::string(DARTQUANT_TEST_DATA) + "/int4/" + name + ".golden");
}

dartquant_status of(dartquant_argument argument, dartquant_reason reason) { return 256 * argument + reason; }

/// The matrix of docs/int4_format.md, last section.
Plain documented(PlainShape shape, std::int64_t cols = 80) {
  shape.rows = 24;
  shape.cols = cols;
  Plain plain(shape);
  for (int i = 0; i < 24; ++i) {
    for (int j = 0; j < cols; ++j)
      plain.set_code(i, j, shape.bits == 4 ? (7 * i + 3 * j + i * j % 5) % 16 : (31 * i + 17 * j) % 256);
    for (int g = 0; g < plain.groups(); ++g) {
      plain.scale(i, g) = static_cast<float>((3 + i + 5 * g) / 1000.0);
      if (shape.symmetry == dartquant_asymmetric)
        plain.zero_point(i, g) = shape.bits == 4 ? (5 * i + 3 * g) % 16 : (50 * i + 3 * g) % 256;
    }
  }
  return plain;
}

/// An empty matrix like `plain`, to be filled by the way back; its scales are what 16 bits keep of them.
Plain empty_like(Plain const& plain) {
  return Plain({plain.q.rows, plain.q.cols, plain.q.bits, plain.q.symmetry, plain.q.group});
}
void round_scales(Plain const& plain, dartquant_type type) {
  for (std::size_t k = 0; k < plain.scales.size() / 4; ++k) {
    float& scale = plain.scales.as<float>()[k];
    if (type == dartquant_float16) scale = to_float(dartquant::to_half(scale));
    if (type == dartquant_bfloat16) scale = to_float(dartquant::to_bfloat16(scale));
  }
}

Bytes packed_bytes(Plain const& plain, std::int32_t with_sums) {
  dartquant_weights const weights{plain.q.rows, plain.q.cols, plain.q.group, plain.q.symmetry, with_sums};
  std::size_t bytes = 0;
  REQUIRE(dartquant_packed_size(&weights, &bytes) == 0);
  Exact const packed(bytes);
  for (int part = 0; part < 3; ++part)
    REQUIRE(dartquant_pack(&weights, &plain.q, packed.data(), bytes, part, 3) == 0);
  Plain const back = empty_like(plain);
  REQUIRE(dartquant_unpack(&weights, packed.data(), bytes, &back.q, 0, 1) == 0);
  CHECK(back == plain);
  return packed.bytes();
}

}  // namespace

TEST_CASE("The plain form and the compute layout have the golden bytes", "[formats]") {
  auto const plain = golden("plain"), layout = golden("layout1");
  Plain const symmetric = documented({.bits = 4, .symmetry = dartquant_symmetric, .group = 32});
  Plain const asymmetric = documented({.bits = 4, .symmetry = dartquant_asymmetric, .group = 32});
  CHECK(symmetric.levels.bytes() == plain.at("symmetric4"));
  CHECK(asymmetric.levels.bytes() == plain.at("asymmetric4"));
  CHECK(documented({.bits = 8, .symmetry = dartquant_symmetric}).levels.bytes() == plain.at("symmetric8"));
  CHECK(documented({.bits = 8, .symmetry = dartquant_asymmetric}).levels.bytes() == plain.at("asymmetric8"));
  CHECK(symmetric.scales.bytes() == plain.at("scales"));
  CHECK(packed_bytes(symmetric, 0) == layout.at("symmetric"));
  CHECK(packed_bytes(symmetric, 1) == layout.at("symmetric_sums"));
  CHECK(packed_bytes(asymmetric, 0) == layout.at("asymmetric"));
  CHECK(packed_bytes(asymmetric, 1) == layout.at("asymmetric_sums"));
}

TEST_CASE("compressed-tensors has the golden bytes and comes back", "[formats]") {
  auto const expected = golden("compressed_tensors");
  for (std::int32_t const bits : {4, 8})
    for (dartquant_symmetry const symmetry : {dartquant_symmetric, dartquant_asymmetric})
      for (dartquant_type const type : {dartquant_float32, dartquant_float16, dartquant_bfloat16}) {
        Plain const plain = documented({.bits = bits, .symmetry = symmetry, .group = 32});
        Bytes const& packed = expected.at(bits == 4 ? "packed4" : "packed8");
        Bytes const& zeros = expected.at(bits == 4 ? "zero_point4" : "zero_point8");
        Exact const words(packed.size(), 4), zero_words(zeros.size(), 4);
        Values const scales(type, 24, 3);
        dartquant_compressed_tensors const tensors{
            words.as<std::int32_t>(), scales.m,
            symmetry == dartquant_symmetric ? nullptr : zero_words.as<std::int32_t>()};
        for (int part = 0; part < 2; ++part)
          REQUIRE(dartquant_to_compressed_tensors(&plain.q, &tensors, part, 2) == 0);
        CHECK(words.bytes() == packed);
        if (symmetry == dartquant_asymmetric) CHECK(zero_words.bytes() == zeros);
        if (type == dartquant_float16) CHECK(scales.memory.bytes() == expected.at("scale_float16"));
        if (type == dartquant_bfloat16) CHECK(scales.memory.bytes() == expected.at("scale_bfloat16"));
        Plain const back = empty_like(plain);
        for (int part = 0; part < 5; ++part)  // more parts than blocks of 8 rows
          REQUIRE(dartquant_from_compressed_tensors(&tensors, &back.q, part, 5) == 0);
        round_scales(plain, type);
        CHECK(back == plain);
      }
}

TEST_CASE("compressed-tensors packs rows and columns of any number", "[formats]") {
  Random random(5);
  for (std::int64_t cols = 1; cols <= 19; ++cols)
    for (std::int64_t rows = 1; rows <= 19; rows += 3)
      for (std::int32_t const bits : {4, 8})
        for (dartquant_symmetry const symmetry : {dartquant_symmetric, dartquant_asymmetric}) {
          Plain const plain({rows, cols, bits, symmetry, 5}), back({rows, cols, bits, symmetry, 5});
          for (std::int64_t i = 0; i < rows; ++i) {
            for (std::int64_t j = 0; j < cols; ++j)
              plain.set_code(i, j, static_cast<int>(random() % (1u << bits)));
            for (std::int64_t g = 0; g < plain.groups(); ++g) {
              plain.scale(i, g) = 1.0f / static_cast<float>(1 + random() % 100);
              if (symmetry == dartquant_asymmetric)
                plain.zero_point(i, g) = static_cast<std::int32_t>(random() % (1u << bits));
            }
          }
          auto const up = [&](std::int64_t count) {
            return static_cast<std::size_t>((count * bits + 31) / 32);
          };
          Exact const words(static_cast<std::size_t>(rows) * up(cols) * 4);
          Exact const zeros(up(rows) * static_cast<std::size_t>(plain.groups()) * 4);
          Values const scales(dartquant_float32, rows, plain.groups());
          dartquant_compressed_tensors const tensors{
              words.as<std::int32_t>(), scales.m,
              symmetry == dartquant_symmetric ? nullptr : zeros.as<std::int32_t>()};
          REQUIRE(dartquant_to_compressed_tensors(&plain.q, &tensors, 0, 1) == 0);
          for (std::int64_t i = 0; i < rows; ++i) {
            std::uint32_t const last =
                words.as<std::uint32_t>()[static_cast<std::size_t>(i + 1) * up(cols) - 1];
            std::int64_t const used = cols * bits % 32;
            if (used != 0) CHECK(last >> used == 0);  // nothing behind the last channel
          }
          REQUIRE(dartquant_from_compressed_tensors(&tensors, &back.q, 0, 1) == 0);
          REQUIRE(back == plain);
        }
}

TEST_CASE("GPTQ has the golden bytes and comes back", "[formats]") {
  auto const expected = golden("gptq");
  for (dartquant_gptq_version const version : {dartquant_gptq_v1, dartquant_gptq_v2})
    for (dartquant_symmetry const symmetry : {dartquant_symmetric, dartquant_asymmetric}) {
      Plain const plain = documented({.bits = 4, .symmetry = symmetry, .group = 32});
      Exact const qweight(expected.at("qweight").size()), qzeros(expected.at("qzeros_v1").size());
      Exact const g_idx(expected.at("g_idx").size());
      Values const scales(dartquant_float16, 3, 24);
      dartquant_gptq gptq{version, qweight.as<std::int32_t>(), qzeros.as<std::int32_t>(), scales.m,
                          g_idx.as<std::int32_t>()};
      for (int part = 0; part < 2; ++part) REQUIRE(dartquant_to_gptq(&plain.q, &gptq, part, 2) == 0);
      CHECK(qweight.bytes() == expected.at("qweight"));
      CHECK(scales.memory.bytes() == expected.at("scales"));
      CHECK(g_idx.bytes() == expected.at("g_idx"));
      if (symmetry == dartquant_asymmetric)
        CHECK(qzeros.bytes() == expected.at(version == dartquant_gptq_v1 ? "qzeros_v1" : "qzeros_v2"));
      else if (version == dartquant_gptq_v1) CHECK(qzeros.bytes() == expected.at("qzeros_symmetric_v1"));
      Plain const back = empty_like(plain);
      for (int part = 0; part < 4; ++part) REQUIRE(dartquant_from_gptq(&gptq, &back.q, part, 4) == 0);
      round_scales(plain, dartquant_float16);
      CHECK(back == plain);  // zero points of 0 included: v1 stores them as 15

      g_idx.as<std::int32_t>()[79] = 1;
      Plain const untouched = empty_like(plain), same = empty_like(plain);
      CHECK(dartquant_from_gptq(&gptq, &untouched.q, 0, 1) == of(dartquant_arg_order, dartquant_unsupported));
      CHECK(untouched == same);
      gptq.g_idx = nullptr;
      CHECK(dartquant_from_gptq(&gptq, &untouched.q, 0, 1) == 0);
    }
}

TEST_CASE("AWQ has the golden bytes and comes back", "[formats]") {
  auto const expected = golden("awq");
  for (dartquant_symmetry const symmetry : {dartquant_symmetric, dartquant_asymmetric}) {
    Plain const plain = documented({.bits = 4, .symmetry = symmetry, .group = 16});
    Exact const qweight(expected.at("qweight").size()), qzeros(expected.at("qzeros").size());
    Values const scales(dartquant_float16, 5, 24);
    dartquant_awq const awq{qweight.as<std::int32_t>(), qzeros.as<std::int32_t>(), scales.m};
    for (int part = 0; part < 2; ++part) REQUIRE(dartquant_to_awq(&plain.q, &awq, part, 2) == 0);
    CHECK(qweight.bytes() == expected.at("qweight"));
    CHECK(scales.memory.bytes() == expected.at("scales"));
    if (symmetry == dartquant_asymmetric) CHECK(qzeros.bytes() == expected.at("qzeros"));
    Plain const back = empty_like(plain);
    for (int part = 0; part < 4; ++part) REQUIRE(dartquant_from_awq(&awq, &back.q, part, 4) == 0);
    round_scales(plain, dartquant_float16);
    CHECK(back == plain);

    Plain const whole = documented({.bits = 4, .symmetry = symmetry}, 13);  // inputs need no multiple of 8
    Exact const words(13 * 3 * 4), zeros(3 * 4);
    Values const row(dartquant_float32, 1, 24);
    dartquant_awq const small{words.as<std::int32_t>(), zeros.as<std::int32_t>(), row.m};
    REQUIRE(dartquant_to_awq(&whole.q, &small, 0, 1) == 0);
    Plain const again = empty_like(whole);
    REQUIRE(dartquant_from_awq(&small, &again.q, 0, 1) == 0);
    CHECK(again == whole);
  }
}

TEST_CASE("Only zero points of 8 are read as symmetric", "[formats]") {
  Plain const plain = documented({.bits = 4, .symmetry = dartquant_asymmetric, .group = 16});
  Exact const qweight(24 * 40), qzeros(5 * 3 * 4);
  Values const scales(dartquant_float32, 5, 24);
  dartquant_gptq const gptq{dartquant_gptq_v2, qweight.as<std::int32_t>(), qzeros.as<std::int32_t>(),
                            scales.m, nullptr};
  dartquant_awq const awq{qweight.as<std::int32_t>(), qzeros.as<std::int32_t>(), scales.m};
  Plain const back({24, 80, 4, dartquant_symmetric, 16});
  dartquant_status const refused = of(dartquant_arg_zero_points, dartquant_bad_value);
  REQUIRE(dartquant_to_gptq(&plain.q, &gptq, 0, 1) == 0);
  CHECK(dartquant_from_gptq(&gptq, &back.q, 0, 1) == refused);
  REQUIRE(dartquant_to_awq(&plain.q, &awq, 0, 1) == 0);
  CHECK(dartquant_from_awq(&awq, &back.q, 0, 1) == refused);
  CHECK(back == Plain({24, 80, 4, dartquant_symmetric, 16}));  // untouched
}

TEST_CASE("Scales that are not finite in 16 bits are stored and reported", "[formats]") {
  dartquant_status const reported = of(dartquant_arg_scales, dartquant_not_finite);
  for (float const bad :
       {65520.0f, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Plain const plain = documented({.bits = 4, .symmetry = dartquant_symmetric, .group = 32}, 64);
    plain.scale(3, 1) = bad;
    std::vector<dartquant_block_q4_0> blocks(48);
    CHECK(dartquant_to_q4_0(&plain.q, blocks.data(), 2, 0, 1) == reported);
    CHECK(blocks[7].d == (bad != bad ? 0x7E00 : 0x7C00));
    CHECK(to_float(Half{blocks[6].d}) == Approx(0.006f).epsilon(0.001));
    Plain const back = empty_like(plain);
    CHECK(dartquant_from_q4_0(blocks.data(), 2, &back.q, 0, 1) == reported);
    CHECK(back.levels == plain.levels);
    Exact const words(24 * 8 * 4);
    Values const scales(dartquant_float16, 24, 2);
    dartquant_compressed_tensors const tensors{words.as<std::int32_t>(), scales.m, nullptr};
    CHECK(dartquant_to_compressed_tensors(&plain.q, &tensors, 0, 1) == reported);
    CHECK(dartquant_from_compressed_tensors(&tensors, &back.q, 0, 1) == reported);
    Values const across(dartquant_float16, 2, 24);
    Exact const qzeros(2 * 3 * 4);
    dartquant_awq const awq{words.as<std::int32_t>(), qzeros.as<std::int32_t>(), across.m};
    CHECK(dartquant_to_awq(&plain.q, &awq, 0, 1) == reported);
    CHECK(dartquant_from_awq(&awq, &back.q, 0, 1) == reported);
    CHECK(back.levels == plain.levels);
  }
}

TEST_CASE("The examples of docs/int4_format.md are what the calls give", "[formats]") {
  auto const doc = read_golden(std::string(DARTQUANT_TEST_DATA) + "/../../docs/int4_format.md");
  SECTION("plain and compressed-tensors") {
    Plain const plain({1, 5});
    int const codes[] = {0, 7, 8, 11, 15};
    for (int j = 0; j < 5; ++j) plain.set_code(0, j, codes[j]);
    plain.scale(0, 0) = 1;
    CHECK(plain.levels.bytes() == doc.at("plain.levels"));
    std::vector<std::int32_t> word(1);
    Values const scale(dartquant_float16, 1, 1);
    dartquant_compressed_tensors const tensors{word.data(), scale.m, nullptr};
    REQUIRE(dartquant_to_compressed_tensors(&plain.q, &tensors, 0, 1) == 0);
    CHECK(bytes_of(word) == doc.at("compressed_tensors.weight_packed"));
    Plain const two({2, 8, 4, dartquant_asymmetric});
    two.zero_point(0, 0) = 3;
    two.zero_point(1, 0) = 10;
    std::vector<std::int32_t> words(2);
    Values const scales(dartquant_float32, 2, 1);
    dartquant_compressed_tensors const with_zeros{words.data(), scales.m, word.data()};
    REQUIRE(dartquant_to_compressed_tensors(&two.q, &with_zeros, 0, 1) == 0);
    CHECK(bytes_of(word) == doc.at("compressed_tensors.weight_zero_point"));
  }
  SECTION("compute layout") {
    Plain const plain({2, 8, 4, dartquant_asymmetric});
    for (int j = 0; j < 8; ++j) plain.set_code(0, j, j);
    for (int j = 0; j < 8; ++j) plain.set_code(1, j, 15 - j);
    plain.scale(0, 0) = 0.5f;
    plain.scale(1, 0) = 0.25f;
    plain.zero_point(0, 0) = 3;
    plain.zero_point(1, 0) = 10;
    CHECK(packed_bytes(plain, 1) == doc.at("layout1.packed"));
  }
  SECTION("ggml") {
    std::vector<float> x(32);
    std::vector<dartquant_block_q4_0> q4(1);
    std::vector<dartquant_block_q8_0> q8(1);
    dartquant_matrix const m{x.data(), dartquant_float32, 1, 32, 32};
    for (int j = 0; j < 32; ++j) x[static_cast<std::size_t>(j)] = static_cast<float>(j - 16);
    REQUIRE(dartquant_quantize_q4_0(&m, q4.data(), 1, 0, 1) == 0);
    for (float& value : x) value *= 127.0f / 16;
    REQUIRE(dartquant_quantize_q8_0(&m, q8.data(), 1, 0, 1) == 0);
    CHECK(bytes_of(q4) == doc.at("ggml.q4_0"));
    CHECK(bytes_of(q8) == doc.at("ggml.q8_0"));
  }
  SECTION("GPTQ and AWQ") {
    Plain const plain({8, 8, 4, dartquant_asymmetric});
    for (int o = 0; o < 8; ++o) {
      for (int i = 0; i < 8; ++i) plain.set_code(o, i, (o + 2 * i) % 16);
      plain.scale(o, 0) = 1;
      plain.zero_point(o, 0) = o;
    }
    std::vector<std::int32_t> words(8), zeros(1);
    Values const scales(dartquant_float16, 1, 8);
    for (auto const version : {dartquant_gptq_v1, dartquant_gptq_v2}) {
      dartquant_gptq const gptq{version, words.data(), zeros.data(), scales.m, nullptr};
      REQUIRE(dartquant_to_gptq(&plain.q, &gptq, 0, 1) == 0);
      CHECK(bytes_of(words) == doc.at("gptq.qweight"));
      CHECK(bytes_of(zeros) == doc.at(version == dartquant_gptq_v1 ? "gptq.qzeros_v1" : "gptq.qzeros_v2"));
    }
    dartquant_awq const awq{words.data(), zeros.data(), scales.m};
    REQUIRE(dartquant_to_awq(&plain.q, &awq, 0, 1) == 0);
    CHECK(bytes_of(words) == doc.at("awq.qweight"));
    CHECK(bytes_of(zeros) == doc.at("awq.qzeros"));
  }
}
