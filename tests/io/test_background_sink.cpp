// SPDX-License-Identifier: Apache-2.0
#include "../../src/io/background_sink.hpp"

#include <cstring>
#include <string>
#include <vector>

#include "files.hpp"

using namespace dartquant;

namespace {

/// Remembers what it was given; throws at a tensor named "bad".
class Record final : public TensorSink {
 public:
  void append(std::string_view name, MatrixView<float const> values) override { note(name, values(0, 0)); }
  void append(std::string_view name, MatrixView<double const> values) override { note(name, values(0, 0)); }
  void append_bytes(std::string_view name, std::span<std::byte const> bytes) override {
    note(name, std::to_integer<int>(bytes[0]));
  }
  std::vector<std::string> names;
  std::vector<double> first_values;

 private:
  void note(std::string_view name, double value) {
    if (name == "bad") detail::fail(Error::Kind::io, "the disk is full");
    names.emplace_back(name);
    first_values.push_back(value);
  }
};

}  // namespace

TEST_CASE("a background sink hands on every value in order, copied", "[io][threads]") {
  for (int const threads : {1, 2}) {
    Record record;
    {
      detail::BackgroundSink sink(record, threads);
      RowMatrix<double> doubles(300, 300);
      RowMatrix<float> floats(1, 1);
      std::vector<std::byte> bytes(1);
      for (int i = 0; i < 300; ++i) {  // 72 kB each and more than may wait together
        doubles(0, 0) = i;
        floats(0, 0) = static_cast<float>(i) + 0.25f;
        bytes[0] = static_cast<std::byte>(i % 256);
        sink.append("d", MatrixView<double const>(doubles));
        sink.append("f", MatrixView<float const>(floats));
        sink.append_bytes("b", bytes);
        sink.append("moved", RowMatrix<double>(doubles));
      }
      sink.finish();
      REQUIRE(record.first_values.size() == 1200);
    }
    for (std::size_t i = 0; i < 300; ++i) {
      CHECK(record.names[4 * i] == "d");
      CHECK(record.first_values[4 * i] == static_cast<double>(i));
      CHECK(record.first_values[4 * i + 1] == static_cast<double>(i) + 0.25);
      CHECK(record.first_values[4 * i + 2] == static_cast<double>(i % 256));
      CHECK(record.first_values[4 * i + 3] == static_cast<double>(i));
    }
  }
}

TEST_CASE("an error of the sink behind reaches the caller, and nothing after it is handed on",
          "[io][threads][bad]") {
  for (int const threads : {1, 2}) {
    Record record;
    detail::BackgroundSink sink(record, threads);
    RowMatrix<double> const values = RowMatrix<double>::Ones(1, 1);
    auto const run = [&] {
      sink.append("good", MatrixView<double const>(values));
      sink.append("bad", MatrixView<double const>(values));
      sink.finish();
    };
    REQUIRE_ERROR(run(), io, "the disk is full");
    if (threads > 1)
      REQUIRE_ERROR(sink.append("late", MatrixView<double const>(values)), io, "the disk is full");
    CHECK(record.names == std::vector<std::string>{"good"});
  }
}

TEST_CASE("a background sink that is left early stops", "[io][threads]") {
  Record record;
  {
    detail::BackgroundSink sink(record, 2);
    RowMatrix<double> const values = RowMatrix<double>::Ones(1000, 1000);
    for (int i = 0; i < 20; ++i) sink.append("d", MatrixView<double const>(values));
  }
  CHECK(record.names.size() <= 20);
}
