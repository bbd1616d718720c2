// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/tensor_writer.hpp>

#include <fstream>
#include <limits>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/io/safetensors.hpp>

#include "files.hpp"

using namespace dartquant;
using namespace dartquant::test;

TEST_CASE("rows from several threads in any order give the same bytes", "[tensor_writer][threads]") {
  TemporaryFolder const folder;
  RowMatrix<double> const W = RowMatrix<double>::Random(700, 333);  // more than one piece
  std::vector<TensorInfo> const tensors{{"a", Dtype::bf16, {700, 333}}, {"cube", Dtype::f16, {7, 100, 333}}};
  SafetensorsWriter first(folder / "1", tensors);
  first.append("a", W);
  first.append("cube", W);
  first.commit();
  for (int const threads : {1, 4}) {
    SafetensorsWriter second(folder / "2", tensors);
    Cpu(threads).parallel_for(700, 9, [&](index_t begin, index_t end) {
      index_t const from = 700 - end, count = end - begin;
      second.write_rows("a", from, MatrixView<double const>(W).rows(from, count));
      second.write_rows("cube", from, MatrixView<double const>(W).rows(from, count));
    });
    second.verify(threads);
    second.commit();
    REQUIRE(read_bytes(folder / "1") == read_bytes(folder / "2"));
  }
}

TEST_CASE("rows that are not there, are missing or come twice are refused", "[tensor_writer]") {
  TemporaryFolder const folder;
  RowMatrix<float> const W = RowMatrix<float>::Random(4, 3);
  SafetensorsWriter writer(folder / "w", {{"a", Dtype::f32, {4, 3}}});
  REQUIRE_INVALID(writer.write_rows("b", 0, W), "'b' was not declared");
  REQUIRE_INVALID(writer.write_rows("a", 1, W),
                  "tensor 'a': 4 rows from row 1 on do not fit into its 4 rows of 3 values");
  REQUIRE_INVALID(writer.write_rows("a", -1, W), "4 rows from row -1 on");
  REQUIRE_INVALID(writer.write_rows("a", std::numeric_limits<index_t>::max(), W), "do not fit");
  REQUIRE_INVALID(writer.write_rows("a", 0, RowMatrix<float>::Ones(3, 2).eval()), "declared with 3");
  writer.write_rows("a", 2, W.topRows(2));
  REQUIRE_INVALID(writer.verify(), "tensor 'a' got 24 of 48 bytes");
  REQUIRE_INVALID(writer.write_rows("a", 1, W.topRows(2)),
                  "tensor 'a': some of its bytes 12 to 36 were written");
  REQUIRE_INVALID(writer.write_rows("a", 3, W.topRows(1)), "were written before");
  writer.write_rows("a", 0, W.topRows(1));
  REQUIRE_INVALID(writer.verify(), "tensor 'a' got 36 of 48 bytes");
  REQUIRE_INVALID(writer.write_rows("a", 0, W), "some of its bytes 0 to 48 were written before");
  REQUIRE(!fs::exists(folder / "w"));
}

TEST_CASE("damage between writing and reading back is found", "[tensor_writer]") {
  TemporaryFolder const folder;
  RowMatrix<float> const W = RowMatrix<float>::Random(100, 100);
  SafetensorsWriter writer(folder / "w", {{"w", Dtype::f32, {100, 100}}});
  writer.append("w", W);
  std::fstream file(writer.temporary_path(), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(20000);
  file.put('\x55').put('\xAA').flush();
  REQUIRE_ERROR(writer.commit(), io, "tensor 'w' reads back differently");
  REQUIRE(!fs::exists(folder / "w"));
}

TEST_CASE("damage is found by the thread that reads back meanwhile", "[tensor_writer][threads]") {
  TemporaryFolder const folder;
  RowMatrix<float> const W = RowMatrix<float>::Random(1024, 1024);
  for (bool const damaged : {false, true}) {
    SafetensorsWriter writer(folder / "w", {{"w", Dtype::f32, {32 * 1024, 1024}}});  // 134 MB: several rounds
    writer.read_back_meanwhile();
    for (index_t block = 0; block < 32; ++block) {
      writer.append("w", W);
      if (!damaged || block != 3) continue;
      std::fstream file(writer.temporary_path(), std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(2'000'000);
      file.put('\x55').put('\xAA').flush();
    }
    if (damaged) REQUIRE_ERROR(writer.verify(2), io, "tensor 'w' reads back differently");
    else writer.verify(2);
  }
  REQUIRE(folder.entries() == 0);
}
