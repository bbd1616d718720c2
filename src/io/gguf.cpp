// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/gguf.hpp>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>

#include <dartquant/core/error.hpp>

#include "io/gguf_format.hpp"
#include "io/posix.hpp"

namespace dartquant {
namespace {

using detail::fail;
using detail::printable;
using Kind = Error::Kind;

template <class T>
T load(GgufValue const& value, std::size_t i) {
  T result;
  std::memcpy(&result, value.bytes.data() + i * sizeof(T), sizeof(T));
  return result;
}

bool is_integer(GgufType type) {
  return type <= GgufType::i32 || type == GgufType::u64 || type == GgufType::i64;
}
bool is_number(GgufType type) { return is_integer(type) || type == GgufType::f32 || type == GgufType::f64; }
bool is_boolean(GgufType type) { return type == GgufType::boolean; }
bool is_text(GgufType type) { return type == GgufType::text; }

/// Nothing for a u64 beyond the signed range.
std::optional<std::int64_t> integer_at(GgufValue const& value, std::size_t i) {
  switch (value.element) {
    case GgufType::u8:
      return load<std::uint8_t>(value, i);
    case GgufType::i8:
      return load<std::int8_t>(value, i);
    case GgufType::u16:
      return load<std::uint16_t>(value, i);
    case GgufType::i16:
      return load<std::int16_t>(value, i);
    case GgufType::u32:
      return load<std::uint32_t>(value, i);
    case GgufType::i32:
      return load<std::int32_t>(value, i);
    case GgufType::i64:
      return load<std::int64_t>(value, i);
    default: {
      auto const number = load<std::uint64_t>(value, i);
      return std::in_range<std::int64_t>(number) ? std::optional(static_cast<std::int64_t>(number))
                                                 : std::nullopt;
    }
  }
}

double number_at(GgufValue const& value, std::size_t i) {
  if (value.element == GgufType::f32) return static_cast<double>(load<float>(value, i));
  if (value.element == GgufType::f64) return load<double>(value, i);
  if (value.element == GgufType::u64) return static_cast<double>(load<std::uint64_t>(value, i));
  return static_cast<double>(*integer_at(value, i));
}

std::string_view text_at(std::span<std::byte const>& bytes) {
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  auto const size = static_cast<std::size_t>(length);
  std::string_view const text(reinterpret_cast<char const*>(bytes.data()) + sizeof length, size);
  bytes = bytes.subspan(sizeof length + size);
  return text;
}

}  // namespace

GgufFile::GgufFile(std::filesystem::path const& path) : TensorFile(MappedFile(path)) {
  detail::GgufHeader header = detail::parse_gguf(map_.bytes(), "[GgufFile] " + path.string());
  metadata_ = std::move(header.metadata);
  table_ = std::move(header.table);
}

GgufValue const* GgufFile::find_value(std::string_view key) const noexcept {
  auto const place =
      std::lower_bound(metadata_.begin(), metadata_.end(), key,
                       [](GgufValue const& value, std::string_view wanted) { return value.key < wanted; });
  return place == metadata_.end() || place->key != key ? nullptr : &*place;
}

GgufValue const* GgufFile::find_typed(std::string_view key, bool (*wanted)(GgufType), bool array,
                                      std::string_view what) const {
  GgufValue const* const value = find_value(key);
  if (value != nullptr && ((value->type == GgufType::array) != array || !wanted(value->element)))
    fail(Kind::format, "[GgufFile] ", path().string(), ": the key '", key, "' is not ", what);
  return value;
}

std::optional<std::int64_t> GgufFile::integer(std::string_view key) const {
  GgufValue const* const value = find_typed(key, is_integer, false, "an integer");
  if (value == nullptr) return std::nullopt;
  std::optional<std::int64_t> const number = integer_at(*value, 0);
  if (!number) fail(Kind::format, "[GgufFile] ", path().string(), ": the key '", key, "' exceeds 63 bits");
  return number;
}

std::optional<double> GgufFile::number(std::string_view key) const {
  GgufValue const* const value = find_typed(key, is_number, false, "a number");
  return value == nullptr ? std::nullopt : std::optional(number_at(*value, 0));
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
  GgufValue const* const value = find_typed(key, is_boolean, false, "a boolean");
  return value == nullptr ? std::nullopt : std::optional(value->bytes[0] != std::byte{0});
}

std::optional<std::string_view> GgufFile::text(std::string_view key) const {
  GgufValue const* const value = find_typed(key, is_text, false, "a text");
  if (value == nullptr) return std::nullopt;
  std::span<std::byte const> bytes = value->bytes;
  return text_at(bytes);
}

std::optional<std::vector<std::string_view>> GgufFile::texts(std::string_view key) const {
  GgufValue const* const value = find_typed(key, is_text, true, "an array of texts");
  if (value == nullptr) return std::nullopt;
  std::vector<std::string_view> texts;
  texts.reserve(static_cast<std::size_t>(value->count));
  for (std::span<std::byte const> bytes = value->bytes; !bytes.empty();) texts.push_back(text_at(bytes));
  return texts;
}

std::optional<std::vector<float>> GgufFile::numbers(std::string_view key) const {
  auto const floats = [](GgufType type) { return type == GgufType::f32 || type == GgufType::f64; };
  GgufValue const* const value = find_typed(key, floats, true, "an array of floats");
  if (value == nullptr) return std::nullopt;
  std::vector<float> numbers(static_cast<std::size_t>(value->count));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(number_at(*value, i));
  return numbers;
}

std::optional<std::vector<std::int32_t>> GgufFile::integers(std::string_view key) const {
  GgufValue const* const value = find_typed(key, is_integer, true, "an array of integers");
  if (value == nullptr) return std::nullopt;
  std::vector<std::int32_t> integers(static_cast<std::size_t>(value->count));
  for (std::size_t i = 0; i < integers.size(); ++i) {
    std::optional<std::int64_t> const number = integer_at(*value, i);
    if (!number || !std::in_range<std::int32_t>(*number))
      fail(Kind::format, "[GgufFile] ", path().string(), ": the key '", key, "' exceeds 32 bits at element ",
           i);
    integers[i] = static_cast<std::int32_t>(*number);
  }
  return integers;
}

TensorFile GgufFile::renamed(std::vector<Tensor> const& tensors) && {
  TensorTable table;
  std::size_t name_bytes = 0, dimensions = 0;
  for (Tensor const& tensor : tensors) {
    name_bytes += tensor.name.size();
    dimensions += tensor.shape.size();
  }
  table.names.reserve(name_bytes);
  table.dimensions.reserve(dimensions);
  for (Tensor tensor : tensors) {
    std::size_t const name = table.names.size(), first = table.dimensions.size();
    table.names.insert(table.names.end(), tensor.name.begin(), tensor.name.end());
    table.dimensions.insert(table.dimensions.end(), tensor.shape.begin(), tensor.shape.end());
    tensor.name = {table.names.data() + name, tensor.name.size()};
    tensor.shape = std::span<index_t const>(table.dimensions).subspan(first);
    table.tensors.push_back(tensor);
  }
  table.by_name.resize(tensors.size());
  std::iota(table.by_name.begin(), table.by_name.end(), 0u);
  auto const name = [&](std::uint32_t i) { return table.tensors[i].name; };
  std::sort(table.by_name.begin(), table.by_name.end(), [&](auto a, auto b) { return name(a) < name(b); });
  auto const twice = std::adjacent_find(table.by_name.begin(), table.by_name.end(),
                                        [&](auto a, auto b) { return name(a) == name(b); });
  if (twice != table.by_name.end())
    fail(Kind::format, "[GgufFile] ", path().string(), ": two tensors are the '", printable(name(*twice)),
         "' of the model");
  return {std::move(map_), std::move(table)};
}

bool is_gguf(std::filesystem::path const& path) {
  auto const [file, status] = detail::open_to_read(path, "is_gguf");
  std::array<char, detail::gguf_magic.size()> magic{};
  return ::pread(file.get(), magic.data(), magic.size(), 0) == static_cast<ssize_t>(magic.size()) &&
         std::string_view(magic.data(), magic.size()) == detail::gguf_magic;
}

}  // namespace dartquant
