// SPDX-License-Identifier: Apache-2.0
#include <dartquant/core/half.hpp>
#include <dartquant/io/safetensors.hpp>

#include <cmath>
#include <limits>
#include <utility>

#include "files.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

template <class T>
std::string raw(std::vector<T> const& values) {
  return {reinterpret_cast<char const*>(values.data()), values.size() * sizeof(T)};
}

/// A file with the one tensor "t".
SafetensorsFile one_tensor(TemporaryFolder const& folder, std::string const& dtype, std::string const& shape,
                           std::string const& data) {
  write_bytes(folder / "t.safetensors",
              safetensors_bytes("{\"t\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
                                    ",\"data_offsets\":[0," + std::to_string(data.size()) + "]}}",
                                data));
  return SafetensorsFile(folder / "t.safetensors");
}

}  // namespace

TEST_CASE("a file with several tensors is read", "[safetensors]") {
  TemporaryFolder const folder;
  write_bytes(folder / "a.safetensors",
              safetensors_bytes(R"( {"b":{"shape":[2,2],"dtype":"F32","data_offsets":[8,24]} ,
                  "__metadata__":{"format":"pt","k\"":"\u00e9\n"},
                  "a\u0041\ud83d\ude00":{"dtype":"I64","shape":[],"data_offsets":[0,8]},
                  "none":{"dtype":"F16","shape":[3,0],"data_offsets":[8,8]}}  )",
                                raw<std::int64_t>({-5}) + raw<float>({1, 2, 3, 4})));
  SafetensorsFile file(folder / "a.safetensors");
  REQUIRE(file.tensors().size() == 3);
  REQUIRE(file.tensors()[0].name == "aA\xF0\x9F\x98\x80");
  REQUIRE(file.tensors()[1].name == "none");
  REQUIRE(file.tensors()[2].name == "b");
  REQUIRE(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}, {"k\"", "\xC3\xA9\n"}});
  REQUIRE(file.find("c") == nullptr);
  REQUIRE(file.find("") == nullptr);
  SafetensorsFile const moved = std::move(file);
  Tensor const* const b = moved.find("b");
  REQUIRE(b != nullptr);
  REQUIRE(describe(*b) == "F32 [2, 2]");
  RowMatrix<float> const B = moved.read_matrix<float>(*b);
  REQUIRE(B(1, 0) == 3.0f);
  REQUIRE(moved.read_integers(*moved.find("aA\xF0\x9F\x98\x80")) == std::vector<std::int64_t>{-5});
  REQUIRE(moved.read_matrix<double>(*moved.find("none")).rows() == 3);
  moved.release(*b);
  REQUIRE(moved.read_matrix<float>(*b) == B);
}

TEST_CASE("every type has a name and a size", "[safetensors]") {
  for (int i = 0; i <= static_cast<int>(Dtype::f4); ++i) {
    auto const dtype = static_cast<Dtype>(i);
    REQUIRE(parse_dtype(to_string(dtype)) == dtype);
    REQUIRE((bit_width(dtype) >= 4 && bit_width(dtype) <= 64));
  }
  REQUIRE(!parse_dtype("F128"));
  REQUIRE(!parse_dtype("f32"));
  REQUIRE(!parse_dtype(""));
  REQUIRE(byte_size({"x", Dtype::f4, {3, 2}}) == 3);
  REQUIRE_INVALID(byte_size({"x", Dtype::f4, {3}}), "'x'");
  REQUIRE_INVALID(byte_size({"x", Dtype::f32, {-1}}), "negative");
  REQUIRE_INVALID(byte_size({"x", Dtype::f32, {index_t{1} << 40, index_t{1} << 40}}), "beyond 64 bits");
}

TEST_CASE("floating types are converted", "[safetensors]") {
  TemporaryFolder const folder;
  auto const read = [&](std::string const& dtype, std::string const& data) {
    SafetensorsFile const file = one_tensor(folder, dtype, "[3]", data);
    return file.read_matrix<double>(*file.find("t"));
  };
  RowMatrix<double> wanted(1, 3);
  wanted << 1.5, -0.25, 65504;
  REQUIRE(read("F64", raw<double>({1.5, -0.25, 65504})) == wanted);
  REQUIRE(read("F32", raw<float>({1.5, -0.25, 65504})) == wanted);
  REQUIRE(read("F16", raw<std::uint16_t>({0x3E00, 0xB400, 0x7BFF})) == wanted);
  wanted(0, 2) = 256;
  REQUIRE(read("BF16", raw<std::uint16_t>({0x3FC0, 0xBE80, 0x4380})) == wanted);
  SafetensorsFile const scalar = one_tensor(folder, "F32", "[]", raw<float>({7}));
  REQUIRE(scalar.read_matrix<float>(*scalar.find("t"))(0, 0) == 7.0f);
}

TEST_CASE("types and ranks that are no matrix are refused by name", "[safetensors]") {
  TemporaryFolder const folder;
  SafetensorsFile const bytes = one_tensor(folder, "F8_E4M3", "[4]", "1234");
  REQUIRE_ERROR(bytes.read_matrix<float>(bytes.tensors()[0]), unsupported,
                "tensor 't' is F8_E4M3 [4]; only F64");
  REQUIRE_ERROR(bytes.read_integers(bytes.tensors()[0]), unsupported, "an integer type is needed");
  SafetensorsFile const cube = one_tensor(folder, "BF16", "[1,2,1]", "1234");
  REQUIRE_ERROR(cube.read_matrix<float>(cube.tensors()[0]), unsupported, "BF16 [1, 2, 1]");
}

TEST_CASE("integers of every width are read", "[safetensors]") {
  TemporaryFolder const folder;
  auto const read = [&](std::string const& dtype, std::string const& data) {
    SafetensorsFile const file = one_tensor(folder, dtype, "[2]", data);
    return file.read_integers(file.tensors()[0]);
  };
  std::vector<std::int64_t> const wanted{-1, 100};
  REQUIRE(read("I8", raw<std::int8_t>({-1, 100})) == wanted);
  REQUIRE(read("I16", raw<std::int16_t>({-1, 100})) == wanted);
  REQUIRE(read("I32", raw<std::int32_t>({-1, 100})) == wanted);
  REQUIRE(read("U8", raw<std::uint8_t>({255, 100})) == std::vector<std::int64_t>{255, 100});
  REQUIRE(read("U16", raw<std::uint16_t>({65535, 100})) == std::vector<std::int64_t>{65535, 100});
  REQUIRE(read("U32", raw<std::uint32_t>({~0u, 100})) == std::vector<std::int64_t>{4294967295, 100});
  REQUIRE(read("U64", raw<std::uint64_t>({5, 100})) == std::vector<std::int64_t>{5, 100});
  REQUIRE_ERROR(read("U64", raw<std::uint64_t>({5, ~std::uint64_t{0}})), format,
                "18446744073709551615 at index 1");
}

TEST_CASE("values that are not finite are found", "[safetensors]") {
  TemporaryFolder const folder;
  float const nan = std::numeric_limits<float>::quiet_NaN();
  SafetensorsFile const file = one_tensor(folder, "F32", "[2,3]", raw<float>({1, 2, 3, 4, nan, 6}));
  REQUIRE_ERROR(file.read_matrix<float>(file.tensors()[0]), format,
                "tensor 't' holds a value that is not finite (nan) "
                "at row 1, column 1");
  REQUIRE(std::isnan(file.read_matrix<double>(file.tensors()[0], NonFinite::allow)(1, 1)));
  SafetensorsFile const half = one_tensor(folder, "F16", "[1]", raw<std::uint16_t>({0xFC00}));
  REQUIRE_ERROR(half.read_matrix<float>(half.tensors()[0]), format, "(-inf) at row 0, column 0");
  SafetensorsFile const wide = one_tensor(folder, "F64", "[2]", raw<double>({1, 1e300}));
  REQUIRE_ERROR(wide.read_matrix<float>(wide.tensors()[0]), format, "row 0, column 1");
  REQUIRE(wide.read_matrix<double>(wide.tensors()[0])(0, 1) == 1e300);
}

TEST_CASE("a tensor larger than one piece is converted as a whole", "[safetensors]") {
  TemporaryFolder const folder;
  index_t const rows = 3, cols = 700001;
  RowMatrix<float> W(rows, cols);
  for (index_t i = 0; i < W.size(); ++i) W.data()[i] = static_cast<float>(i % 1009) - 500.0f;
  SafetensorsWriter writer(folder / "w.safetensors", {{"w", Dtype::f32, {rows, cols}}});
  writer.append("w", W);
  writer.commit();
  SafetensorsFile const file(folder / "w.safetensors");
  REQUIRE(file.read_matrix<float>(*file.find("w")) == W);
}

TEST_CASE("a file that shrinks while it is open gives an error", "[safetensors]") {
  TemporaryFolder const folder;
  SafetensorsFile const file = one_tensor(folder, "F32", "[2]", raw<float>({1, 2}));
  fs::resize_file(folder / "t.safetensors", 4);
  REQUIRE_ERROR(file.read_matrix<float>(file.tensors()[0]), io, "changed by another program");
}

TEST_CASE("what is written is read back, for every type", "[safetensors]") {
  TemporaryFolder const folder;
  RowMatrix<double> const W = RowMatrix<double>::Random(7, 5);
  std::vector<TensorInfo> const tensors{{"layer 10", Dtype::f16, {7, 5}}, {"layer 2", Dtype::f16, {7, 5}},
                                        {"double", Dtype::f64, {7, 5}},   {"ü\n\"", Dtype::f32, {5}},
                                        {"brain", Dtype::bf16, {7, 5}},   {"ids", Dtype::i32, {2}},
                                        {"none", Dtype::bf16, {0, 5}},    {"flag", Dtype::boolean, {}}};
  SafetensorsWriter writer(folder / "w.safetensors", tensors, {{"format", "pt"}});
  writer.append("brain", W);  // in any order
  writer.append_bytes("flag", std::as_bytes(std::span(std::string_view("\1"))));
  writer.append("double", W.topRows(3));  // in pieces
  writer.append("layer 2", W);
  writer.append("double", W.bottomRows(4));
  writer.append("ü\n\"", W.topRows(1));
  std::vector<std::int32_t> const ids{8, 9};
  writer.append_bytes("ids", std::as_bytes(std::span(ids)));
  writer.append("layer 10", W.cast<float>().eval());
  REQUIRE(!fs::exists(folder / "w.safetensors"));
  writer.commit();
  REQUIRE(folder.entries() == 1);

  SafetensorsFile const file(folder / "w.safetensors");
  std::vector<std::string> order;
  for (Tensor const& tensor : file.tensors()) order.emplace_back(tensor.name);
  REQUIRE(order ==
          std::vector<std::string>{"double", "ü\n\"", "ids", "brain", "none", "layer 10", "layer 2", "flag"});
  std::string const bytes = read_bytes(folder / "w.safetensors");
  REQUIRE(bytes[8] == '{');
  REQUIRE(static_cast<unsigned char>(bytes[0]) % 8 == 0);  // the header's length: the data is aligned
  REQUIRE(file.metadata().at("format") == "pt");
  REQUIRE(file.read_matrix<double>(*file.find("double")) == W);
  REQUIRE(file.read_matrix<float>(*file.find("ü\n\"")) == W.topRows(1).cast<float>());
  REQUIRE((file.read_matrix<double>(*file.find("brain")) - W).cwiseAbs().maxCoeff() <= std::ldexp(1.0, -9));
  REQUIRE((file.read_matrix<double>(*file.find("layer 2")) - W).cwiseAbs().maxCoeff() <=
          std::ldexp(1.0, -12));
  REQUIRE(file.read_integers(*file.find("ids")) == std::vector<std::int64_t>{8, 9});
}

TEST_CASE("double is rounded to the shorter types once, to nearest even", "[safetensors]") {
  TemporaryFolder const folder;
  // Just above the middle of two neighbours; float drops the last bit, so that a second rounding would go
  // down.
  double const above_half = 1.0 + std::ldexp(1.0, -11) + std::ldexp(1.0, -40);
  double const above_brain = 1.0 + std::ldexp(1.0, -8) + std::ldexp(1.0, -40);
  RowMatrix<double> values(1, 6);
  values << above_half, -above_half, above_brain, -above_brain, 1.0 + std::ldexp(1.0, -11),
      std::ldexp(1.0, -25) * 1.5;
  SafetensorsWriter writer(folder / "w", {{"h", Dtype::f16, {6}}, {"b", Dtype::bf16, {6}}});
  writer.append("h", values);
  writer.append("b", values);
  writer.commit();
  SafetensorsFile const file(folder / "w");
  RowMatrix<double> const h = file.read_matrix<double>(*file.find("h"));
  RowMatrix<double> const b = file.read_matrix<double>(*file.find("b"));
  REQUIRE(h(0, 0) == 1.0 + std::ldexp(1.0, -10));
  REQUIRE(h(0, 1) == -h(0, 0));
  REQUIRE(b(0, 2) == 1.0 + std::ldexp(1.0, -7));
  REQUIRE(b(0, 3) == -b(0, 2));
  REQUIRE(h(0, 4) == 1.0);  // a tie goes to even
  REQUIRE(h(0, 5) == std::ldexp(1.0, -24));
}

TEST_CASE("the same values give the same bytes, however they arrive", "[safetensors]") {
  TemporaryFolder const folder;
  RowMatrix<float> const W = RowMatrix<float>::Random(40, 33);
  std::vector<TensorInfo> const tensors{{"a", Dtype::bf16, {40, 33}}, {"b", Dtype::bf16, {40, 33}}};
  SafetensorsWriter first(folder / "1", tensors), second(folder / "2", {tensors[1], tensors[0]});
  first.append("a", W);
  first.append("b", W);
  for (index_t row = 0; row < 40; ++row) {
    second.append("b", W.middleRows(row, 1));
    second.append("a", W.middleRows(row, 1));
  }
  first.commit();
  second.commit();
  REQUIRE(read_bytes(folder / "1") == read_bytes(folder / "2"));
}

TEST_CASE("the bytes are those of the reference writer", "[safetensors]") {
  TemporaryFolder const folder;
  SafetensorsWriter writer(folder / "w",
                           {{"a", Dtype::f32, {2}},
                            {"b", Dtype::i32, {2}},
                            {"d", Dtype::f16, {1, 2}},
                            {"i", Dtype::boolean, {2}},
                            {"k", Dtype::f64, {}},
                            {"j", Dtype::i64, {0}}},
                           {{"format", "pt"}});
  writer.append("a", RowMatrix<float>::Zero(1, 2).eval());
  writer.append("d", RowMatrix<float>::Zero(1, 2).eval());
  writer.append("k", RowMatrix<double>::Zero(1, 1).eval());
  std::string const zeros(8, '\0');
  writer.append_bytes("b", std::as_bytes(std::span(zeros)));
  writer.append_bytes("i", std::as_bytes(std::span(zeros).first(2)));
  writer.commit();
  // Written by the Python package safetensors 0.8.0 for the same tensors.
  std::string header =
      R"({"__metadata__":{"format":"pt"},"j":{"dtype":"I64","shape":[0],"data_offsets":[0,0]},)"
      R"("k":{"dtype":"F64","shape":[],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],)"
      R"("data_offsets":[8,16]},"b":{"dtype":"I32","shape":[2],"data_offsets":[16,24]},)"
      R"("d":{"dtype":"F16","shape":[1,2],"data_offsets":[24,28]},"i":{"dtype":"BOOL","shape":[2],)"
      R"("data_offsets":[28,30]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  REQUIRE(read_bytes(folder / "w") == safetensors_bytes(header, std::string(30, '\0')));
}

TEST_CASE("the writer refuses what would give a bad file", "[safetensors]") {
  TemporaryFolder const folder;
  fs::path const path = folder / "w.safetensors";
  write_bytes(path, "old");
  using Tensors = std::vector<TensorInfo>;
  REQUIRE_INVALID(SafetensorsWriter(path, Tensors{{"a", Dtype::f32, {1}}, {"a", Dtype::f32, {1}}}),
                  "'a' is declared twice");
  REQUIRE_INVALID(SafetensorsWriter(path, Tensors{{"", Dtype::f32, {1}}}), "choose another name");
  REQUIRE_INVALID(SafetensorsWriter(path, Tensors{{"__metadata__", Dtype::f32, {1}}}), "choose another name");
  REQUIRE_INVALID(SafetensorsWriter(path, Tensors{{"\xFF", Dtype::f32, {1}}}), "not valid UTF-8");
  REQUIRE_INVALID(SafetensorsWriter(path, Tensors{{"a", Dtype::f32, {1, 1, 1, 1, 1, 1, 1, 1, 1}}}),
                  "9 dimensions");
  REQUIRE_INVALID(
      SafetensorsWriter(path, Tensors{{"a", Dtype::u8, {index_t{1} << 60}}, {"b", Dtype::f64, {-2}}}), "'b'");
  {
    SafetensorsWriter writer(path, {{"a", Dtype::f16, {2, 3}}, {"n", Dtype::i8, {2}}});
    RowMatrix<float> W = RowMatrix<float>::Ones(2, 3);
    REQUIRE_INVALID(writer.append("b", W), "'b' was not declared");
    REQUIRE_INVALID(writer.append("n", W), "use append_bytes");
    REQUIRE_INVALID(writer.append("a", RowMatrix<float>::Ones(3, 2).eval()),
                    "rows of 2 values, declared with 3");
    REQUIRE_INVALID(writer.append_bytes("n", std::as_bytes(std::span(std::string_view("123")))),
                    "3 more bytes after 0 of 2");
    W(1, 2) = 70000.0f;
    REQUIRE_ERROR(writer.append("a", W), numerics, "tensor 'a': the value 70000 at row 1, column 2");
    W(1, 2) = std::numeric_limits<float>::quiet_NaN();
    REQUIRE_ERROR(writer.append("a", W.bottomRows(1)), numerics, "the value nan at row 0, column 2");
    REQUIRE_INVALID(writer.commit(), "tensor 'a' got 0 of 12 bytes");
  }
  REQUIRE(read_bytes(path) == "old");
  REQUIRE(folder.entries() == 1);
}

TEST_CASE("a file without tensors is legal", "[safetensors]") {
  TemporaryFolder const folder;
  SafetensorsWriter writer(folder / "none", {});
  writer.commit();
  REQUIRE(SafetensorsFile(folder / "none").tensors().empty());
}

TEST_CASE("the example model survives a copy bit by bit", "[safetensors]") {
  TemporaryFolder const folder;
  SafetensorsFile const model(DARTQUANT_EXAMPLE_DATA "/tiny-llama/model.safetensors");
  std::vector<TensorInfo> tensors;
  for (Tensor const& t : model.tensors())
    tensors.push_back({std::string(t.name), t.dtype, {t.shape.begin(), t.shape.end()}});
  SafetensorsWriter writer(folder / "copy", tensors, model.metadata());
  for (Tensor const& t : model.tensors()) writer.append(t.name, model.read_matrix<double>(t));
  writer.commit();
  SafetensorsFile const copy(folder / "copy");
  REQUIRE(copy.tensors().size() == model.tensors().size());
  for (Tensor const& t : model.tensors()) {
    Tensor const* const same = copy.find(t.name);
    REQUIRE(same != nullptr);
    REQUIRE(std::equal(t.bytes.begin(), t.bytes.end(), same->bytes.begin(), same->bytes.end()));
  }
  SafetensorsFile const logits(DARTQUANT_EXAMPLE_DATA "/tiny-llama/logits.safetensors");
  for (Tensor const& t : logits.tensors())
    if (t.shape.size() == 2) REQUIRE(logits.read_matrix<float>(t).cols() == 1024);
}

TEST_CASE("tensors beyond 4 GiB and 2^31 elements are described and reached", "[safetensors]") {
  TemporaryFolder const folder;
  fs::path const file = folder / "large.safetensors";
  std::uint64_t const rows = 3, cols = std::uint64_t{1} << 31,
                      bytes = 2 * rows * cols;  // 12 GiB that take no space
  std::string const entry = "{\"w\":{\"dtype\":\"BF16\",\"shape\":[3,2147483648],\"data_offsets\":[0," +
                            std::to_string(bytes) + "]}}";
  write_bytes(file, safetensors_bytes(entry));
  std::uint64_t const size = fs::file_size(file) + bytes;
  std::error_code error;
  fs::resize_file(file, size, error);
  if (error) {
    WARN("skipped: no sparse file of 12 GiB can be made here");
    return;
  }
  SafetensorsFile const large(file);
  Tensor const& w = large.tensors()[0];
  REQUIRE(w.bytes.size() == bytes);
  REQUIRE(w.shape[1] == index_t{1} << 31);
  REQUIRE(w.bytes.back() == std::byte{0});
  REQUIRE(describe(w) == "BF16 [3, 2147483648]");
  fs::resize_file(file, size - 1);
  REQUIRE_ERROR(SafetensorsFile(file), format, "'w' lies at bytes");
}
