// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace dartquant::program {

/// A text table: columns as wide as their widest cell, numbers to the right, two spaces between.
class Table {
 public:
  enum class Align { left, right };
  struct Column {
    std::string title;
    Align align = Align::right;
  };
  enum class Style { plain, bold };

  explicit Table(std::vector<Column> columns);

  /// One cell per column; missing ones are empty.
  void add_row(std::vector<std::string> cells, Style style = Style::plain);
  /// A line of its own above a group of rows.
  void add_heading(std::string text);

  /// All lines, with their line ends.
  [[nodiscard]] std::string text() const;

 private:
  struct Row {
    std::vector<std::string> cells;
    Style style = Style::plain;
    bool heading = false;
  };
  [[nodiscard]] std::vector<std::size_t> widths() const;

  std::vector<Column> columns_;
  std::vector<Row> rows_;
};

}  // namespace dartquant::program
