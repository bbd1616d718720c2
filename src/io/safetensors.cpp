// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/safetensors.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>

#include <dartquant/core/error.hpp>
#include <dartquant/core/half.hpp>

#include "io/posix.hpp"
#include "io/safetensors_header.hpp"

namespace dartquant {
namespace {

using Kind = Error::Kind;
using detail::fail;

struct DtypeRow {
  Dtype dtype;
  std::string_view name;
  int bits;
};

constexpr std::array<DtypeRow, 22> dtype_table{{{Dtype::f64, "F64", 64},
                                                {Dtype::f32, "F32", 32},
                                                {Dtype::f16, "F16", 16},
                                                {Dtype::bf16, "BF16", 16},
                                                {Dtype::i64, "I64", 64},
                                                {Dtype::i32, "I32", 32},
                                                {Dtype::i16, "I16", 16},
                                                {Dtype::i8, "I8", 8},
                                                {Dtype::u64, "U64", 64},
                                                {Dtype::u32, "U32", 32},
                                                {Dtype::u16, "U16", 16},
                                                {Dtype::u8, "U8", 8},
                                                {Dtype::boolean, "BOOL", 8},
                                                {Dtype::c64, "C64", 64},
                                                {Dtype::f8_e4m3, "F8_E4M3", 8},
                                                {Dtype::f8_e5m2, "F8_E5M2", 8},
                                                {Dtype::f8_e8m0, "F8_E8M0", 8},
                                                {Dtype::f8_e4m3fnuz, "F8_E4M3FNUZ", 8},
                                                {Dtype::f8_e5m2fnuz, "F8_E5M2FNUZ", 8},
                                                {Dtype::f6_e2m3, "F6_E2M3", 6},
                                                {Dtype::f6_e3m2, "F6_E3M2", 6},
                                                {Dtype::f4, "F4", 4}}};

constexpr bool table_follows_enumeration() {
  for (std::size_t i = 0; i < dtype_table.size(); ++i)
    if (static_cast<std::size_t>(dtype_table[i].dtype) != i) return false;
  return true;
}
static_assert(table_follows_enumeration());

DtypeRow const& row_of(Dtype dtype) noexcept { return dtype_table[static_cast<std::size_t>(dtype)]; }

/// The i-th element of raw bytes; the data of a safetensors file need not be aligned.
template <class T>
T load(std::byte const* bytes, std::size_t i) {
  T value;
  std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
  return value;
}

template <class To, class From>
To convert(From value) {
  if constexpr (std::is_same_v<From, double>) return static_cast<To>(value);
  else return static_cast<To>(to_float(value));
}

/// Converts all elements; returns the index of the first one that is not finite, or `count`.
template <class From, class To>
std::size_t convert_all(std::byte const* bytes, std::size_t count, To* out) {
  std::size_t bad = count;
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = convert<To>(load<From>(bytes, i));
    if (!std::isfinite(out[i]) && bad == count) bad = i;
  }
  return bad;
}

template <class From>
void widen_all(std::byte const* bytes, std::size_t count, std::int64_t* out) {
  for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<std::int64_t>(load<From>(bytes, i));
}

std::size_t count_of(Tensor const& tensor) {
  return tensor.bytes.size() / (static_cast<std::size_t>(bit_width(tensor.dtype)) / 8);
}

template <class To>
std::size_t convert_as(Dtype dtype, std::byte const* bytes, std::size_t count, To* out) {
  switch (dtype) {
    case Dtype::f64:
      return convert_all<double>(bytes, count, out);
    case Dtype::f32:
      return convert_all<float>(bytes, count, out);
    case Dtype::f16:
      return convert_all<Half>(bytes, count, out);
    default:
      return convert_all<BFloat16>(bytes, count, out);  // read_matrix lets no other type through
  }
}

bool is_convertible(Dtype dtype) {
  return dtype == Dtype::f64 || dtype == Dtype::f32 || dtype == Dtype::f16 || dtype == Dtype::bf16;
}

}  // namespace

std::string_view to_string(Dtype dtype) noexcept { return row_of(dtype).name; }

std::optional<Dtype> parse_dtype(std::string_view name) noexcept {
  auto const row =
      std::find_if(dtype_table.begin(), dtype_table.end(), [&](auto& r) { return r.name == name; });
  return row == dtype_table.end() ? std::nullopt : std::optional(row->dtype);
}

int bit_width(Dtype dtype) noexcept { return row_of(dtype).bits; }

std::string describe(Tensor const& tensor) {
  std::string text(to_string(tensor.dtype));
  text += " [";
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    if (i != 0) text += ", ";
    text += std::to_string(tensor.shape[i]);
  }
  return text + "]";
}

SafetensorsFile::SafetensorsFile(std::filesystem::path const& path) : map_(path) {
  detail::SafetensorsHeader header =
      detail::parse_safetensors(map_.bytes(), "[SafetensorsFile] " + path.string());
  names_ = std::move(header.names);
  dimensions_ = std::move(header.dimensions);
  tensors_ = std::move(header.tensors);
  by_name_ = std::move(header.by_name);
  metadata_ = std::move(header.metadata);
}

Tensor const* SafetensorsFile::find(std::string_view name) const noexcept {
  auto const place =
      std::lower_bound(by_name_.begin(), by_name_.end(), name,
                       [this](auto i, std::string_view wanted) { return tensors_[i].name < wanted; });
  return place == by_name_.end() || tensors_[*place].name != name ? nullptr : &tensors_[*place];
}

template <class T>
RowMatrix<T> SafetensorsFile::read_matrix(Tensor const& tensor, NonFinite non_finite) const {
  auto const shown = [&] {
    return detail::sentence("[read_matrix] ", path().string(), ": tensor '", detail::printable(tensor.name),
                            "'");
  };
  if (!is_convertible(tensor.dtype) || tensor.shape.size() > 2)
    fail(Kind::unsupported, shown(), " is ", describe(tensor),
         "; only F64, F32, F16 and BF16 of at most two dimensions can be read as a matrix");
  map_.check_unchanged();
  std::size_t const rank = tensor.shape.size(), width = static_cast<std::size_t>(bit_width(tensor.dtype)) / 8;
  index_t const rows = rank == 2 ? tensor.shape[0] : 1;
  index_t const cols = rank == 0 ? 1 : tensor.shape[rank - 1];
  RowMatrix<T> matrix;
  try {
    matrix.resize(rows, cols);
  } catch (std::bad_alloc const&) {
    fail(Kind::memory, shown(), " needs ", count_of(tensor), " x ", sizeof(T),
         " bytes, and there is no room for them");
  }
  constexpr std::size_t piece = std::size_t{1} << 20;
  std::size_t const count = count_of(tensor);
  for (std::size_t at = 0; at < count; at += piece) {
    Tensor part = tensor;
    part.bytes = tensor.bytes.subspan(at * width, std::min(piece, count - at) * width);
    std::size_t const bad =
        at + convert_as(tensor.dtype, part.bytes.data(), count_of(part), matrix.data() + at);
    release(part);  // so that the file's pages and the matrix are never both in memory as a whole
    if (bad != at + count_of(part) && non_finite == NonFinite::refuse)
      fail(Kind::format, shown(), " holds a value that is not finite (", matrix.data()[bad], ") at row ",
           static_cast<index_t>(bad) / cols, ", column ", static_cast<index_t>(bad) % cols,
           "; the weights are damaged");
  }
  return matrix;
}

template RowMatrix<float> SafetensorsFile::read_matrix(Tensor const&, NonFinite) const;
template RowMatrix<double> SafetensorsFile::read_matrix(Tensor const&, NonFinite) const;

std::vector<std::int64_t> SafetensorsFile::read_integers(Tensor const& tensor) const {
  map_.check_unchanged();
  auto const convert_to = [&](auto from) {
    std::vector<std::int64_t> values(count_of(tensor));
    widen_all<decltype(from)>(tensor.bytes.data(), values.size(), values.data());
    return values;
  };
  auto const shown = [&] {
    return detail::sentence("[read_integers] ", path().string(), ": tensor '", detail::printable(tensor.name),
                            "'");
  };
  switch (tensor.dtype) {
    case Dtype::i64:
      return convert_to(std::int64_t{});
    case Dtype::i32:
      return convert_to(std::int32_t{});
    case Dtype::i16:
      return convert_to(std::int16_t{});
    case Dtype::i8:
      return convert_to(std::int8_t{});
    case Dtype::u32:
      return convert_to(std::uint32_t{});
    case Dtype::u16:
      return convert_to(std::uint16_t{});
    case Dtype::u8:
      return convert_to(std::uint8_t{});
    case Dtype::u64: {
      std::vector<std::int64_t> values = convert_to(std::uint64_t{});
      auto const beyond = std::find_if(values.begin(), values.end(), [](auto v) { return v < 0; });
      if (beyond != values.end())
        fail(Kind::format, shown(), " holds ", static_cast<std::uint64_t>(*beyond), " at index ",
             beyond - values.begin(), ", beyond a signed 64-bit integer");
      return values;
    }
    default:
      fail(Kind::unsupported, shown(), " is ", describe(tensor), "; an integer type is needed");
  }
}

void SafetensorsFile::release(Tensor const& tensor) const noexcept {
  map_.release(static_cast<std::size_t>(tensor.bytes.data() - map_.bytes().data()), tensor.bytes.size());
}

}  // namespace dartquant
