// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace dartquant::test {

/// Bytes of a GGUF file, field by field, so that any of them can be wrong.
class GgufBytes {
 public:
  template <class T>
  GgufBytes& put(T value) {
    bytes.append(reinterpret_cast<char const*>(&value), sizeof value);
    return *this;
  }
  GgufBytes& u32(std::uint32_t value) { return put(value); }
  GgufBytes& u64(std::uint64_t value) { return put(value); }
  GgufBytes& text(std::string_view value) {
    u64(value.size());
    bytes += value;
    return *this;
  }
  /// Magic, version, counts.
  GgufBytes& begin(std::uint64_t tensors, std::uint64_t entries, std::uint32_t version = 3) {
    bytes += "GGUF";
    return u32(version).u64(tensors).u64(entries);
  }
  GgufBytes& key_u32(std::string_view key, std::uint32_t value) { return text(key).u32(4).u32(value); }
  GgufBytes& key_text(std::string_view key, std::string_view value) { return text(key).u32(8).text(value); }
  GgufBytes& key_array(std::string_view key, std::uint32_t element, std::uint64_t count) {
    return text(key).u32(9).u32(element).u64(count);
  }
  /// Two dimensions, innermost first.
  GgufBytes& tensor(std::string_view name, std::uint64_t columns, std::uint64_t rows, std::uint32_t type,
                    std::uint64_t offset) {
    return text(name).u32(2).u64(columns).u64(rows).u32(type).u64(offset);
  }
  GgufBytes& pad(std::size_t alignment = 32) {
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment, '\0');
    return *this;
  }
  GgufBytes& zeros(std::size_t count) {
    bytes.append(count, '\0');
    return *this;
  }
  operator std::string_view() const { return bytes; }

  std::string bytes;
};

}  // namespace dartquant::test
