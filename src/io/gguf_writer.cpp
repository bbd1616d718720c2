// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <set>
#include <type_traits>
#include <utility>

#include <dartquant/core/error.hpp>
#include <dartquant/io/gguf.hpp>

#include "io/gguf_format.hpp"
#include "io/posix.hpp"

namespace dartquant {
namespace {

using detail::printable;
using detail::require;

template <class T>
void put(std::string& out, T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  out.append(reinterpret_cast<char const*>(&value), sizeof value);
}
void put_text(std::string& out, std::string_view text) {
  put(out, static_cast<std::uint64_t>(text.size()));
  out += text;
}
void put_type(std::string& out, GgufType type) { put(out, static_cast<std::uint32_t>(type)); }

template <class T>
constexpr GgufType type_of() {
  if constexpr (std::is_same_v<T, std::uint32_t>) return GgufType::u32;
  else if constexpr (std::is_same_v<T, std::uint64_t>) return GgufType::u64;
  else if constexpr (std::is_same_v<T, std::int32_t>) return GgufType::i32;
  else if constexpr (std::is_same_v<T, float>) return GgufType::f32;
  else if constexpr (std::is_same_v<T, bool>) return GgufType::boolean;
  else return GgufType::text;
}

template <class T>
void put_element(std::string& out, T const& value) {
  if constexpr (std::is_same_v<T, std::string>) put_text(out, value);
  else if constexpr (std::is_same_v<T, bool>) put(out, static_cast<std::uint8_t>(value));
  else put(out, value);
}

template <class T>
void put_value(std::string& out, T const& value) {
  put_type(out, type_of<T>());
  put_element(out, value);
}
template <class T>
void put_value(std::string& out, std::vector<T> const& values) {
  put_type(out, GgufType::array);
  put_type(out, type_of<T>());
  put(out, static_cast<std::uint64_t>(values.size()));
  for (T const& value : values) put_element(out, value);
}

void put_metadata(std::string& out, std::vector<GgufEntry> const& metadata) {
  std::set<std::string_view> seen;
  for (GgufEntry const& entry : metadata) {
    require(detail::is_gguf_key(entry.key), "[GgufWriter] the key '", printable(entry.key),
            "': use letters, digits, '_', '-' and '.'");
    require(seen.insert(entry.key).second, "[GgufWriter] the key '", entry.key, "' is given twice");
    require(entry.key != "general.alignment", "[GgufWriter] the alignment is always 32");
    put_text(out, entry.key);
    std::visit([&](auto const& value) { put_value(out, value); }, entry.value);
  }
}

std::uint32_t type_id(TensorInfo const& info) {
  auto const type = std::find_if(detail::gguf_tensor_types.begin(), detail::gguf_tensor_types.end(),
                                 [&](auto const& t) { return t.dtype == info.dtype; });
  require(type != detail::gguf_tensor_types.end(), "[GgufWriter] tensor '", printable(info.name), "' is ",
          to_string(info.dtype), ": choose F32, F16, BF16, Q8_0 or Q4_0");
  return type->id;
}

/// The tensors with their places, and the bytes before the data.
template <class Layout>
Layout layout_of(std::vector<GgufEntry> const& metadata, std::vector<TensorInfo>&& tensors) {
  Layout layout;
  std::string& head = layout.head;
  head = detail::gguf_magic;
  put(head, detail::gguf_version);
  put(head, static_cast<std::uint64_t>(tensors.size()));
  put(head, static_cast<std::uint64_t>(metadata.size()));
  put_metadata(head, metadata);
  std::uint64_t end = 0;
  for (TensorInfo& info : tensors) {
    require(!info.name.empty() && info.name.size() < detail::gguf_longest_name, "[GgufWriter] tensor '",
            printable(info.name), "': names have 1 to ", detail::gguf_longest_name - 1, " bytes");
    require(!info.shape.empty() && info.shape.size() <= detail::gguf_largest_rank, "[GgufWriter] tensor '",
            printable(info.name), "' has ", info.shape.size(), " dimensions: 1 to ",
            detail::gguf_largest_rank, " are allowed");
    put_text(head, info.name);
    put(head, static_cast<std::uint32_t>(info.shape.size()));
    for (auto size = info.shape.rbegin(); size != info.shape.rend(); ++size)
      put(head, static_cast<std::uint64_t>(*size));
    put(head, type_id(info));
    put(head, end);
    std::uint64_t const bytes = byte_size(info);
    layout.tensors.push_back({std::move(info), end});
    bool const overflow = __builtin_add_overflow(end, bytes, &end);
    std::optional<std::uint64_t> const next = detail::aligned(end, detail::gguf_default_alignment);
    require(!overflow && next, "[GgufWriter] more than 2^64 bytes of data");
    end = *next;
  }
  constexpr auto alignment = static_cast<std::size_t>(detail::gguf_default_alignment);
  head.resize((head.size() + alignment - 1) / alignment * alignment, '\0');
  for (auto& tensor : layout.tensors) tensor.begin += head.size();
  require(!__builtin_add_overflow(end, head.size(), &layout.total),
          "[GgufWriter] more than 2^64 bytes of data");
  return layout;
}

}  // namespace

GgufWriter::GgufWriter(std::filesystem::path const& path, std::vector<GgufEntry> const& metadata,
                       std::vector<TensorInfo> tensors)
    : TensorWriter("GgufWriter", path, layout_of<Layout>(metadata, std::move(tensors))) {}

TensorFile GgufWriter::open(std::filesystem::path const& path) const { return GgufFile(path); }

}  // namespace dartquant
