// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>

#include <dartquant/core/error.hpp>

#include "io/gguf_format.hpp"
#include "io/posix.hpp"
#include "io/tensor_values.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

constexpr std::size_t most_entries = 16384;
constexpr std::uint64_t smallest_entry = 8 + 1 + 4 + 1;                // key of one byte, type, value
constexpr std::uint64_t smallest_declaration = 8 + 1 + 4 + 8 + 4 + 8;  // name of one byte, one dimension

/// Bytes of one value; of a text those of its length.
std::uint64_t width_of(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean:
      return 1;
    case GgufType::u16:
    case GgufType::i16:
      return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32:
      return 4;
    default:
      return 8;
  }
}

/// Types that are known but not read, by number.
std::string name_of_tensor_type(std::uint32_t id) {
  constexpr std::array<std::pair<std::uint32_t, std::string_view>, 22> names{
      {{3, "Q4_1"},     {6, "Q5_0"},   {7, "Q5_1"},    {9, "Q8_1"},   {10, "Q2_K"},    {11, "Q3_K"},
       {12, "Q4_K"},    {13, "Q5_K"},  {14, "Q6_K"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"},
       {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},   {23, "IQ4_XS"},
       {24, "I8"},      {28, "F64"},   {39, "MXFP4"},  {40, "NVFP4"}}};
  for (auto const& [number, name] : names)
    if (number == id) return std::string(name);
  return sentence("number ", id);
}

/// What has been read so far; every step checks the bytes that remain.
class Cursor {
 public:
  Cursor(std::span<std::byte const> file, std::string const& source) : file_(file), source_(source) {}

  [[nodiscard]] std::uint64_t offset() const { return offset_; }
  void go_to(std::uint64_t offset) { offset_ = offset; }
  [[nodiscard]] std::uint64_t remaining() const { return file_.size() - offset_; }

  template <class T>
  [[nodiscard]] T take(std::string_view what) {
    T value;
    std::memcpy(&value, take_bytes(sizeof(T), what).data(), sizeof(T));
    return value;
  }
  [[nodiscard]] std::span<std::byte const> take_bytes(std::uint64_t count, std::string_view what) {
    if (count > remaining())
      fail(Kind::format, source_, ": ", what, " needs ", count, " bytes at byte ", offset_, ", but only ",
           remaining(), " remain; the file is truncated or damaged");
    auto const bytes = file_.subspan(static_cast<std::size_t>(offset_), static_cast<std::size_t>(count));
    offset_ += count;
    return bytes;
  }
  [[nodiscard]] std::string_view take_text(std::string_view what) {
    auto const length = take<std::uint64_t>(what);
    auto const bytes = take_bytes(length, what);
    return {reinterpret_cast<char const*>(bytes.data()), bytes.size()};
  }

 private:
  std::span<std::byte const> file_;
  std::uint64_t offset_ = 0;
  std::string const& source_;
};

class HeaderReader {
 public:
  HeaderReader(std::span<std::byte const> file, std::string const& source)
      : file_(file), source_(source), cursor_(file, source) {}

  GgufHeader read() {
    auto const [tensors, entries] = read_counts();
    for (std::uint64_t i = 0; i < entries; ++i) header_.metadata.push_back(read_entry());
    sort_metadata();
    read_alignment();
    count_names(tensors);
    for (std::uint64_t i = 0; i < tensors; ++i) read_declaration();
    place_tensors();
    sort_names();
    return std::move(header_);
  }

 private:
  std::pair<std::uint64_t, std::uint64_t> read_counts() {
    auto const magic = cursor_.take_bytes(gguf_magic.size(), "the magic");
    if (std::memcmp(magic.data(), gguf_magic.data(), gguf_magic.size()) != 0)
      fail(Kind::format, source_, ": it does not begin with 'GGUF'; this is no GGUF file");
    auto const version = cursor_.take<std::uint32_t>("the version");
    if (version != 0 && (version & 0xFFFF) == 0)
      fail(Kind::unsupported, source_, ": it is big-endian; only little-endian files can be read");
    if (version != 2 && version != gguf_version)
      fail(Kind::unsupported, source_, ": version ", version, "; only versions 2 and 3 can be read");
    auto const tensors = cursor_.take<std::uint64_t>("the number of tensors");
    auto const entries = cursor_.take<std::uint64_t>("the number of keys");
    if (entries > cursor_.remaining() / smallest_entry ||
        tensors > cursor_.remaining() / smallest_declaration)
      fail(Kind::format, source_, ": ", entries, " keys and ", tensors, " tensors do not fit into the ",
           cursor_.remaining(), " bytes that remain; the file is truncated or damaged");
    if (entries > most_entries)
      fail(Kind::unsupported, source_, ": ", entries, " keys; at most ", most_entries, " are read");
    header_.metadata.reserve(static_cast<std::size_t>(entries));
    return {tensors, entries};
  }

  [[nodiscard]] GgufType take_type(std::string_view key) {
    auto const id = cursor_.take<std::uint32_t>("the type of a key");
    if (id > static_cast<std::uint32_t>(GgufType::f64))
      fail(Kind::format, source_, ": key '", printable(key), "' has the unknown type ", id);
    return static_cast<GgufType>(id);
  }

  GgufValue read_entry() {
    GgufValue value;
    value.key = cursor_.take_text("a key");
    if (!is_gguf_key(value.key))
      fail(Kind::format, source_, ": the key '", printable(value.key), "' of ", value.key.size(),
           " bytes; keys are 1 to ", gguf_longest_key, " letters, digits, '_', '-' and '.'");
    value.type = value.element = take_type(value.key);
    if (value.type == GgufType::array) {
      value.element = take_type(value.key);
      if (value.element == GgufType::array)
        fail(Kind::unsupported, source_, ": key '", value.key, "' is an array of arrays");
      value.count = cursor_.take<std::uint64_t>("the length of an array");
      if (value.count > cursor_.remaining() / width_of(value.element))
        fail(Kind::format, source_, ": key '", value.key, "' has ", value.count, " elements, but only ",
             cursor_.remaining(), " bytes remain; the file is truncated or damaged");
    }
    read_elements(value);
    return value;
  }

  void read_elements(GgufValue& value) {
    std::uint64_t const begin = cursor_.offset();
    if (value.element == GgufType::text)
      for (std::uint64_t i = 0; i < value.count; ++i) static_cast<void>(cursor_.take_text(value.key));
    else static_cast<void>(cursor_.take_bytes(value.count * width_of(value.element), value.key));
    value.bytes =
        file_.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(cursor_.offset() - begin));
    if (value.element != GgufType::boolean) return;
    for (std::byte const byte : value.bytes)
      if (std::to_integer<unsigned>(byte) > 1)
        fail(Kind::format, source_, ": key '", value.key, "' is a boolean of value ",
             std::to_integer<unsigned>(byte), "; 0 and 1 are allowed");
  }

  void sort_metadata() {
    auto& all = header_.metadata;
    std::sort(all.begin(), all.end(), [](auto const& a, auto const& b) { return a.key < b.key; });
    auto const twice = std::adjacent_find(all.begin(), all.end(),
                                          [](auto const& a, auto const& b) { return a.key == b.key; });
    if (twice != all.end()) fail(Kind::format, source_, ": the key '", twice->key, "' appears twice");
  }

  void read_alignment() {
    for (GgufValue const& value : header_.metadata) {
      if (value.key != "general.alignment") continue;
      if (value.type != GgufType::u32) fail(Kind::format, source_, ": general.alignment is not of type u32");
      std::uint32_t number = 0;
      std::memcpy(&number, value.bytes.data(), sizeof number);
      if (number < 8 || number > gguf_largest_alignment || (number & (number - 1)) != 0)
        fail(Kind::format, source_, ": general.alignment ", number, "; a power of two from 8 to ",
             gguf_largest_alignment, " is needed");
      alignment_ = number;
    }
  }

  /// Runs over the declarations once without storing, so that the arrays have exactly their size.
  void count_names(std::uint64_t tensors) {
    std::uint64_t const begin = cursor_.offset();
    std::size_t name_bytes = 0, dimensions = 0;
    for (std::uint64_t i = 0; i < tensors; ++i) {
      name_bytes += cursor_.take_text("the name of a tensor").size();
      std::size_t const rank = take_rank();
      dimensions += rank;
      static_cast<void>(cursor_.take_bytes(rank * 8 + 4 + 8, "the declaration of a tensor"));
    }
    cursor_.go_to(begin);
    TensorTable& table = header_.table;
    table.names.resize(name_bytes);
    table.dimensions.reserve(dimensions);
    table.tensors.reserve(static_cast<std::size_t>(tensors));
    offsets_.reserve(static_cast<std::size_t>(tensors));
    name_end_ = table.names.data();
  }

  std::size_t take_rank() {
    auto const rank = cursor_.take<std::uint32_t>("the number of dimensions of a tensor");
    if (rank < 1 || rank > gguf_largest_rank)
      fail(Kind::format, source_, ": a tensor has ", rank, " dimensions; 1 to ", gguf_largest_rank,
           " are allowed");
    return rank;
  }

  void read_declaration() {
    std::string_view const raw = cursor_.take_text("the name of a tensor");
    if (raw.empty() || raw.size() > gguf_longest_name)
      fail(Kind::format, source_, ": a tensor has a name of ", raw.size(), " bytes ('", printable(raw),
           "'); 1 to ", gguf_longest_name, " are allowed");
    std::string_view const name(name_end_, raw.size());
    name_end_ = std::copy(raw.begin(), raw.end(), name_end_);
    TensorTable& table = header_.table;
    std::size_t const rank = take_rank(), first = table.dimensions.size();
    for (std::size_t i = 0; i < rank; ++i) {
      auto const size = cursor_.take<std::uint64_t>("a dimension of a tensor");
      if (!std::in_range<index_t>(size))
        fail(Kind::format, source_, ": tensor '", printable(name), "' has a dimension of ", size);
      table.dimensions.push_back(static_cast<index_t>(size));
    }
    std::reverse(table.dimensions.begin() + static_cast<std::ptrdiff_t>(first), table.dimensions.end());
    auto const id = cursor_.take<std::uint32_t>("the type of a tensor");
    auto const type = std::find_if(gguf_tensor_types.begin(), gguf_tensor_types.end(),
                                   [id](GgufTensorType const& t) { return t.id == id; });
    if (type == gguf_tensor_types.end())
      fail(Kind::unsupported, source_, ": tensor '", printable(name), "' has type ", name_of_tensor_type(id),
           "; F32, F16, BF16, Q8_0 and Q4_0 are read, so take the F16, BF16 or Q8_0 file of the model");
    table.tensors.push_back({.name = name,
                             .dtype = type->dtype,
                             .shape = std::span(table.dimensions).subspan(first),
                             .bytes = {}});
    offsets_.push_back(cursor_.take<std::uint64_t>("the offset of a tensor"));
  }

  /// Offsets must be those of tensors that follow one another, and the last one must end the file.
  void place_tensors() {
    std::uint64_t const size = file_.size();
    std::optional<std::uint64_t> const begin = aligned(cursor_.offset(), alignment_);
    auto& tensors = header_.table.tensors;
    std::uint64_t end = 0, place = 0;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      Tensor& tensor = tensors[i];
      auto const shown = [&] { return sentence(source_, ": tensor '", printable(tensor.name), "'"); };
      auto const bytes = checked_byte_size(tensor.dtype, tensor.shape);
      if (!bytes)
        fail(Kind::format, shown(), " is ", describe(tensor),
             ": its shape is too large, or its rows are no whole blocks");
      if (offsets_[i] != place)
        fail(Kind::format, shown(), " has the offset ", offsets_[i], ", but the tensors before it end at ",
             place, offsets_[i] < place ? ": they overlap" : ": there is a hole");
      if (!begin || *begin > size || place > size - *begin || *bytes > size - *begin - place)
        fail(Kind::format, shown(), " of ", *bytes, " bytes lies beyond the end of the file of ", size,
             " bytes; the file is truncated");
      tensor.bytes =
          file_.subspan(static_cast<std::size_t>(*begin + place), static_cast<std::size_t>(*bytes));
      end = *begin + place + *bytes;
      std::optional<std::uint64_t> const next = aligned(place + *bytes, alignment_);
      if (!next) fail(Kind::format, shown(), " ends beyond 64 bits");
      place = *next;
    }
    if (tensors.empty()) end = cursor_.offset();
    std::optional<std::uint64_t> const padded = aligned(end, alignment_);
    if (size != end && (!padded || size != *padded))
      fail(Kind::format, source_, ": ", size > end ? size - end : 0,
           " bytes after the last tensor belong to none; the file is damaged");
  }

  void sort_names() {
    TensorTable& table = header_.table;
    table.by_name.resize(table.tensors.size());
    std::iota(table.by_name.begin(), table.by_name.end(), 0u);
    auto const name = [&](std::uint32_t i) { return table.tensors[i].name; };
    std::sort(table.by_name.begin(), table.by_name.end(), [&](auto a, auto b) { return name(a) < name(b); });
    auto const twice = std::adjacent_find(table.by_name.begin(), table.by_name.end(),
                                          [&](auto a, auto b) { return name(a) == name(b); });
    if (twice != table.by_name.end())
      fail(Kind::format, source_, ": the tensor '", printable(name(*twice)), "' appears twice");
  }

  std::span<std::byte const> file_;
  std::string const& source_;
  Cursor cursor_;
  GgufHeader header_;
  std::vector<std::uint64_t> offsets_;
  std::uint64_t alignment_ = gguf_default_alignment;
  char* name_end_ = nullptr;
};

}  // namespace

bool is_gguf_key(std::string_view key) noexcept {
  auto const allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
  };
  return !key.empty() && key.size() <= gguf_longest_key && std::all_of(key.begin(), key.end(), allowed);
}

GgufHeader parse_gguf(std::span<std::byte const> file, std::string const& source) {
  return HeaderReader(file, source).read();
}

}  // namespace dartquant::detail
