// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/gguf.hpp>

#include <random>
#include <stdexcept>

#include "files.hpp"
#include "gguf_bytes.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

struct Attack {
  TemporaryFolder folder;
  fs::path file = folder / "x.gguf";
  [[nodiscard]] GgufFile open(std::string_view bytes) const {
    write_bytes(file, bytes);
    return GgufFile(file);
  }
};

GgufBytes bytes() { return {}; }

std::string valid_file() {
  return bytes()
      .begin(3, 4)
      .key_text("general.architecture", "llama")
      .key_u32("general.alignment", 64)
      .key_array("t.tokens", 8, 2)
      .text("a")
      .text("bcd")
      .key_array("t.scores", 6, 2)
      .put(1.0f)
      .put(2.0f)
      .tensor("w", 32, 2, 8, 0)
      .tensor("h", 5, 3, 1, 128)
      .tensor("f", 4, 1, 0, 192)
      .pad(64)
      .zeros(68 + 60 + 30 + 34 + 16)
      .bytes;
}

/// Opens the file and uses everything that it describes; the answer must stay inside the file.
void use_all(fs::path const& path) {
  GgufFile const file(path);
  std::size_t total = 0;
  for (Tensor const& tensor : file.tensors()) {
    total += tensor.bytes.size();
    if (file.find(tensor.name) != &tensor) throw std::logic_error("a tensor that is not found by its name");
    if (tensor.shape.size() <= 2) (void)file.read_matrix<float>(tensor, NonFinite::allow);
  }
  for (GgufValue const& value : file.metadata()) {
    std::string const key(value.key);
    (void)failure_of([&] { (void)file.integer(key); });
    (void)failure_of([&] { (void)file.number(key); });
    (void)failure_of([&] { (void)file.boolean(key); });
    (void)failure_of([&] { (void)file.text(key); });
    (void)failure_of([&] { (void)file.texts(key); });
    (void)failure_of([&] { (void)file.numbers(key); });
    (void)failure_of([&] { (void)file.integers(key); });
  }
  if (total >= fs::file_size(path)) throw std::logic_error("more data than the file holds");
}

constexpr std::uint64_t huge = 0xFFFFFFFFFFFFFFFFu, half = std::uint64_t{1} << 63;

}  // namespace

TEST_CASE("the valid GGUF file that the attacks start from") {
  Attack const attack;
  GgufFile const file = attack.open(valid_file());
  REQUIRE(file.tensors().size() == 3);
  REQUIRE(describe(*file.find("h")) == "F16 [3, 5]");
  use_all(attack.file);
}

TEST_CASE("GGUF: what is no GGUF file of a known version") {
  Attack const attack;
  REQUIRE_ERROR(attack.open("GG"), format, "truncated");
  REQUIRE_ERROR(attack.open("GGML" + std::string(40, '\0')), format, "does not begin with 'GGUF'");
  REQUIRE_ERROR(attack.open(bytes().begin(0, 0, 1)), unsupported, "version 1");
  REQUIRE_ERROR(attack.open(bytes().begin(0, 0, 4)), unsupported, "version 4");
  REQUIRE_ERROR(attack.open(bytes().begin(0, 0, 0x03000000)), unsupported, "big-endian");
  REQUIRE_ERROR(attack.open("GGUF\3"), format, "truncated");
  REQUIRE(attack.open(bytes().begin(0, 0)).tensors().empty());
  REQUIRE(attack.open(bytes().begin(0, 0).pad()).tensors().empty());
}

TEST_CASE("GGUF: counts beyond the file (CVE-2024-23605, CVE-2024-23496, ggml#1516)") {
  Attack const attack;
  for (std::uint64_t const count : {huge, half, std::uint64_t{1} << 32, std::uint64_t{20}}) {
    REQUIRE_ERROR(attack.open(bytes().begin(0, count).zeros(136)), format, "do not fit");
    REQUIRE_ERROR(attack.open(bytes().begin(count, 0).zeros(136)), format, "do not fit");
  }
  REQUIRE_ERROR(attack.open(bytes().begin(0, 20000).zeros(400000)), unsupported, "at most 16384");
}

TEST_CASE("GGUF: lengths of texts and arrays beyond the file (CVE-2024-21825, llama.cpp#27188)") {
  Attack const attack;
  for (std::uint64_t const length : {huge, half, huge - 7, std::uint64_t{1} << 30}) {
    REQUIRE_ERROR(attack.open(bytes().begin(0, 1).u64(length).zeros(32)), format, "a key needs");
    REQUIRE_ERROR(attack.open(bytes().begin(0, 1).text("k").u32(8).u64(length).zeros(32)), format, "k needs");
    for (std::uint32_t const element : {0u, 1u, 4u, 6u, 7u, 8u, 10u, 12u})
      REQUIRE_ERROR(attack.open(bytes().begin(0, 1).key_array("k", element, length).zeros(16)), format,
                    "elements, but only");
    REQUIRE_ERROR(attack.open(bytes().begin(0, 1).key_array("k", 8, 2).text("a").u64(length).zeros(8)),
                  format, "k needs");
    REQUIRE_ERROR(attack.open(bytes().begin(1, 0).u64(length).zeros(32)), format, "name of a tensor needs");
  }
  // 43 bytes that say 2^63 elements of one byte
  REQUIRE_ERROR(attack.open(bytes().begin(0, 1).text("k").u32(9).u32(0).u64(half)), format, "elements");
}

TEST_CASE("GGUF: types of metadata (CVE-2024-21836 and typed arrays)") {
  Attack const attack;
  REQUIRE_ERROR(attack.open(bytes().begin(0, 1).text("k").u32(13).zeros(8)), format, "unknown type 13");
  REQUIRE_ERROR(attack.open(bytes().begin(0, 1).text("k").u32(huge & 0xFFFFFFFF).zeros(8)), format,
                "unknown");
  REQUIRE_ERROR(attack.open(bytes().begin(0, 1).key_array("k", 13, 0).zeros(8)), format, "unknown type 13");
  REQUIRE_ERROR(attack.open(bytes().begin(0, 1).key_array("k", 9, 1).zeros(64)), unsupported,
                "array of arrays");
  REQUIRE_ERROR(attack.open(bytes().begin(0, 1).text("k").u32(7).put(std::uint8_t{2}).zeros(8)), format,
                "boolean of value 2");
  REQUIRE_ERROR(
      attack.open(bytes().begin(0, 1).key_array("k", 7, 2).put(std::uint8_t{1}).put(std::uint8_t{255})),
      format, "boolean of value 255");
  GgufFile const scores = attack.open(bytes().begin(0, 1).key_array("tokenizer.ggml.scores", 0, 4).zeros(4));
  REQUIRE_ERROR(scores.numbers("tokenizer.ggml.scores"), format, "not an array of floats");
  REQUIRE_ERROR(scores.texts("tokenizer.ggml.scores"), format, "not an array of texts");
  GgufFile const large =
      attack.open(bytes().begin(0, 2).text("a").u32(10).u64(huge).key_array("b", 10, 1).u64(half));
  REQUIRE_ERROR(large.integer("a"), format, "63 bits");
  REQUIRE_ERROR(large.integers("b"), format, "32 bits");
}

TEST_CASE("GGUF: keys and names, their lengths and repetitions") {
  Attack const attack;
  REQUIRE_ERROR(attack.open(bytes().begin(0, 2).key_u32("k", 1).key_u32("k", 2)), format,
                "'k' appears twice");
  REQUIRE_ERROR(attack.open(bytes().begin(0, 1).key_u32("", 1)), format, "the key ''");
  REQUIRE_ERROR(attack.open(bytes().begin(0, 1).key_u32("a b", 1)), format, "the key 'a b'");
  REQUIRE_ERROR(attack.open(bytes().begin(0, 1).key_u32(std::string(65536, 'k'), 1)), format, "65536 bytes");
  REQUIRE_NOTHROW(attack.open(bytes().begin(0, 1).key_u32(std::string(65535, 'k'), 1)));
  REQUIRE_ERROR(attack.open(bytes().begin(1, 0).tensor("", 1, 1, 0, 0).pad().zeros(4)), format,
                "a name of 0 bytes");
  REQUIRE_ERROR(attack.open(bytes().begin(1, 0).tensor(std::string(65, 'n'), 1, 1, 0, 0).pad().zeros(4)),
                format, "a name of 65 bytes");
  REQUIRE_NOTHROW(attack.open(bytes().begin(1, 0).tensor(std::string(64, 'n'), 1, 1, 0, 0).pad().zeros(4)));
  REQUIRE_ERROR(
      attack.open(bytes().begin(2, 0).tensor("n", 1, 1, 0, 0).tensor("n", 1, 1, 0, 32).pad().zeros(36)),
      format, "'n' appears twice");
}

TEST_CASE("GGUF: dimensions (CVE-2024-21802, CVE-2025-53630, CVE-2026-33298, gguf-tools#25)") {
  Attack const attack;
  auto const shaped = [&](std::uint64_t columns, std::uint64_t rows, std::uint32_t type = 0) {
    return attack.open(bytes().begin(1, 0).tensor("w", columns, rows, type, 0).pad().zeros(64));
  };
  for (std::uint32_t const rank : {0u, 5u, 9u, 0x80000000u, 0xFFFFFFFFu})
    REQUIRE_ERROR(attack.open(bytes().begin(1, 0).text("w").u32(rank).zeros(96)), format,
                  "dimensions; 1 to 4");
  REQUIRE_ERROR(shaped(huge, 1), format, "a dimension of 18446744073709551615");
  REQUIRE_ERROR(shaped(half, 1), format, "a dimension of");
  REQUIRE_ERROR(shaped(std::uint64_t{1} << 62, 4), format, "too large");
  REQUIRE_ERROR(shaped(std::uint64_t{1} << 62, 1), format, "too large");  // times 4 bytes
  REQUIRE_ERROR(shaped(std::uint64_t{1} << 59, 1, 8), format, "beyond the end");
  REQUIRE_ERROR(shaped((std::uint64_t{1} << 63) - 32, 1, 8), format, "too large");
  REQUIRE_ERROR(shaped(std::uint64_t{1} << 40, 1), format, "beyond the end");
  REQUIRE_ERROR(shaped(31, 1, 2), format, "no whole blocks");
  REQUIRE_ERROR(shaped(16, 2, 8), format, "no whole blocks");  // 32 elements, but not per row
  REQUIRE(shaped(16, 1).tensors()[0].bytes.size() == 64);
}

TEST_CASE("GGUF: types of tensors that are not read are named") {
  Attack const attack;
  auto const typed = [&](std::uint32_t type) {
    return attack.open(bytes().begin(1, 0).tensor("w", 256, 1, type, 0).pad().zeros(1024));
  };
  REQUIRE_ERROR(typed(12), unsupported, "'w' has type Q4_K");
  REQUIRE_ERROR(typed(14), unsupported, "Q6_K");
  REQUIRE_ERROR(typed(4), unsupported, "number 4");
  REQUIRE_ERROR(typed(0xFFFFFFFF), unsupported, "number 4294967295");
}

TEST_CASE("GGUF: offsets and the end of the file (CVE-2026-7482, CVE-2026-27940)") {
  Attack const attack;
  auto const two = [&](std::uint64_t first, std::uint64_t second, std::size_t data) {
    return attack.open(
        bytes().begin(2, 0).tensor("a", 3, 1, 0, first).tensor("b", 5, 1, 0, second).pad().zeros(data));
  };
  REQUIRE_NOTHROW(two(0, 32, 52));
  REQUIRE_NOTHROW(two(0, 32, 64));
  REQUIRE_ERROR(two(0, 12, 52), format, "they overlap");
  REQUIRE_ERROR(two(0, 0, 52), format, "they overlap");
  REQUIRE_ERROR(two(0, 64, 84), format, "there is a hole");
  REQUIRE_ERROR(two(32, 0, 64), format, "there is a hole");
  REQUIRE_ERROR(two(0, huge, 52), format, "there is a hole");
  REQUIRE_ERROR(two(0, huge - 31, 52), format, "there is a hole");
  REQUIRE_ERROR(two(0, 32, 51), format, "beyond the end");
  REQUIRE_ERROR(two(0, 32, 0), format, "beyond the end");
  REQUIRE_ERROR(two(0, 32, 53), format, "bytes after the last tensor");
  REQUIRE_ERROR(two(0, 32, 96), format, "bytes after the last tensor");
  REQUIRE_ERROR(attack.open(bytes().begin(0, 0).pad().zeros(1)), format, "bytes after the last tensor");
}

TEST_CASE("GGUF: alignment (GHSA-96jg-mvhq-q7q7)") {
  Attack const attack;
  auto const with = [&](std::uint32_t alignment, std::size_t padded) {
    return attack.open(bytes()
                           .begin(1, 1)
                           .key_u32("general.alignment", alignment)
                           .tensor("a", 3, 1, 0, 0)
                           .pad(padded)
                           .zeros(12));
  };
  for (std::uint32_t const alignment : {0u, 1u, 4u, 24u, 33u, 131072u, 0x80000000u, 0xFFFFFFFFu})
    REQUIRE_ERROR(with(alignment, 32), format, "a power of two from 8 to 65536");
  REQUIRE_NOTHROW(with(8, 8));
  REQUIRE_NOTHROW(with(65536, 65536));
  REQUIRE_ERROR(with(65536, 32), format, "beyond the end");
  REQUIRE_ERROR(attack.open(bytes().begin(0, 1).text("general.alignment").u32(10).u64(32)), format,
                "not of type u32");
  REQUIRE_ERROR(attack.open(bytes().begin(0, 1).key_text("general.alignment", "32")), format,
                "not of type u32");
}

TEST_CASE("a GGUF file cut anywhere is refused") {
  Attack const attack;
  std::string const whole = valid_file();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    INFO("cut to " << size);
    auto const failure = failure_of([&] { (void)attack.open(std::string_view(whole).substr(0, size)); });
    REQUIRE(failure.is(Error::Kind::format));
  }
}

TEST_CASE("GGUF files with changed bytes are refused or stay inside themselves") {
  Attack const attack;
  std::string const whole = valid_file();
  std::mt19937 random(5);
  constexpr std::array<unsigned char, 6> values{0, 1, 0x7F, 0x80, 0xFE, 0xFF};
  for (int round = 0; round < 3000; ++round) {
    std::string changed = whole;
    for (unsigned i = 0; i < 1 + random() % 3; ++i)
      changed[random() % changed.size()] = static_cast<char>(values[random() % values.size()]);
    write_bytes(attack.file, changed);
    auto const failure = failure_of([&] { use_all(attack.file); });
    REQUIRE(failure.what != Failure::What::invalid_argument);
  }
}

TEST_CASE("a GGUF file that shrinks while it is open is an error and not a signal") {
  Attack const attack;
  GgufFile const file = attack.open(valid_file());
  fs::resize_file(attack.file, 64);
  REQUIRE_ERROR(file.read_matrix<float>(*file.find("w")), io, "changed by another program");
}
