// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/safetensors.hpp>

#include <algorithm>
#include <cstring>
#include <utility>

#include <dartquant/core/error.hpp>

#include "io/posix.hpp"
#include "io/safetensors_header.hpp"

namespace dartquant {
namespace {

using Kind = Error::Kind;
using detail::fail;

/// The data of a safetensors file need not be aligned.
template <class From>
void widen_all(std::byte const* bytes, std::size_t count, std::int64_t* out) {
  for (std::size_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, bytes + i * sizeof(From), sizeof(From));
    out[i] = static_cast<std::int64_t>(value);
  }
}

std::size_t count_of(Tensor const& tensor) {
  return tensor.bytes.size() / (static_cast<std::size_t>(bit_width(tensor.dtype)) / 8);
}

}  // namespace

SafetensorsFile::SafetensorsFile(std::filesystem::path const& path) : TensorFile(MappedFile(path)) {
  detail::SafetensorsHeader header =
      detail::parse_safetensors(map_.bytes(), "[SafetensorsFile] " + path.string());
  table_ = std::move(header.table);
  metadata_ = std::move(header.metadata);
}

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

}  // namespace dartquant
