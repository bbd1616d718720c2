// SPDX-License-Identifier: Apache-2.0
#include <dartquant/transform/hadamard_matrix.hpp>

#include <bit>
#include <cstdint>
#include <vector>

#include "support/catch.hpp"

using namespace dartquant;

namespace {

/// Whether H is +-1 with H H^T = n I, in integers: two rows are orthogonal when they differ in n / 2 places.
bool is_hadamard(RowMatrix<double> const& H) {
  std::size_t const n = static_cast<std::size_t>(H.rows()), words = (n + 63) / 64;
  if (H.rows() != H.cols()) return false;
  std::vector<std::uint64_t> bits(n * words);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      double const h = H(static_cast<index_t>(i), static_cast<index_t>(j));
      if (h != 1 && h != -1) return false;
      if (h < 0) bits[i * words + j / 64] |= std::uint64_t{1} << (j % 64);
    }
  for (std::size_t a = 0; a < n; ++a)
    for (std::size_t b = 0; b < a; ++b) {
      int different = 0;
      for (std::size_t w = 0; w < words; ++w)
        different += std::popcount(bits[a * words + w] ^ bits[b * words + w]);
      if (2 * static_cast<std::size_t>(different) != n) return false;
    }
  return true;
}

}  // namespace

TEST_CASE("every dimension of a real model has the smallest known base, or none", "[hadamard]") {
  struct Row {
    index_t channels, base;
  };
  Row const table[] = {
      {768, 12},    {896, 28},    {4864, 76},   {3072, 12},   {3584, 28},   {5120, 20},   {17920, 140},
      {7168, 28},   {18432, 36},  {11008, 172}, {22016, 172}, {12288, 12},  {13824, 108}, {14336, 28},
      {28672, 28},  {17408, 68},  {18944, 148}, {25600, 100}, {27648, 108}, {29568, 924}, {10944, 684},
      {9728, 76},   {1408, 44},   {8960, 140},  {5376, 84},   {21504, 84},  {4096, 1},    {8192, 1},
      {16384, 1},   {2560, 20},   {6144, 12},   {9216, 36},   {24576, 12},  {53248, 52},  {3840, 60},
      {6656, 52},   {17 * 4, 68}, {64, 1},      {1, 1},       {2, 1},       {288, 36},    {172, 172},
      {23 * 4, 92},
  };
  for (Row const& row : table) {
    INFO(row.channels);
    auto const order = hadamard_order(row.channels);
    REQUIRE(order.has_value());
    REQUIRE(order->base == row.base);
    REQUIRE(order->order() == row.channels);
  }
  for (index_t impossible : {3, 5, 6, 7, 14, 18, 127, 129, 13696, 2 * 13}) {
    INFO(impossible);
    REQUIRE_FALSE(hadamard_order(impossible).has_value());
  }
}

TEST_CASE("a block of 128 fits every dimension but those with fewer twos", "[hadamard]") {
  for (index_t channels : {768, 896, 4864, 3072, 11008, 13696, 14336, 18944, 29568})
    REQUIRE(hadamard_block(channels) == 128);
  REQUIRE(hadamard_block(10944) == 64);
  REQUIRE(hadamard_block(172) == 4);
  REQUIRE(hadamard_block(127) == 1);
  REQUIRE(hadamard_block(1) == 1);
  REQUIRE(hadamard_block(14336, 4096) == 2048);
  REQUIRE(hadamard_block(14336, 100) == 64);
  REQUIRE_THROWS_WITH(hadamard_block(0), "[hadamard_block] 0 channels: at least one is needed");
  REQUIRE_THROWS_WITH(hadamard_block(8, 0), "[hadamard_block] largest block 0: must be at least 1");
}

TEST_CASE("base matrices are Hadamard matrices", "[hadamard]") {
  for (index_t n : {1,  2,  4,  8,  12, 16, 20, 24, 28,  32,  36,  40,  44,  48,  52,  56,  60, 64,
                    68, 72, 76, 80, 84, 88, 92, 96, 100, 104, 108, 140, 148, 172, 344, 684, 924}) {
    INFO(n);
    REQUIRE(is_hadamard(hadamard_matrix(n)));
  }
}

TEST_CASE("Paley's constructions work over prime and over extension fields", "[hadamard]") {
  for (index_t q : {3, 7, 11, 27, 31, 243, 343}) {  // 27 = 3^3, 243 = 3^5, 343 = 7^3
    INFO(q);
    REQUIRE(detail::is_paley1_order(q + 1));
    REQUIRE(is_hadamard(detail::paley1(q + 1)));
  }
  for (index_t q : {5, 9, 13, 25, 49, 81, 125, 461}) {  // 9 = 3^2, 25 = 5^2, 49 = 7^2, 81 = 3^4, 125 = 5^3
    INFO(q);
    REQUIRE(detail::is_paley2_order(2 * (q + 1)));
    REQUIRE(is_hadamard(detail::paley2(2 * (q + 1))));
  }
  for (index_t order : {0, 1, 2, 6, 16, 36, 40, 52, 92, 172}) REQUIRE_FALSE(detail::is_paley1_order(order));
  for (index_t order : {0, 1, 2, 4, 8, 10, 24, 92, 172}) REQUIRE_FALSE(detail::is_paley2_order(order));
}

TEST_CASE("half of the nonzero elements of a field are squares, and chi is multiplicative", "[hadamard]") {
  for (index_t q : {3, 5, 7, 9, 13, 27, 49, 125}) {
    auto const field = detail::prime_power(q);
    REQUIRE(field.has_value());
    std::vector<int> const chi = detail::quadratic_character(q, *field);
    index_t squares = 0;
    for (int value : chi) squares += value == 1;
    REQUIRE(squares == (q - 1) / 2);
    REQUIRE(chi[0] == 0);
    REQUIRE(chi[1] == 1);
    if (field->exponent == 1)
      for (index_t a = 1; a < q; ++a) REQUIRE(chi[static_cast<std::size_t>(a * a % q)] == 1);
  }
  REQUIRE_FALSE(detail::prime_power(1).has_value());
  REQUIRE_FALSE(detail::prime_power(12).has_value());
  REQUIRE(detail::prime_power(343)->prime == 7);
  REQUIRE(detail::prime_power(343)->exponent == 3);
}

TEST_CASE("Williamson's search finds the orders that Paley misses, and gives up where it must",
          "[hadamard]") {
  for (index_t m : {3, 5, 7, 9, 13, 23, 37, 43}) {
    INFO(m);
    auto const found = detail::williamson_sequences(m);
    REQUIRE(found.has_value());
    REQUIRE(is_hadamard(detail::williamson(*found)));
  }
  REQUIRE_FALSE(detail::williamson_sequences(67).has_value());  // 11 orbits searched in vain
  REQUIRE_FALSE(detail::williamson_sequences(107).has_value());
  REQUIRE_FALSE(detail::williamson_sequences(4).has_value());
}

TEST_CASE("a matrix of an impossible order is refused with a block that works", "[hadamard]") {
  REQUIRE_THROWS_AS(hadamard_matrix(13696), InvalidArgument);
  REQUIRE_THROWS_WITH(
      hadamard_matrix(13696),
      "[hadamard_matrix] 13696 channels: no Hadamard matrix of order 13696 = 107 * 2^7 is known "
      "here; use block 128");
  REQUIRE_THROWS_WITH(
      hadamard_matrix(18),
      "[hadamard_matrix] 18 channels: no Hadamard matrix of order 18 = 9 * 2^1 is known here; "
      "use block 2");
  REQUIRE_THROWS_WITH(
      hadamard_matrix(127),
      "[hadamard_matrix] 127 channels: no Hadamard matrix of order 127 = 127 * 2^0 is known here; "
      "use a dense rotation, no power of two divides the channels");
  REQUIRE_THROWS_WITH(hadamard_matrix(0), "[hadamard_order] order 0: must be at least 1");
}
