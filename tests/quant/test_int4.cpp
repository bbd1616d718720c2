// SPDX-License-Identifier: Apache-2.0
#include <dartquant/quant/int4.hpp>

#include "support/catch.hpp"

using namespace dartquant;

static_assert(pack_int4(1, -1) == 0xF1, "the even channel lies in the low nibble");
static_assert(pack_int4(-8, 7) == 0x78, "two's complement");
static_assert(pack_int4(15, 3) == 0x3F, "unsigned levels as they are");

TEST_CASE("all 256 bytes unpack and pack to themselves", "[int4]") {
  for (int value = 0; value < 256; ++value) {
    auto const byte = static_cast<std::uint8_t>(value);
    int const low = value % 16, high = value / 16;
    CHECK(uint4_even(byte) == low);
    CHECK(uint4_odd(byte) == high);
    CHECK(int4_even(byte) == (low < 8 ? low : low - 16));
    CHECK(int4_odd(byte) == (high < 8 ? high : high - 16));
    CHECK(pack_int4(int4_even(byte), int4_odd(byte)) == byte);
    CHECK(pack_int4(uint4_even(byte), uint4_odd(byte)) == byte);
  }
}

TEST_CASE("all pairs of levels survive packing", "[int4]") {
  for (int even = -8; even < 8; ++even)
    for (int odd = -8; odd < 8; ++odd) {
      CHECK(int4_even(pack_int4(even, odd)) == even);
      CHECK(int4_odd(pack_int4(even, odd)) == odd);
      CHECK(uint4_even(pack_int4(even + 8, odd + 8)) == even + 8);
      CHECK(uint4_odd(pack_int4(even + 8, odd + 8)) == odd + 8);
    }
}

TEST_CASE("an odd number of channels takes one more byte", "[int4]") {
  CHECK(int4_bytes(0) == 0);
  CHECK(int4_bytes(1) == 1);
  CHECK(int4_bytes(2) == 1);
  CHECK(int4_bytes(127) == 64);
}
