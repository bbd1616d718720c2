// SPDX-License-Identifier: Apache-2.0
#include "io/safetensors_header.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>

#include <dartquant/core/error.hpp>

#include "io/json_scanner.hpp"
#include "io/posix.hpp"
#include "io/tensor_values.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

/// One tensor as it stands in the header; the name still holds its escapes.
struct Entry {
  std::string_view raw_name;
  Dtype dtype = Dtype::f32;
  std::array<index_t, largest_rank> shape{};
  std::size_t rank = 0;
  std::uint64_t begin = 0, end = 0;
};

/// The decoded string when it is short enough to be one of the names that the format knows.
class ShortString {
 public:
  explicit ShortString(std::string_view raw) {
    if (raw.size() <= text_.size())
      size_ = static_cast<std::size_t>(decode_json_string(raw, text_.data()) - text_.data());
  }
  [[nodiscard]] std::string_view view() const { return {text_.data(), size_}; }

 private:
  std::array<char, 96> text_;
  std::size_t size_ = 0;
};

/// Reads the header and sends each tensor and each pair of metadata to the sink. It runs twice: first to
/// count, then to store in arrays of exactly that size, so that memory stays below twice the header.
template <class Sink>
class HeaderReader {
 public:
  HeaderReader(std::string_view text, std::string const& source, Sink& sink)
      : scan_(text, source), source_(source), sink_(sink) {}

  void read() {
    bool metadata_seen = false;
    members([&](std::string_view key) {
      if (ShortString(key).view() != "__metadata__") return tensor(key);
      if (std::exchange(metadata_seen, true)) scan_.refuse("'__metadata__' appears twice");
      std::size_t entries = 0;
      members([&](std::string_view name) {
        if (++entries > most_metadata_entries)
          fail(Kind::unsupported, source_, ": more than ", most_metadata_entries,
               " entries in '__metadata__'");
        sink_.metadata(name, scan_.string());
      });
    });
    scan_.expect_end();
  }

 private:
  /// An object: `value(key)` must consume the value of each member.
  template <class Value>
  void members(Value const& value) {
    scan_.expect('{');
    if (scan_.accept('}')) return;
    do {
      std::string_view const key = scan_.string();
      scan_.expect(':');
      value(key);
    } while (scan_.accept(','));
    scan_.expect('}');
  }

  void tensor(std::string_view name) {
    Entry entry{.raw_name = name};
    std::array<bool, 3> seen{};
    members([&](std::string_view raw_key) {
      constexpr std::array<std::string_view, 3> keys{"dtype", "shape", "data_offsets"};
      auto const key = std::find(keys.begin(), keys.end(), ShortString(raw_key).view());
      if (key == keys.end())
        scan_.refuse(
            sentence("tensor '", printable(name), "' has the unknown key '", printable(raw_key), "'"));
      auto const which = static_cast<std::size_t>(key - keys.begin());
      if (std::exchange(seen[which], true))
        scan_.refuse(sentence("tensor '", printable(name), "' has the key '", *key, "' twice"));
      if (which == 0) dtype(entry);
      if (which == 1) shape(entry);
      if (which == 2) offsets(entry);
    });
    if (!(seen[0] && seen[1] && seen[2]))
      fail(Kind::format, source_, ": tensor '", printable(name), "' lacks dtype, shape or data_offsets");
    sink_.tensor(entry);
  }

  void dtype(Entry& entry) {
    std::string_view const raw = scan_.string();
    std::optional<Dtype> const known = parse_dtype(ShortString(raw).view());
    if (!known || block_elements(*known) > 1)
      fail(Kind::unsupported, source_, ": tensor '", printable(entry.raw_name), "' has the unknown dtype '",
           printable(raw), "'");
    entry.dtype = *known;
  }

  void shape(Entry& entry) {
    scan_.expect('[');
    if (scan_.accept(']')) return;
    do {
      if (entry.rank == largest_rank)
        fail(Kind::unsupported, source_, ": tensor '", printable(entry.raw_name), "' has more than ",
             largest_rank, " dimensions");
      std::uint64_t const size = scan_.unsigned_integer("a dimension of a shape");
      if (!std::in_range<index_t>(size))
        fail(Kind::format, source_, ": tensor '", printable(entry.raw_name), "' has a dimension of ", size);
      entry.shape[entry.rank++] = static_cast<index_t>(size);
    } while (scan_.accept(','));
    scan_.expect(']');
  }

  void offsets(Entry& entry) {
    scan_.expect('[');
    entry.begin = scan_.unsigned_integer("the begin of data_offsets");
    scan_.expect(',');
    entry.end = scan_.unsigned_integer("the end of data_offsets");
    scan_.expect(']');
  }

  JsonScanner scan_;
  std::string const& source_;
  Sink& sink_;
};

struct Counter {
  std::size_t tensors = 0, name_bytes = 0, dimensions = 0;
  void tensor(Entry const& entry) {
    ++tensors;
    name_bytes += entry.raw_name.size();
    dimensions += entry.rank;
  }
  void metadata(std::string_view, std::string_view) {}
};

class Store {
 public:
  Store(Counter const& count, std::span<std::byte const> data, std::string const& source)
      : data_(data), source_(source) {
    header.table.names.resize(count.name_bytes);
    header.table.dimensions.reserve(count.dimensions);
    header.table.tensors.reserve(count.tensors);
    name_end_ = header.table.names.data();
  }

  void tensor(Entry const& entry) {
    char* const begin = name_end_;
    name_end_ = decode_json_string(entry.raw_name, name_end_);
    std::string_view const name(begin, static_cast<std::size_t>(name_end_ - begin));
    std::span<index_t const> const dimensions = std::span(entry.shape).first(entry.rank);
    auto const shown = [&] { return sentence(source_, ": tensor '", printable(name), "'"); };
    if (entry.begin > entry.end || entry.end > data_.size())
      fail(Kind::format, shown(), " lies at bytes [", entry.begin, ", ", entry.end, ") of ", data_.size(),
           " bytes of data");
    std::optional<std::uint64_t> const size = checked_byte_size(entry.dtype, dimensions);
    if (!size)
      fail(Kind::format, shown(), ": its shape is too large, or its size is no whole number of bytes");
    if (*size != entry.end - entry.begin)
      fail(Kind::format, shown(), ": its shape and dtype need ", *size, " bytes, but its data_offsets hold ",
           entry.end - entry.begin);
    // Never reallocates (see the constructor), so that spans into it stay valid.
    std::size_t const first = header.table.dimensions.size();
    header.table.dimensions.insert(header.table.dimensions.end(), dimensions.begin(), dimensions.end());
    header.table.tensors.push_back({.name = name,
                                    .dtype = entry.dtype,
                                    .shape = std::span(header.table.dimensions).subspan(first),
                                    .bytes = data_.subspan(entry.begin, *size)});
  }

  void metadata(std::string_view raw_key, std::string_view raw_value) {
    if (!header.metadata.emplace(decoded(raw_key), decoded(raw_value)).second)
      fail(Kind::format, source_, ": the key '", printable(raw_key), "' appears twice in '__metadata__'");
  }

  SafetensorsHeader header;

 private:
  static std::string decoded(std::string_view raw) {
    std::string text(raw.size(), '\0');
    text.resize(static_cast<std::size_t>(decode_json_string(raw, text.data()) - text.data()));
    return text;
  }

  std::span<std::byte const> data_;
  std::string const& source_;
  char* name_end_ = nullptr;
};

/// The ranges must follow each other from the first byte of the data to its last.
void check_coverage(std::vector<Tensor>& tensors, std::span<std::byte const> data,
                    std::string const& source) {
  std::sort(tensors.begin(), tensors.end(), [](Tensor const& a, Tensor const& b) {
    return std::pair(a.bytes.data(), a.bytes.size()) < std::pair(b.bytes.data(), b.bytes.size());
  });
  std::byte const* next = data.data();
  for (Tensor const& tensor : tensors) {
    if (tensor.bytes.data() != next)
      fail(Kind::format, source, ": tensor '", printable(tensor.name), "' begins at byte ",
           tensor.bytes.data() - data.data(), " of the data, but the tensor before it ends at byte ",
           next - data.data(), tensor.bytes.data() < next ? ": they overlap" : ": there is a hole");
    next += tensor.bytes.size();
  }
  if (next != data.data() + data.size())
    fail(Kind::format, source, ": ", data.data() + data.size() - next,
         " bytes after the last tensor belong to none; the file is damaged");
}

std::vector<std::uint32_t> sorted_names(std::vector<Tensor> const& tensors, std::string const& source) {
  std::vector<std::uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return tensors[a].name < tensors[b].name; });
  auto const twice = std::adjacent_find(order.begin(), order.end(),
                                        [&](auto a, auto b) { return tensors[a].name == tensors[b].name; });
  if (twice != order.end())
    fail(Kind::format, source, ": the tensor '", printable(tensors[*twice].name), "' appears twice");
  return order;
}

}  // namespace

SafetensorsHeader parse_safetensors(std::span<std::byte const> file, std::string const& source) {
  if (file.size() < 8)
    fail(Kind::format, source, ": ", file.size(), " bytes are too few for a safetensors file; it is damaged");
  std::uint64_t length = 0;
  for (std::size_t i = 8; i-- > 0;) length = length << 8 | std::to_integer<std::uint64_t>(file[i]);
  if (length > largest_header)
    fail(Kind::format, source, ": a header of ", length, " bytes, more than the ", largest_header,
         " that the format allows; this is no safetensors file");
  std::uint64_t data_begin = 0;
  if (__builtin_add_overflow(length, std::uint64_t{8}, &data_begin) || data_begin > file.size())
    fail(Kind::format, source, ": a header of ", length, " bytes in a file of ", file.size(),
         "; the file is truncated");
  std::string_view const text(reinterpret_cast<char const*>(file.data()) + 8,
                              static_cast<std::size_t>(length));
  if (!is_utf8(text)) fail(Kind::format, source, ": the header is not valid UTF-8");

  Counter count;
  HeaderReader(text, source, count).read();
  std::span<std::byte const> const data = file.subspan(static_cast<std::size_t>(data_begin));
  Store store(count, data, source);
  HeaderReader(text, source, store).read();
  check_coverage(store.header.table.tensors, data, source);
  store.header.table.by_name = sorted_names(store.header.table.tensors, source);
  return std::move(store.header);
}

}  // namespace dartquant::detail
