// SPDX-License-Identifier: Apache-2.0
#include "../../src/io/file_hash.hpp"

#include "files.hpp"

using namespace dartquant;
using namespace dartquant::test;

TEST_CASE("the hash of a file is what xxh128sum prints", "[file_hash]") {
  TemporaryFolder const folder;
  auto const hash = [&](std::string const& content) {
    write_bytes(folder / "x", content);
    return detail::file_hash(folder / "x");
  };
  CHECK(hash("") == "99aa06d3014798d86001c324468d497f");
  CHECK(hash("DartQuant") == "28582606219864b4cc5ad4143fcddf35");
  CHECK(hash(std::string(3'000'000, 'a')) == "9220778898dfe2af488fe7c89469a712");
  REQUIRE_ERROR(detail::file_hash(folder / "none"), io, "none");
}
