// SPDX-License-Identifier: Apache-2.0
#pragma once

// Bytes in text: lines `name = 0a 1b ...`, continued on indented lines, as in tests/data/int4 and in the code
// blocks of docs/int4_format.md.

#include <cctype>
#include <cstdint>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace kernel_test {

using Bytes = std::vector<std::uint8_t>;

/// Lines that do not look like this are passed over.
[[nodiscard]] inline std::map<std::string, Bytes> read_golden(std::string const& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot open " + path);
  std::map<std::string, Bytes> found;
  Bytes* current = nullptr;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    if (line.rfind("  ", 0) != 0) {  // a name or text
      std::string name, equals;
      words >> name >> equals;
      current = equals == "=" ? &found[name] : nullptr;
    }
    for (std::string byte; current != nullptr && words >> byte;)
      if (byte.size() == 2 && std::isxdigit(byte[0]) != 0 && std::isxdigit(byte[1]) != 0)
        current->push_back(static_cast<std::uint8_t>(std::stoul(byte, nullptr, 16)));
      else current = nullptr;  // a sentence with an equals sign
  }
  return found;
}

template <class T>
[[nodiscard]] Bytes bytes_of(std::vector<T> const& values) {
  auto const* const first = reinterpret_cast<std::uint8_t const*>(values.data());
  return {first, first + values.size() * sizeof(T)};
}

}  // namespace kernel_test
