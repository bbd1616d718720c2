// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/sha256.hpp>

#include <span>
#include <string>

#include "support/catch.hpp"

using dartquant::sha256;

TEST_CASE("SHA-256 of the examples of FIPS 180-4 and of every padding", "[sha256]") {
  auto const of = [](std::string const& text) { return sha256(std::as_bytes(std::span(text))); };
  REQUIRE(of("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  REQUIRE(of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  REQUIRE(of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
          "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  REQUIRE(of(std::string(1'000'000, 'a')) ==
          "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  std::string all;  // sha256sum of the digests of 0 to 130 letters, one after the other
  for (std::size_t size = 0; size <= 130; ++size) all += of(std::string(size, 'x'));
  REQUIRE(of(all) == "87aca1c44bc7ba8897768170211f0a02063de70801131ff86c7edb9ce32c6a50");
}
