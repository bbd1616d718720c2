// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/npy.hpp>

#include <limits>
#include <numeric>
#include <random>

#include "files.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

std::string npy_bytes(std::string header, std::string_view data, char version = 1) {
  std::string bytes("\x93NUMPY");
  bytes.push_back(version);
  bytes.push_back('\0');
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i)
    bytes.push_back(static_cast<char>(header.size() >> (8 * i) & 255));
  return bytes.append(header).append(data);
}

template <class T>
std::string raw(std::vector<T> const& values) {
  return {reinterpret_cast<char const*>(values.data()), values.size() * sizeof(T)};
}

struct Npy {
  TemporaryFolder folder;
  fs::path file = folder / "ids.npy";
  std::vector<std::int32_t> read(std::string const& bytes) const {
    write_bytes(file, bytes);
    return read_npy_integers(file);
  }
};

}  // namespace

TEST_CASE("integers survive a round trip", "[npy]") {
  TemporaryFolder const folder;
  for (std::size_t const count : {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{100000}}) {
    std::vector<std::int32_t> values(count);
    std::iota(values.begin(), values.end(), -3);
    write_npy(folder / "a.npy", values);
    REQUIRE(read_npy_integers(folder / "a.npy") == values);
    REQUIRE(read_bytes(folder / "a.npy").size() % 64 == count * 4 % 64);
  }
  REQUIRE(folder.entries() == 1);
}

TEST_CASE("a matrix survives a round trip, also from a strided view", "[npy]") {
  TemporaryFolder const folder;
  RowMatrix<float> const X = RowMatrix<float>::Random(5, 9);
  write_npy(folder / "x.npy", X);
  REQUIRE(read_npy_matrix(folder / "x.npy") == X);
  write_npy(folder / "x.npy", X.middleCols(2, 3));
  REQUIRE(read_npy_matrix(folder / "x.npy") == X.middleCols(2, 3));
  RowMatrix<float> const none(0, 4);
  write_npy(folder / "x.npy", none);
  REQUIRE(read_npy_matrix(folder / "x.npy").rows() == 0);
  REQUIRE(read_npy_matrix(folder / "x.npy").cols() == 4);
}

TEST_CASE("all integer types and versions that NumPy writes are read", "[npy]") {
  Npy const npy;
  std::vector<std::int32_t> const wanted{0, 1, 65535};
  auto const header = [](std::string const& type) {
    return "{'descr': '" + type + "', 'fortran_order': False, 'shape': (3,), }   \n";
  };
  REQUIRE(npy.read(npy_bytes(header("<i4"), raw<std::int32_t>({0, 1, 65535}))) == wanted);
  REQUIRE(npy.read(npy_bytes(header("<i8"), raw<std::int64_t>({0, 1, 65535}), 2)) == wanted);
  REQUIRE(npy.read(npy_bytes(header("<u2"), raw<std::uint16_t>({0, 1, 65535}), 3)) == wanted);
  REQUIRE(npy.read(npy_bytes(header("<u4"), raw<std::uint32_t>({0, 1, 65535}))) == wanted);
  REQUIRE(npy.read(npy_bytes("{\"shape\":(2 ,),'fortran_order':True,\"descr\":\"<u2\"}",
                             raw<std::uint16_t>({4, 5}))) == std::vector<std::int32_t>{4, 5});
}

TEST_CASE("values beyond 32 bits are refused with their position", "[npy]") {
  Npy const npy;
  REQUIRE_ERROR(npy.read(npy_bytes("{'descr':'<i8','fortran_order':False,'shape':(2,)}",
                                   raw<std::int64_t>({1, std::int64_t{1} << 31}))),
                format, "2147483648 at position 1");
  REQUIRE_ERROR(
      npy.read(npy_bytes("{'descr':'<u4','fortran_order':False,'shape':(1,)}", raw<std::uint32_t>({~0u}))),
      format, "4294967295 at position 0");
}

TEST_CASE("malformed headers are refused", "[npy]") {
  Npy const npy;
  std::string const four = raw<std::int32_t>({1});
  for (std::string const header :
       {"", "{", "{}", "[]", "{'descr':'<i4','fortran_order':False,'shape':(1)}",
        "{'descr':'<i4','fortran_order':False,'shape':(1,)",
        "{'descr':'<i4','fortran_order':false,'shape':(1,)}",
        "{'descr':'<i4','descr':'<i4','fortran_order':False,'shape':(1,)}",
        "{'descr':'<i4','fortran_order':False,'shape':(1,),'more':True}",
        "{'descr':'<i4','fortran_order':False}", "{'descr':'<i4','fortran_order':False,'shape':(-1,)}",
        "{'descr':'<i4','fortran_order':False,'shape':(1,)} x",
        "{'descr':'<i4','fortran_order':False,'shape':(1.0,)}",
        "{'descr':'<i4,'fortran_order':False,'shape':(1,)}",
        "{'descr':'<i\\'4','fortran_order':False,'shape':(1,)}",
        "{'descr':[('a','<i4')],'fortran_order':False}",
        "{'descr':'<i4','fortran_order':False,'shape':(99999999999999999999,)}",
        "{'descr':'<i4','fortran_order':False,'shape':(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
        "1,1,1,1,1,"
        "1)}"}) {
    INFO(header);
    REQUIRE_ERROR(npy.read(npy_bytes(header, four)), format, "ids.npy: the header is malformed at byte");
  }
}

TEST_CASE("sizes are checked exactly, without overflow", "[npy]") {
  Npy const npy;
  auto const shaped = [](std::string const& shape) {
    return "{'descr': '<i4', 'fortran_order': False, 'shape': " + shape + "}";
  };
  REQUIRE_ERROR(npy.read(npy_bytes(shaped("(2,)"), "1234")), format, "does not fit the 4 bytes");
  REQUIRE_ERROR(npy.read(npy_bytes(shaped("(1,)"), "12345")), format, "does not fit the 5 bytes");
  REQUIRE_ERROR(npy.read(npy_bytes(shaped("(4611686018427387904,)"), "")), format,
                "does not fit the 0 bytes");
  REQUIRE_ERROR(npy.read(npy_bytes(shaped("(4611686018427387905,)"), "1234")), format, "does not fit");
  REQUIRE_ERROR(npy.read(npy_bytes(shaped("(1, 1)"), "1234")), unsupported, "2 dimensions");
  REQUIRE_ERROR(npy.read(npy_bytes(shaped("()"), "1234")), unsupported, "0 dimensions");
  REQUIRE_ERROR(npy.read(""), format, "the file is empty");
  REQUIRE_ERROR(npy.read("\x93NUMPX\x01\x00\x00\x00"), format, "no .npy file");
  REQUIRE_ERROR(npy.read(std::string("\x93NUMPY\x04\x00\x01\x00{}", 12)), unsupported, "version 4.0");
  REQUIRE_ERROR(npy.read(std::string("\x93NUMPY\x01\x00\xFF\xFF{}", 12)), format,
                "65535 bytes in a file of 12");
  REQUIRE_ERROR(npy.read(std::string("\x93NUMPY\x02\x00\xFF\xFF\xFF\xFF", 12)), format, "truncated");
  write_bytes(npy.file,
              npy_bytes("{'descr':'<f4','fortran_order':False,'shape':(4294967296,4294967296)}", "1234"));
  REQUIRE_ERROR(read_npy_matrix(npy.file), format, "does not fit");
  write_bytes(npy.file, npy_bytes("{'descr':'<f4','fortran_order':True,'shape':(1,1)}", "1234"));
  REQUIRE_ERROR(read_npy_matrix(npy.file), unsupported, "C order");
}

TEST_CASE("types that are not integers are refused by name", "[npy]") {
  Npy const npy;
  for (std::string const type : {"<f4", ">i4", "|u1", "|O", "i4", "<i44444444444"}) {
    INFO(type);
    REQUIRE_ERROR(npy.read(npy_bytes("{'descr':'" + type + "','fortran_order':False,'shape':(1,)}", "1234")),
                  unsupported, "'" + type + "'");
  }
}

TEST_CASE("a file cut anywhere, or with flipped bits, never crashes", "[npy]") {
  TemporaryFolder const folder;
  fs::path const file = folder / "a.npy";
  std::vector<std::int32_t> values(100);
  std::iota(values.begin(), values.end(), 0);
  write_npy(file, values);
  std::string const whole = read_bytes(file);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write_bytes(file, whole.substr(0, size));
    REQUIRE(failure_of([&] { (void)read_npy_integers(file); }).is(Error::Kind::format));
  }
  std::mt19937 random(1);
  for (int trial = 0; trial < 3000; ++trial) {
    std::string damaged = whole;
    std::size_t const bit = random() % (8 * 128 + 64);
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ 1 << bit % 8);
    write_bytes(file, damaged);
    Failure const failure = failure_of([&] {
      std::size_t const count = read_npy_integers(file).size();
      if (count != 100 && count != 200) throw std::logic_error("a size that the file cannot hold");
    });
    REQUIRE(failure.what != Failure::What::invalid_argument);
  }
}

TEST_CASE("the ids of the example model are read", "[npy]") {
  std::vector<std::int32_t> const ids = read_npy_integers(DARTQUANT_EXAMPLE_DATA "/tiny-llama/eval_ids.npy");
  REQUIRE(ids.size() * 4 == fs::file_size(DARTQUANT_EXAMPLE_DATA "/tiny-llama/eval_ids.npy") - 128);
  REQUIRE(*std::min_element(ids.begin(), ids.end()) >= 0);
  REQUIRE(*std::max_element(ids.begin(), ids.end()) < 1024);
}

TEST_CASE("the ids of the trained models are read", "[npy]") {
  fs::path const file = DARTQUANT_SHARED_MODELS "/tokens/stories260K/tinystories-eval.npy";
  if (!fs::exists(file)) {
    WARN("skipped: no ../shared/models here");
    return;
  }
  std::vector<std::int32_t> const ids = read_npy_integers(file);
  REQUIRE(ids.size() == 100195);
  REQUIRE(ids[0] == 1);
}
