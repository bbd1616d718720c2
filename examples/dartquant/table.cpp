// SPDX-License-Identifier: Apache-2.0
#include "table.hpp"

#include <algorithm>
#include <utility>

#include "terminal.hpp"

namespace dartquant::program {

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {
  Row titles;
  for (Column const& column : columns_) titles.cells.push_back(column.title);
  rows_.push_back(std::move(titles));
}

void Table::add_row(std::vector<std::string> cells, Style style) {
  cells.resize(columns_.size());
  rows_.push_back({std::move(cells), style, false});
}

void Table::add_heading(std::string text) { rows_.push_back({{std::move(text)}, Style::plain, true}); }

std::vector<std::size_t> Table::widths() const {
  std::vector<std::size_t> result(columns_.size());
  for (Row const& row : rows_)
    for (std::size_t i = 0; i < row.cells.size() && !row.heading; ++i)
      result[i] = std::max(result[i], display_width(row.cells[i]));
  return result;
}

std::string Table::text() const {
  std::vector<std::size_t> const width = widths();
  std::string result;
  for (Row const& row : rows_) {
    std::string line;
    for (std::size_t i = 0; i < row.cells.size(); ++i) {
      std::size_t const used = display_width(row.cells[i]);
      std::string const padding(row.heading || used > width[i] ? 0 : width[i] - used, ' ');
      if (i > 0) line += "  ";
      line += columns_[i].align == Align::left ? row.cells[i] + padding : padding + row.cells[i];
    }
    line.erase(line.find_last_not_of(' ') + 1);
    result += row.style == Style::bold ? bold(line) : line;
    result += '\n';
  }
  return result;
}

}  // namespace dartquant::program
