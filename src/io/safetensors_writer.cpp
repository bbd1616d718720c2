// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include <dartquant/core/error.hpp>
#include <dartquant/core/half.hpp>
#include <dartquant/io/safetensors.hpp>

#include "io/checksum.hpp"
#include "io/json.hpp"
#include "io/posix.hpp"
#include "io/safetensors_header.hpp"

namespace dartquant {

struct SafetensorsWriter::Progress {
  TensorInfo info;
  std::uint64_t size = 0;     ///< bytes of data
  std::uint64_t begin = 0;    ///< of the data, in the file
  std::uint64_t written = 0;  ///< bytes so far
  detail::Checksum checksum{};
};

struct SafetensorsWriter::Layout {
  std::vector<Progress> tensors;
  std::string head;  ///< length, JSON and padding
  std::uint64_t total = 0;

  Layout(std::vector<TensorInfo>&& declared, std::map<std::string, std::string> const& metadata,
         index_t data_alignment);
};

namespace {

using detail::fail;
using detail::printable;
using detail::require;
using Kind = Error::Kind;

std::string quoted(std::string const& text) {
  try {
    return detail::Json(text).dump();
  } catch (detail::Json::exception const&) {
    throw InvalidArgument("[SafetensorsWriter] '" + printable(text) + "' is not valid UTF-8");
  }
}

std::string header_entry(TensorInfo const& info, std::uint64_t begin, std::uint64_t end) {
  std::string shape;
  for (index_t const size : info.shape) shape += (shape.empty() ? "" : ",") + std::to_string(size);
  return quoted(info.name) + ":{\"dtype\":\"" + std::string(to_string(info.dtype)) + "\",\"shape\":[" +
         shape + "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
}

std::string metadata_entry(std::map<std::string, std::string> const& metadata) {
  require(metadata.size() <= detail::most_metadata_entries, "[SafetensorsWriter] ", metadata.size(),
          " entries of metadata: at most ", detail::most_metadata_entries, " can be read back");
  std::string pairs;
  for (auto const& [key, value] : metadata)
    pairs += (pairs.empty() ? "" : ",") + quoted(key) + ":" + quoted(value);
  return "\"__metadata__\":{" + pairs + "}";
}

/// The reference writer's order of types: wider ones first, so that all data is aligned.
std::ptrdiff_t place_in_file(Dtype dtype) {
  constexpr std::array order{
      Dtype::u64,         Dtype::i64,     Dtype::f64,     Dtype::c64,     Dtype::f32, Dtype::u32,
      Dtype::i32,         Dtype::bf16,    Dtype::f16,     Dtype::u16,     Dtype::i16, Dtype::f8_e5m2fnuz,
      Dtype::f8_e4m3fnuz, Dtype::f8_e8m0, Dtype::f8_e4m3, Dtype::f8_e5m2, Dtype::i8,  Dtype::u8,
      Dtype::f6_e3m2,     Dtype::f6_e2m3, Dtype::f4,      Dtype::boolean};
  return std::find(order.begin(), order.end(), dtype) - order.begin();
}

/// Rounds to float so that a second rounding to a shorter type gives what one rounding of the double would:
/// an inexact result gets an odd last bit (round to odd; Boldo and Melquiond 2008).
float to_odd_float(double x) {
  float const near = static_cast<float>(x);
  if (static_cast<double>(near) == x || std::isnan(x)) return near;
  std::uint32_t bits = std::bit_cast<std::uint32_t>(near);
  if (std::abs(static_cast<double>(near)) > std::abs(x)) --bits;  // towards zero
  return std::bit_cast<float>(bits | 1u);
}

template <class To, class From>
To stored(From value) {
  if constexpr (std::is_floating_point_v<To>) return static_cast<To>(value);
  else if constexpr (std::is_same_v<From, double>) return from_float<To>(to_odd_float(value));
  else return from_float<To>(value);
}

bool is_finite(double value) { return std::isfinite(value); }
template <class T>
bool is_finite(T value) {
  return std::isfinite(to_float(value));
}

/// Converts `count` values; returns the index of the first one that is not finite as To, or `count`.
template <class To, class From>
std::size_t encode(From const* values, std::size_t count, std::byte* out) {
  for (std::size_t i = 0; i < count; ++i) {
    To const value = stored<To>(values[i]);
    if (!is_finite(value)) return i;
    std::memcpy(out + i * sizeof(To), &value, sizeof(To));
  }
  return count;
}

template <class From>
std::size_t encode_as(Dtype dtype, From const* values, std::size_t count, std::byte* out) {
  switch (dtype) {
    case Dtype::f64:
      return encode<double>(values, count, out);
    case Dtype::f32:
      return encode<float>(values, count, out);
    case Dtype::f16:
      return encode<Half>(values, count, out);
    default:
      return encode<BFloat16>(values, count, out);  // append lets no other type through
  }
}

std::uint64_t checksum_of(SafetensorsFile const& file, Tensor const& tensor) {
  constexpr std::size_t piece = std::size_t{8} << 20;
  detail::Checksum sum;
  for (std::size_t at = 0; at < tensor.bytes.size(); at += piece) {
    Tensor part = tensor;
    part.bytes = tensor.bytes.subspan(at, std::min(piece, tensor.bytes.size() - at));
    sum.add(part.bytes);
    file.release(part);
  }
  return sum.value();
}

}  // namespace

std::uint64_t byte_size(TensorInfo const& tensor) {
  std::optional<std::uint64_t> const size = detail::checked_byte_size(tensor.dtype, tensor.shape);
  require(size.has_value(), "[byte_size] tensor '", printable(tensor.name),
          "': a negative dimension, or a size beyond 64 bits or of no whole number of bytes");
  return *size;
}

SafetensorsWriter::Layout::Layout(std::vector<TensorInfo>&& declared,
                                  std::map<std::string, std::string> const& metadata,
                                  index_t data_alignment) {
  require(data_alignment >= 8 && data_alignment % 8 == 0, "[SafetensorsWriter] data_alignment ",
          data_alignment, ": a multiple of 8 is needed");
  for (TensorInfo& info : declared) {
    require(!info.name.empty() && info.name != "__metadata__", "[SafetensorsWriter] a tensor named '",
            info.name, "': choose another name");
    require(info.shape.size() <= detail::largest_rank, "[SafetensorsWriter] tensor '", printable(info.name),
            "' has ", info.shape.size(), " dimensions: at most ", detail::largest_rank, " can be read back");
    std::uint64_t const size = byte_size(info);
    tensors.push_back({.info = std::move(info), .size = size});
  }
  auto const by_name = [](Progress const& a, Progress const& b) { return a.info.name < b.info.name; };
  std::sort(tensors.begin(), tensors.end(), [&](Progress const& a, Progress const& b) {
    auto const left = place_in_file(a.info.dtype), right = place_in_file(b.info.dtype);
    return left != right ? left < right : by_name(a, b);
  });

  std::string json = "{";
  if (!metadata.empty()) json += metadata_entry(metadata);
  std::uint64_t end = 0;
  for (Progress& tensor : tensors) {
    tensor.begin = end;
    require(!__builtin_add_overflow(end, tensor.size, &end),
            "[SafetensorsWriter] more than 2^64 bytes of data");
    json += (json.size() > 1 ? "," : "") + header_entry(tensor.info, tensor.begin, end);
  }
  json += "}";
  auto const unit = static_cast<std::size_t>(data_alignment);
  json.resize((json.size() + 8 + unit - 1) / unit * unit - 8, ' ');
  require(json.size() <= detail::largest_header, "[SafetensorsWriter] a header of ", json.size(),
          " bytes: the format allows ", detail::largest_header);
  for (unsigned i = 0; i < 8; ++i) head.push_back(static_cast<char>(json.size() >> (8 * i) & 255));
  head += json;
  for (Progress& tensor : tensors) tensor.begin += head.size();
  require(!__builtin_add_overflow(end, head.size(), &total),
          "[SafetensorsWriter] more than 2^64 bytes of data");

  std::sort(tensors.begin(), tensors.end(), by_name);
  auto const twice = std::adjacent_find(tensors.begin(), tensors.end(),
                                        [](auto& a, auto& b) { return a.info.name == b.info.name; });
  require(twice == tensors.end(), "[SafetensorsWriter] the tensor '",
          twice == tensors.end() ? std::string() : printable(twice->info.name), "' is declared twice");
}

SafetensorsWriter::SafetensorsWriter(std::filesystem::path const& path, std::vector<TensorInfo> tensors,
                                     std::map<std::string, std::string> const& metadata,
                                     index_t data_alignment)
    : SafetensorsWriter(Layout(std::move(tensors), metadata, data_alignment), path) {}

SafetensorsWriter::SafetensorsWriter(Layout&& layout, std::filesystem::path const& path)
    : tensors_(std::move(layout.tensors)), file_(path, layout.total) {
  file_.write(layout.head);
}

SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

SafetensorsWriter::Progress& SafetensorsWriter::progress(std::string_view name) {
  auto const place =
      std::lower_bound(tensors_.begin(), tensors_.end(), name,
                       [](Progress const& t, std::string_view wanted) { return t.info.name < wanted; });
  require(place != tensors_.end() && place->info.name == name, "[SafetensorsWriter] the tensor '",
          printable(name), "' was not declared");
  return *place;
}

void SafetensorsWriter::put(Progress& tensor, std::span<std::byte const> bytes) {
  require(bytes.size() <= tensor.size - tensor.written, "[SafetensorsWriter] tensor '",
          printable(tensor.info.name), "': ", bytes.size(), " more bytes after ", tensor.written, " of ",
          tensor.size);
  file_.write_at(tensor.begin + tensor.written, bytes);
  tensor.checksum.add(bytes);
  tensor.written += bytes.size();
}

void SafetensorsWriter::append_bytes(std::string_view name, std::span<std::byte const> bytes) {
  put(progress(name), bytes);
}

template <class T>
void SafetensorsWriter::append_values(std::string_view name, MatrixView<T const> values) {
  Progress& tensor = progress(name);
  Dtype const dtype = tensor.info.dtype;
  require(dtype <= Dtype::bf16, "[SafetensorsWriter] tensor '", printable(name), "' was declared as ",
          to_string(dtype),
          ": values can be appended to F64, F32, F16 and BF16, for others use append_bytes");
  std::vector<index_t> const& shape = tensor.info.shape;
  require(shape.size() < 2 || values.cols() == shape.back(), "[SafetensorsWriter] tensor '", printable(name),
          "': rows of ", values.cols(), " values, declared with ", shape.empty() ? 1 : shape.back());
  constexpr index_t piece = index_t{1} << 15;
  std::size_t const width = static_cast<std::size_t>(bit_width(dtype)) / 8;
  std::vector<std::byte> buffer(static_cast<std::size_t>(std::min(piece, values.cols())) * width);
  for (index_t row = 0; row < values.rows(); ++row) {
    for (index_t col = 0; col < values.cols(); col += piece) {
      auto const count = static_cast<std::size_t>(std::min(piece, values.cols() - col));
      std::size_t const bad = encode_as(dtype, values.row(row).data() + col, count, buffer.data());
      if (bad != count)
        fail(Kind::numerics, "[SafetensorsWriter] tensor '", printable(name), "': the value ",
             values(row, col + static_cast<index_t>(bad)), " at row ", row, ", column ",
             col + static_cast<index_t>(bad), " of the rows given is not finite as ", to_string(dtype));
      put(tensor, std::span(buffer).first(count * width));
    }
  }
}

void SafetensorsWriter::append(std::string_view name, MatrixView<float const> values) {
  append_values(name, values);
}
void SafetensorsWriter::append(std::string_view name, MatrixView<double const> values) {
  append_values(name, values);
}

void SafetensorsWriter::verify() {
  for (Progress const& tensor : tensors_)
    require(tensor.written == tensor.size, "[SafetensorsWriter] tensor '", printable(tensor.info.name),
            "' got ", tensor.written, " of ", tensor.size, " bytes");
  file_.sync();
  SafetensorsFile const written(file_.temporary_path());
  for (Progress const& tensor : tensors_) {
    Tensor const* const found = written.find(tensor.info.name);
    bool const same = found != nullptr && found->dtype == tensor.info.dtype &&
                      std::equal(found->shape.begin(), found->shape.end(), tensor.info.shape.begin(),
                                 tensor.info.shape.end()) &&
                      checksum_of(written, *found) == tensor.checksum.value();
    if (!same)
      fail(Kind::io, "[SafetensorsWriter] ", path().string(), ": tensor '", printable(tensor.info.name),
           "' reads back differently from what was written; the disk or the memory is faulty");
  }
  verified_ = true;
}

void SafetensorsWriter::commit() {
  if (!verified_) verify();
  file_.commit();
}

}  // namespace dartquant
