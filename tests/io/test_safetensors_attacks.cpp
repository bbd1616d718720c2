// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/safetensors.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <random>
#include <utility>
#include <vector>

#include "files.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

struct Attack {
  TemporaryFolder folder;
  fs::path file = folder / "x.safetensors";
  [[nodiscard]] SafetensorsFile open(std::string_view bytes) const {
    write_bytes(file, bytes);
    return SafetensorsFile(file);
  }
  /// A header that holds these members, over `data` bytes of zeros.
  [[nodiscard]] SafetensorsFile header(std::string const& members, std::size_t data = 0) const {
    return open(safetensors_bytes("{" + members + "}", std::string(data, '\0')));
  }
};

std::string tensor(std::string const& name, std::string const& dtype, std::string const& shape,
                   std::string const& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape + "],\"data_offsets\":[" +
         offsets + "]}";
}

std::string valid_file() {
  std::string data;
  for (int i = 0; i < 600; ++i) data.push_back(static_cast<char>(i % 50));
  return safetensors_bytes("{\"__metadata__\":{\"format\":\"pt\"}," + tensor("w", "F32", "10,10", "0,400") +
                               "," + tensor("h", "BF16", "100", "400,600") + "," +
                               tensor("none", "I8", "0", "600,600") + "}",
                           data);
}

/// Opens the file and uses everything that it describes; the answer must stay inside the file.
void use_all(fs::path const& path) {
  SafetensorsFile const file(path);
  std::size_t total = 0;
  for (Tensor const& t : file.tensors()) {
    total += t.bytes.size();
    if (file.find(t.name) != &t) throw std::logic_error("a tensor that is not found by its name");
    bool const floating = t.dtype <= Dtype::bf16 && t.shape.size() <= 2;
    bool const integer = t.dtype >= Dtype::i64 && t.dtype <= Dtype::u8;
    if (floating) (void)file.read_matrix<float>(t, NonFinite::allow);
    if (integer) (void)failure_of([&] { (void)file.read_integers(t); });
  }
  if (total >= fs::file_size(path)) throw std::logic_error("more data than the file holds");
}

}  // namespace

TEST_CASE("a length that does not fit the file is refused before anything is allocated",
          "[safetensors][attack]") {
  Attack const attack;
  REQUIRE_ERROR(attack.open(""), format, "x.safetensors: the file is empty");
  REQUIRE_ERROR(attack.open("1234567"), format, "7 bytes are too few");
  REQUIRE_ERROR(attack.open(std::string(8, '\0')), format, "not valid JSON");
  for (std::uint64_t const length : {~std::uint64_t{0}, ~std::uint64_t{0} - 7, std::uint64_t{1} << 63,
                                     std::uint64_t{4} << 30, std::uint64_t{100'000'001}})
    REQUIRE_ERROR(attack.open(safetensors_bytes("{}", "", length)), format, std::to_string(length));
  REQUIRE_ERROR(attack.open(safetensors_bytes("{}", "", 3)), format, "a header of 3 bytes in a file of 10");
  REQUIRE_ERROR(attack.open(safetensors_bytes("{}", "", 100'000'000)), format, "truncated");
  REQUIRE(attack.open(safetensors_bytes("{}")).tensors().empty());
}

TEST_CASE("offsets that are negative, reversed or beyond the data are refused", "[safetensors][attack]") {
  Attack const attack;
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "4", "-4,0"), 4), format, "must be a non-negative integer");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "4", "0,4.0"), 4), format, "must be a non-negative integer");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "4", "0,4e0"), 4), format, "must be a non-negative integer");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "4", "0,\"4\""), 4), format,
                "must be a non-negative integer");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "4", "0"), 4), format, "',' is missing");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "4", "0,4,4"), 4), format, "']' is missing");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "4", "4,0"), 4), format, "'a' lies at bytes [4, 0) of 4");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "5", "0,5"), 4), format, "[0, 5) of 4 bytes");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "4", "18446744073709551612,0"), 4), format, "'a' lies at");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "4", "0,18446744073709551616"), 4), format,
                "does not fit 64 bits");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "4", "0,99999999999999999999999"), 4), format,
                "does not fit 64");
}

TEST_CASE("data must be covered exactly", "[safetensors][attack]") {
  Attack const attack;
  auto const two = [](std::string const& first, std::string const& second) {
    return tensor("a", "I8", "4", first) + "," + tensor("b", "I8", "4", second);
  };
  REQUIRE(attack.header(two("4,8", "0,4"), 8).tensors()[0].name == "b");
  REQUIRE_ERROR(attack.header(two("0,4", "0,4"), 4), format, "they overlap");
  REQUIRE_ERROR(attack.header(two("0,4", "3,7"), 7), format, "begins at byte 3 of the data");
  REQUIRE_ERROR(attack.header(two("0,4", "5,9"), 9), format, "there is a hole");
  REQUIRE_ERROR(attack.header(two("1,5", "5,9"), 9), format, "there is a hole");
  REQUIRE_ERROR(attack.header(two("0,4", "4,8"), 9), format, "1 bytes after the last tensor");
  REQUIRE_ERROR(attack.header("", 1), format, "1 bytes after the last tensor");
  std::string many;  // a small file that describes much: all over the same bytes
  for (int i = 0; i < 1000; ++i)
    many += (i == 0 ? "" : ",") + tensor("t" + std::to_string(i), "I8", "4", "0,4");
  REQUIRE_ERROR(attack.header(many, 4), format, "they overlap");
}

TEST_CASE("shapes must fit their bytes, and products must not wrap", "[safetensors][attack]") {
  Attack const attack;
  REQUIRE_ERROR(attack.header(tensor("a", "F32", "2", "0,4"), 4), format,
                "'a': its shape and dtype need 8 bytes");
  REQUIRE_ERROR(attack.header(tensor("a", "F32", "4294967296,4294967296", "0,0")), format, "too large");
  REQUIRE_ERROR(attack.header(tensor("a", "F32", "4611686018427387904,1", "0,0")), format, "too large");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "4294967297,4294967297", "0,4"), 4), format, "too large");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "9223372036854775808", "0,4"), 4), format,
                "a dimension of 9223");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "-1", "0,4"), 4), format, "non-negative");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "true", "0,4"), 4), format, "non-negative");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "04", "0,4"), 4), format, "leading zero");
  REQUIRE_ERROR(attack.header(tensor("a", "F4", "3", "0,1"), 1), format, "no whole number of bytes");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "1,1,1,1,1,1,1,1,1", "0,1"), 1), unsupported,
                "more than 8 dim");
  REQUIRE(attack.header(tensor("a", "F4", "4", "0,2"), 2).tensors().size() == 1);
  REQUIRE(attack.header(tensor("a", "F64", "", "0,8"), 8).tensors()[0].shape.empty());
  REQUIRE(attack.header(tensor("a", "I8", "0,4611686018427387904", "0,0")).tensors()[0].bytes.empty());
  REQUIRE(attack.header(tensor("a", "F32", "4611686018427387904,0", "0,0")).tensors().size() == 1);
}

TEST_CASE("unknown types are refused by name", "[safetensors][attack]") {
  Attack const attack;
  REQUIRE_ERROR(attack.header(tensor("a.b", "Q4_K", "4", "0,4"), 4), unsupported,
                "tensor 'a.b' has the unknown dtype 'Q4_K'");
  REQUIRE_ERROR(attack.header(tensor("a", "", "4", "0,4"), 4), unsupported, "unknown dtype ''");
  REQUIRE_ERROR(attack.header(tensor("a", std::string(500, 'F'), "4", "0,4"), 4), unsupported, "FFF...'");
  REQUIRE_ERROR(attack.header(R"("a":{"dtype":7,"shape":[4],"data_offsets":[0,4]})", 4), format,
                "'\"' is missing");
}

TEST_CASE("the header is strict JSON of one form", "[safetensors][attack]") {
  Attack const attack;
  std::string const good = tensor("a", "I8", "4", "0,4");
  std::string const data(4, '\0');
  auto const open = [&](std::string const& header) { return attack.open(safetensors_bytes(header, data)); };
  REQUIRE(open(" \n\t\r{" + good + "}  \n").tensors().size() == 1);  // white space around is legal
  REQUIRE(open("{\"\\u0061\":" + good.substr(4) + "}").find("a") != nullptr);
  for (std::string const& header : std::vector<std::string>{"{" + good,
                                                            "{" + good + "} x",
                                                            "{" + good + ",}",
                                                            "[" + good + "]",
                                                            "{" + good + "}}",
                                                            "{,}",
                                                            "{\"a\":[]}",
                                                            "{\"a\":null}",
                                                            "{\"a\":1}",
                                                            std::string("null"),
                                                            std::string("{\"a"),
                                                            std::string("{\"a\\"),
                                                            "{\"\\q\":1}",
                                                            "{\"\\u12\":1}",
                                                            "{\"\\u12g4\":1}",
                                                            "{\"\\ud800\":1}",
                                                            "{\"\\ud800\\u0041\":1}",
                                                            "{\"\\udc00\":1}",
                                                            std::string("{\"a\nb\":1}"),
                                                            "{" + good + "}" + std::string(4, '\0'),
                                                            "{'a':1}"}) {
    INFO(header);
    REQUIRE_ERROR(open(header), format, "not valid JSON at byte");
  }
  REQUIRE_ERROR(open("{\"\xC0\xAF\":1}"), format, "not valid UTF-8");
  REQUIRE_ERROR(open("{\"\xED\xA0\x80\":1}"), format, "not valid UTF-8");
  REQUIRE_ERROR(open("{\"\xF4\x90\x80\x80\":1}"), format, "not valid UTF-8");
  REQUIRE_ERROR(open("{\"a\":\xFF}"), format, "not valid UTF-8");
  REQUIRE_ERROR(open("{\"a\xE2\x82"), format, "not valid UTF-8");
}

TEST_CASE("keys that are missing, unknown or twice are refused", "[safetensors][attack]") {
  Attack const attack;
  std::string const good = tensor("a", "I8", "4", "0,4");
  REQUIRE_ERROR(attack.header(good + "," + good, 4), format, "overlap");
  REQUIRE_ERROR(attack.header(tensor("a", "I8", "0", "0,0") + "," + tensor("\\u0061", "I8", "0", "0,0")),
                format, "the tensor 'a' appears twice");
  REQUIRE_ERROR(attack.header(R"("a":{"dtype":"I8","dtype":"I8","shape":[4],"data_offsets":[0,4]})", 4),
                format, "the key 'dtype' twice");
  REQUIRE_ERROR(attack.header(R"("a":{"dtype":"I8","shape":[4]})", 4), format,
                "'a' lacks dtype, shape or data_off");
  REQUIRE_ERROR(attack.header(R"("a":{})", 4), format, "lacks");
  REQUIRE_ERROR(attack.header(R"("a":{"dtype":"I8","shape":[4],"data_offsets":[0,4],"stride":[1]})", 4),
                format, "unknown key 'stride'");
  REQUIRE_ERROR(attack.header(R"("__metadata__":{"a":"1","\u0061":"2"})"), format, "twice in '__metadata__'");
  REQUIRE_ERROR(attack.header(R"("__metadata__":{},"__metadata__":{})"), format,
                "'__metadata__' appears twice");
  REQUIRE_ERROR(attack.header(R"("__metadata__":{"a":1})"), format, "'\"' is missing");
  REQUIRE_ERROR(attack.header(R"("__metadata__":{"a":{"b":"c"}})"), format, "'\"' is missing");
  std::string nested = "\"a\":";
  for (int i = 0; i < 100000; ++i) nested += "{\"a\":";
  REQUIRE_ERROR(attack.header(nested), format, "unknown key 'a'");
  REQUIRE_ERROR(attack.header("\"a\":" + std::string(100000, '[')), format, "'{' is missing");
  std::string many = "\"__metadata__\":{";
  for (int i = 0; i < 5000; ++i) many += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":\"\"";
  REQUIRE_ERROR(attack.header(many + "}"), unsupported, "more than 4096 entries");
}

TEST_CASE("a name cannot write to the terminal or fill it", "[safetensors][attack]") {
  Attack const attack;
  Failure const failure = failure_of(
      [&] { (void)attack.header(tensor("\\u001b[31m" + std::string(10000, 'n'), "I8", "4", "0,5"), 5); });
  REQUIRE(failure.is(Error::Kind::format));
  REQUIRE(failure.says("\\x1b[31mnnn"));
  REQUIRE(failure.text.size() < 600);
}

TEST_CASE("a file cut at any byte of its header or data is refused", "[safetensors][attack]") {
  Attack const attack;
  std::string const whole = valid_file();
  write_bytes(attack.file, whole);
  use_all(attack.file);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write_bytes(attack.file, whole.substr(0, size));
    Failure const failure = failure_of([&] { use_all(attack.file); });
    INFO("cut at " << size << ": " << failure.text);
    REQUIRE(failure.is(Error::Kind::format));
  }
  write_bytes(attack.file, whole + "x");
  REQUIRE_ERROR(SafetensorsFile(attack.file), format, "belong to none");
}

TEST_CASE("a real model cut at many places is refused", "[safetensors][attack]") {
  Attack const attack;
  std::string const whole = read_bytes(DARTQUANT_EXAMPLE_DATA "/tiny-llama/model.safetensors");
  write_bytes(attack.file, whole);
  std::mt19937 random(7);
  std::vector<std::size_t> cuts(1000);
  for (std::size_t& cut : cuts) cut = random() % whole.size();
  std::sort(cuts.rbegin(), cuts.rend());
  for (std::size_t const cut : cuts) {
    fs::resize_file(attack.file, cut);
    REQUIRE(failure_of([&] { SafetensorsFile{attack.file}; }).is(Error::Kind::format));
  }
}

TEST_CASE("flipped bits never lead outside the file", "[safetensors][attack]") {
  Attack const attack;
  std::string const whole = valid_file();
  std::size_t const header_bits = 8 * (whole.size() - 600);
  std::size_t accepted = 0;
  std::string damaged = whole;
  for (std::size_t bit = 0; bit < header_bits; ++bit) {  // every bit of the length and the header
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ 1 << bit % 8);
    write_bytes(attack.file, damaged);
    Failure const failure = failure_of([&] { use_all(attack.file); });
    REQUIRE(failure.what != Failure::What::invalid_argument);
    accepted += failure.what == Failure::What::nothing;
    damaged[bit / 8] = whole[bit / 8];
  }
  REQUIRE(accepted < header_bits / 8);  // letters of names and metadata carry no structure
  std::mt19937 random(3);
  for (int trial = 0; trial < 10000; ++trial) {  // several bits at once
    damaged = whole;
    for (unsigned flips = 2 + random() % 4; flips > 0; --flips) {
      std::size_t const bit = random() % header_bits;
      damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ 1 << bit % 8);
    }
    write_bytes(attack.file, damaged);
    REQUIRE(failure_of([&] { use_all(attack.file); }).what != Failure::What::invalid_argument);
  }
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
namespace {

/// The highest resident memory while the file is opened, above what was resident before, in bytes; measured
/// in a child, where nothing else runs.
std::size_t memory_to_open(fs::path const& path) {
  int ends[2];
  if (::pipe(ends) != 0) return ~std::size_t{0};
  pid_t const child = ::fork();
  if (child == 0) {
    auto const peak = [] {
      std::ifstream status("/proc/self/status");
      for (std::string line; std::getline(status, line);)
        if (line.starts_with("VmHWM:")) return std::size_t{1024} * std::stoul(line.substr(6));
      return std::size_t{0};
    };
    std::ofstream("/proc/self/clear_refs") << "5" << std::flush;  // forget the peak so far
    std::size_t const before = peak();
    { SafetensorsFile const file(path); }
    std::size_t const more = peak() - before;
    ::_exit(::write(ends[1], &more, sizeof more) == sizeof more ? 0 : 1);
  }
  ::close(ends[1]);
  std::size_t more = ~std::size_t{0};
  ssize_t const got = ::read(ends[0], &more, sizeof more);
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  return got == sizeof more ? more : ~std::size_t{0};
}

}  // namespace

TEST_CASE("parsing needs at most twice the header and 1 MB", "[safetensors][attack]") {
  Attack const attack;
  std::size_t const size = std::size_t{8} << 20;
  std::vector<std::string> headers(5);
  for (int i = 0; headers[0].size() < size; ++i)
    headers[0] += (i == 0 ? "" : ",") + tensor(std::to_string(i), "I8", "0", "0,0");
  for (int i = 0; headers[1].size() < size; ++i)
    headers[1] += (i == 0 ? "" : ",") + tensor(std::to_string(i), "I8", "0,0,0,0,0,0,0,0", "0,0");
  headers[2] = tensor(std::string(size, 'n'), "I8", "0", "0,0");
  headers[3] = "\"__metadata__\":{\"a\":\"" + std::string(size, 'm') + "\"}";
  headers[4] = "\"__metadata__\":{\"0\":\"\"";
  for (int i = 1; i < 4096; ++i)
    headers[4] += ",\"" + std::to_string(i) + "\":\"" + std::string(size / 4096, 'm') + "\"";
  headers[4] += "}";
  for (std::string const& members : headers) {
    write_bytes(attack.file, safetensors_bytes("{" + members + "}"));
    std::size_t const header = members.size() + 2;
    std::size_t const mapped = header + (std::size_t{1} << 20);  // the file's own pages, and the stack's
    std::size_t const used = memory_to_open(attack.file);
    if (used < header) {
      WARN("skipped: no peak of resident memory can be read here");
      return;
    }
    INFO(members.substr(0, 60) << ": " << used << " bytes for a header of " << header);
    REQUIRE(used <= mapped + 2 * header + 1'000'000);
  }
}
#endif
