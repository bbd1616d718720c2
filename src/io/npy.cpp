// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/npy.hpp>

#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <dartquant/core/error.hpp>
#include <dartquant/io/atomic_file.hpp>
#include <dartquant/io/mapped_file.hpp>

#include "io/posix.hpp"

namespace dartquant {
namespace {

using Kind = Error::Kind;
using detail::fail;
using detail::printable;

struct Header {
  std::string_view descr;  ///< NumPy's name of the element type: '<i4', '<f4'...
  bool column_major = false;
  std::vector<index_t> shape;
  std::span<std::byte const> data;
};

/// Reads the one Python dictionary that NumPy writes: {'descr': '<i4', 'fortran_order': False, 'shape': (7,),
/// }.
class DictReader {
 public:
  DictReader(std::string_view text, std::string const& source) : text_(text), source_(source) {}

  Header read() {
    Header header;
    std::optional<std::string_view> descr;
    std::optional<bool> order;
    bool shape_seen = false;
    expect('{');
    while (!accept('}')) {
      std::string_view const key = string();
      expect(':');
      if (key == "descr" && !descr) descr = string();
      else if (key == "fortran_order" && !order) order = boolean();
      else if (key == "shape" && !std::exchange(shape_seen, true)) header.shape = tuple();
      else refuse("an unknown key, or one that appears twice");
      if (accept('}')) break;
      expect(',');
    }
    skip_space();
    if (at_ != text_.size()) refuse("text after the dictionary");
    if (!descr || !order || !shape_seen) refuse("descr, fortran_order or shape is missing");
    header.descr = *descr;
    header.column_major = *order;
    return header;
  }

 private:
  [[noreturn]] void refuse(std::string_view why) const {
    fail(Kind::format, source_, ": the header is malformed at byte ", at_, ": ", why);
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
  }
  bool accept(char c) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) refuse(std::string("'") + c + "' is missing here");
  }
  std::string_view string() {
    char const quote = accept('"') ? '"' : '\'';
    if (quote == '\'') expect('\'');
    std::size_t const end = text_.find(quote, at_);
    if (end == std::string_view::npos) refuse("a string without end");
    std::string_view const found = text_.substr(at_, end - at_);
    if (found.find('\\') != std::string_view::npos) refuse("an escape in a string");
    at_ = end + 1;
    return found;
  }
  bool boolean() {
    skip_space();
    for (bool const value : {true, false}) {
      std::string_view const word = value ? "True" : "False";
      if (!text_.substr(at_).starts_with(word)) continue;
      at_ += word.size();
      return value;
    }
    refuse("True or False is needed here");
  }
  std::vector<index_t> tuple() {
    std::vector<index_t> sizes;
    expect('(');
    while (!accept(')')) {
      if (sizes.size() == 32) refuse("more than 32 dimensions");
      sizes.push_back(integer());
      if (accept(')')) {
        if (sizes.size() == 1) refuse("a tuple of one needs a comma");
        break;
      }
      expect(',');
    }
    return sizes;
  }
  index_t integer() {
    skip_space();
    std::size_t const begin = at_;
    index_t value = 0;
    for (; at_ < text_.size() && '0' <= text_[at_] && text_[at_] <= '9'; ++at_)
      if (__builtin_mul_overflow(value, index_t{10}, &value) ||
          __builtin_add_overflow(value, static_cast<index_t>(text_[at_] - '0'), &value))
        refuse("a dimension that does not fit 64 bits");
    if (at_ == begin) refuse("a dimension must be a non-negative integer");
    return value;
  }

  std::string_view text_;
  std::string const& source_;
  std::size_t at_ = 0;
};

Header parse(MappedFile const& file, std::string const& source) {
  std::span<std::byte const> const bytes = file.bytes();
  auto const byte = [&](std::size_t i) { return std::to_integer<std::size_t>(bytes[i]); };
  if (bytes.size() < 10 || std::memcmp(bytes.data(), "\x93NUMPY", 6) != 0)
    fail(Kind::format, source, ": this is no .npy file");
  std::size_t const version = byte(6), width = version == 1 ? 2 : 4;
  if (version < 1 || version > 3 || byte(7) != 0)
    fail(Kind::unsupported, source, ": version ", version, ".", byte(7), " of the .npy format is not known");
  std::size_t length = 0;
  if (bytes.size() >= 8 + width)
    for (std::size_t i = width; i-- > 0;) length = length << 8 | byte(8 + i);
  if (bytes.size() < 8 + width || length > bytes.size() - 8 - width)
    fail(Kind::format, source, ": a header of ", length, " bytes in a file of ", bytes.size(),
         "; the file is truncated");
  Header header =
      DictReader({reinterpret_cast<char const*>(bytes.data()) + 8 + width, length}, source).read();
  header.data = bytes.subspan(8 + width + length);
  return header;
}

/// The number of elements; their size must be exactly that of the data.
std::size_t checked_count(Header const& header, std::size_t element_size, std::string const& source) {
  std::size_t count = 1, size = 0;
  bool overflow = false;
  for (index_t const length : header.shape)
    overflow = overflow || __builtin_mul_overflow(count, static_cast<std::size_t>(length), &count);
  overflow = overflow || __builtin_mul_overflow(count, element_size, &size);
  if (overflow || size != header.data.size())
    fail(Kind::format, source, ": the shape does not fit the ", header.data.size(),
         " bytes of data; the file is truncated or damaged");
  return count;
}

template <class T>
T load(std::span<std::byte const> data, std::size_t i) {
  T value;
  std::memcpy(&value, data.data() + i * sizeof(T), sizeof(T));
  return value;
}

template <class T>
std::vector<std::int32_t> integers(Header const& header, std::string const& source) {
  std::vector<std::int32_t> values(checked_count(header, sizeof(T), source));
  for (std::size_t i = 0; i < values.size(); ++i) {
    T const value = load<T>(header.data, i);
    if (!std::in_range<std::int32_t>(value))
      fail(Kind::format, source, ": the value ", value, " at position ", i, " does not fit 32 bits");
    values[i] = static_cast<std::int32_t>(value);
  }
  return values;
}

template <class T>
RowMatrix<float> floats(Header const& header, std::string const& source) {
  std::size_t const count = checked_count(header, sizeof(T), source);
  RowMatrix<float> matrix(header.shape[0], header.shape[1]);
  for (std::size_t i = 0; i < count; ++i) matrix.data()[i] = static_cast<float>(load<T>(header.data, i));
  return matrix;
}

/// Everything before the data: version 1.0, padded so that the data begins at a multiple of 64.
std::string header_text(std::string_view descr, std::string const& shape) {
  std::string dict =
      "{'descr': '" + std::string(descr) + "', 'fortran_order': False, 'shape': (" + shape + "), }";
  dict.resize((10 + dict.size() + 1 + 63) / 64 * 64 - 10 - 1, ' ');
  dict.push_back('\n');
  std::string head("\x93NUMPY\x01\x00", 8);
  head.push_back(static_cast<char>(dict.size() & 255));
  head.push_back(static_cast<char>(dict.size() >> 8));
  return head + dict;
}

}  // namespace

std::vector<std::int32_t> read_npy_integers(std::filesystem::path const& path) {
  std::string const source = "[read_npy_integers] " + path.string();
  MappedFile const file(path);
  Header const header = parse(file, source);
  if (header.shape.size() != 1)
    fail(Kind::unsupported, source, ": an array of ", header.shape.size(), " dimensions; one is needed");
  if (header.descr == "<i4") return integers<std::int32_t>(header, source);
  if (header.descr == "<i8") return integers<std::int64_t>(header, source);
  if (header.descr == "<u2") return integers<std::uint16_t>(header, source);
  if (header.descr == "<u4") return integers<std::uint32_t>(header, source);
  fail(Kind::unsupported, source, ": elements of type '", printable(header.descr),
       "'; int32, int64, uint16 or uint32 in little-endian order is needed");
}

RowMatrix<float> read_npy_matrix(std::filesystem::path const& path) {
  std::string const source = "[read_npy_matrix] " + path.string();
  MappedFile const file(path);
  Header const header = parse(file, source);
  if (header.shape.size() != 2 || header.column_major)
    fail(Kind::unsupported, source, ": a two-dimensional array in C order is needed");
  if (header.descr == "<f4") return floats<float>(header, source);
  if (header.descr == "<f8") return floats<double>(header, source);
  fail(Kind::unsupported, source, ": elements of type '", printable(header.descr),
       "'; float32 or float64 in little-endian order is needed");
}

void write_npy(std::filesystem::path const& path, std::span<std::int32_t const> values) {
  std::string const head = header_text("<i4", std::to_string(values.size()) + ",");
  AtomicFile file(path, head.size() + values.size_bytes());
  file.write(head);
  file.write(std::as_bytes(values));
  file.commit();
}

void write_npy(std::filesystem::path const& path, MatrixView<float const> values) {
  std::string const head =
      header_text("<f4", std::to_string(values.rows()) + ", " + std::to_string(values.cols()));
  AtomicFile file(path);
  file.write(head);
  for (index_t row = 0; row < values.rows(); ++row)
    file.write(std::as_bytes(std::span(values.row(row).data(), static_cast<std::size_t>(values.cols()))));
  file.commit();
}

}  // namespace dartquant
