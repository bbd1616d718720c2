// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/gguf.hpp>

#include <dartquant/core/random.hpp>

#include <cmath>

#include "files.hpp"
#include "gguf_bytes.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

RowMatrix<float> random_values(index_t rows, index_t cols) {
  Philox const random(3);
  RowMatrix<float> values(rows, cols);
  for (index_t i = 0; i < values.size(); ++i)
    values.data()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  return values;
}

}  // namespace

TEST_CASE("a GGUF file that was written reads back, metadata and every type of tensor") {
  TemporaryFolder const folder;
  RowMatrix<float> const values = random_values(5, 96);
  std::vector<TensorInfo> tensors;
  for (Dtype const dtype : {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::q8_0, Dtype::q4_0})
    tensors.push_back({std::string(to_string(dtype)), dtype, {5, 96}});
  tensors.push_back({"vector", Dtype::f32, {7}});
  GgufWriter writer(folder / "x.gguf",
                    {{"general.architecture", std::string("llama")},
                     {"a.u32", std::uint32_t{7}},
                     {"a.u64", std::uint64_t{1} << 40},
                     {"a.i32", std::int32_t{-3}},
                     {"a.f32", 0.5f},
                     {"a.bool", true},
                     {"a.texts", std::vector<std::string>{"one", "",
                                                          "dr\xC3\xBC"
                                                          "ber"}},
                     {"a.floats", std::vector<float>{1, -2}},
                     {"a.integers", std::vector<std::int32_t>{1, -2, 3}}},
                    tensors);
  for (TensorInfo const& info : tensors)
    if (info.shape.size() == 2) writer.append(info.name, MatrixView<float const>(values));
  RowMatrix<double> const vector = random_values(1, 7).cast<double>();
  writer.append("vector", MatrixView<double const>(vector));
  writer.commit();

  GgufFile const file(folder / "x.gguf");
  REQUIRE(is_gguf(folder / "x.gguf"));
  REQUIRE(file.metadata().size() == 9);
  REQUIRE(file.text("general.architecture") == "llama");
  REQUIRE(file.integer("a.u32") == 7);
  REQUIRE(file.integer("a.u64") == std::int64_t{1} << 40);
  REQUIRE(file.integer("a.i32") == -3);
  REQUIRE(file.number("a.f32") == 0.5);
  REQUIRE(file.number("a.i32") == -3.0);
  REQUIRE(file.boolean("a.bool") == true);
  REQUIRE(file.texts("a.texts").value() == std::vector<std::string_view>{"one", "",
                                                                         "dr\xC3\xBC"
                                                                         "ber"});
  REQUIRE(file.numbers("a.floats").value() == std::vector<float>{1, -2});
  REQUIRE(file.integers("a.integers").value() == std::vector<std::int32_t>{1, -2, 3});
  REQUIRE(!file.integer("absent"));
  REQUIRE_ERROR(file.integer("a.f32"), format, "'a.f32' is not an integer");
  REQUIRE_ERROR(file.texts("a.floats"), format, "'a.floats' is not an array of texts");
  REQUIRE_ERROR(file.numbers("a.integers"), format, "not an array of floats");

  REQUIRE(file.read_matrix<float>(*file.find("F32")) == values);
  REQUIRE(file.read_matrix<double>(*file.find("vector")) == vector);
  auto const error = [&](char const* name) {
    Tensor const& tensor = *file.find(name);
    REQUIRE(describe(tensor) == std::string(name) + " [5, 96]");
    RowMatrix<float> const read = file.read_matrix<float>(tensor);
    REQUIRE(read.cast<double>() == file.read_matrix<double>(tensor));
    return static_cast<double>((read - values).norm() / values.norm());
  };
  REQUIRE(error("F16") < 3e-4);
  REQUIRE(error("BF16") < 3e-3);
  REQUIRE(error("Q8_0") < 0.01);
  REQUIRE(error("Q4_0") < 0.12);
  for (Tensor const& tensor : file.tensors())
    REQUIRE((tensor.bytes.data() - file.tensors()[0].bytes.data()) % 32 == 0);
}

TEST_CASE("rows of interleaved heads come back in the order of the model") {
  TemporaryFolder const folder;
  RowMatrix<float> stored(8, 2);  // two heads of four
  for (index_t row = 0; row < 8; ++row) stored.row(row).setConstant(static_cast<float>(row));
  GgufWriter writer(folder / "x.gguf", {}, {{"w", Dtype::f32, {8, 2}}, {"b", Dtype::f32, {8}}});
  writer.append("w", MatrixView<float const>(stored));
  RowMatrix<float> const column = stored.col(0).transpose();
  writer.append("b", MatrixView<float const>(column));
  writer.commit();
  GgufFile const file(folder / "x.gguf");
  Tensor weight = *file.find("w"), bias = *file.find("b");
  weight.interleaved_heads = bias.interleaved_heads = 2;
  std::vector<float> const expected{0, 2, 1, 3, 4, 6, 5, 7};
  RowMatrix<float> const rows = file.read_matrix<float>(weight), b = file.read_matrix<float>(bias);
  for (index_t row = 0; row < 8; ++row) {
    REQUIRE(rows(row, 1) == expected[static_cast<std::size_t>(row)]);
    REQUIRE(b(0, row) == expected[static_cast<std::size_t>(row)]);
  }
  REQUIRE(file.read_rows<float>(weight, 4, 4) == rows.bottomRows(4));
  REQUIRE_INVALID(file.read_rows<float>(weight, 2, 4), "no whole heads of 4");
  REQUIRE_INVALID(file.read_rows<float>(weight, 4, 8), "rows 4 to 12 are not in it");
  weight.interleaved_heads = 0;
  weight.added = 2;
  REQUIRE(file.read_rows<double>(weight, 3, 2) ==
          RowMatrix<double>(stored.middleRows(3, 2).cast<double>().array() - 2));
}

TEST_CASE("a renamed GGUF file keeps its data, and refuses a name twice") {
  TemporaryFolder const folder;
  {
    GgufWriter writer(folder / "x.gguf", {}, {{"a", Dtype::f32, {2}}, {"b", Dtype::f32, {1}}});
    RowMatrix<float> const values = RowMatrix<float>::Ones(1, 2);
    writer.append("a", MatrixView<float const>(values));
    writer.append("b", MatrixView<float const>(values).columns(0, 1));
    writer.commit();
  }
  GgufFile file(folder / "x.gguf"), other(folder / "x.gguf");
  std::vector<Tensor> tensors(file.tensors().begin(), file.tensors().end());
  tensors[0].name = "z";
  TensorFile const renamed = std::move(file).renamed(tensors);
  REQUIRE(renamed.find("z")->shape[0] == 2);
  REQUIRE(renamed.read_matrix<float>(*renamed.find("b"))(0, 0) == 1);
  REQUIRE(renamed.find("a") == nullptr);
  tensors.assign(other.tensors().begin(), other.tensors().end());
  tensors[0].name = "b";
  REQUIRE_ERROR(std::move(other).renamed(tensors), format, "two tensors are the 'b'");
}

TEST_CASE("the GGUF writer gives the same bytes for the same declarations, and those of the format") {
  TemporaryFolder const folder;
  GgufWriter writer(folder / "x.gguf", {{"k", std::uint32_t{5}}}, {{"t", Dtype::f32, {1, 2}}});
  RowMatrix<float> const values = RowMatrix<float>::Zero(1, 2);
  writer.append("t", MatrixView<float const>(values));
  writer.commit();
  REQUIRE(read_bytes(folder / "x.gguf") ==
          GgufBytes().begin(1, 1).key_u32("k", 5).tensor("t", 2, 1, 0, 0).pad().zeros(32).bytes);
}

TEST_CASE("the GGUF writer refuses what a reader would") {
  TemporaryFolder const folder;
  fs::path const file = folder / "x.gguf";
  using Tensors = std::vector<TensorInfo>;
  REQUIRE_INVALID(GgufWriter(file, {{"k y", true}}, {}), "'k y'");
  REQUIRE_INVALID(GgufWriter(file, {{"k", true}, {"k", false}}, {}), "given twice");
  REQUIRE_INVALID(GgufWriter(file, {{"general.alignment", std::uint32_t{64}}}, {}), "always 32");
  REQUIRE_INVALID(GgufWriter(file, {}, Tensors{{std::string(64, 'a'), Dtype::f32, {1}}}), "1 to 63 bytes");
  REQUIRE_INVALID(GgufWriter(file, {}, Tensors{{"a", Dtype::f32, {}}}), "0 dimensions");
  REQUIRE_INVALID(GgufWriter(file, {}, Tensors{{"a", Dtype::i64, {1}}}), "choose F32");
  REQUIRE_INVALID(GgufWriter(file, {}, Tensors{{"a", Dtype::q8_0, {4, 33}}}), "whole number of blocks");
  REQUIRE_INVALID(GgufWriter(file, {}, Tensors{{"a", Dtype::f32, {1}}, {"a", Dtype::f32, {1}}}),
                  "declared twice");
  GgufWriter writer(file, {}, {{"a", Dtype::q8_0, {1, 32}}});
  RowMatrix<float> values = RowMatrix<float>::Ones(1, 32);
  REQUIRE_INVALID(writer.append("a", MatrixView<float const>(values).columns(0, 16)), "rows of 16 values");
  REQUIRE_INVALID(writer.verify(), "got 0 of 34 bytes");
  values(0, 3) = std::nanf("");
  REQUIRE_ERROR(writer.append("a", MatrixView<float const>(values)), numerics, "not finite");
  REQUIRE(folder.entries() == 1);  // the temporary of `writer`
}

TEST_CASE("a damaged scale of a block is found") {
  TemporaryFolder const folder;
  GgufWriter writer(folder / "x.gguf", {}, {{"a", Dtype::q8_0, {2, 32}}});
  std::string bytes(68, '\1');
  bytes[35] = '\x7C';
  bytes[34] = '\0';
  writer.append_bytes("a", std::as_bytes(std::span(bytes)));
  writer.commit();
  GgufFile const file(folder / "x.gguf");
  REQUIRE_ERROR(file.read_matrix<float>(*file.find("a")), format, "row 1, column 0");
}
