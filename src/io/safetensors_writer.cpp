// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <utility>

#include <dartquant/core/error.hpp>
#include <dartquant/io/safetensors.hpp>

#include "io/json.hpp"
#include "io/posix.hpp"
#include "io/safetensors_header.hpp"

namespace dartquant {

namespace {

using detail::printable;
using detail::require;

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

/// The tensors with their places, and the header.
template <class Layout>
Layout layout_of(std::vector<TensorInfo>&& declared, std::map<std::string, std::string> const& metadata,
                 index_t data_alignment) {
  require(data_alignment >= 8 && data_alignment % 8 == 0, "[SafetensorsWriter] data_alignment ",
          data_alignment, ": a multiple of 8 is needed");
  Layout layout;
  for (TensorInfo& info : declared) {
    require(!info.name.empty() && info.name != "__metadata__", "[SafetensorsWriter] a tensor named '",
            info.name, "': choose another name");
    require(info.shape.size() <= detail::largest_rank, "[SafetensorsWriter] tensor '", printable(info.name),
            "' has ", info.shape.size(), " dimensions: at most ", detail::largest_rank, " can be read back");
    require(block_elements(info.dtype) == 1, "[SafetensorsWriter] tensor '", printable(info.name), "' is ",
            to_string(info.dtype), ", a type of GGUF that safetensors does not have");
    layout.tensors.push_back({std::move(info), 0});
  }
  std::sort(layout.tensors.begin(), layout.tensors.end(), [&](auto const& a, auto const& b) {
    auto const left = place_in_file(a.info.dtype), right = place_in_file(b.info.dtype);
    return left != right ? left < right : a.info.name < b.info.name;
  });
  std::string json = "{";
  if (!metadata.empty()) json += metadata_entry(metadata);
  std::uint64_t end = 0;
  for (auto& tensor : layout.tensors) {
    tensor.begin = end;
    require(!__builtin_add_overflow(end, byte_size(tensor.info), &end),
            "[SafetensorsWriter] more than 2^64 bytes of data");
    json += (json.size() > 1 ? "," : "") + header_entry(tensor.info, tensor.begin, end);
  }
  json += "}";
  auto const unit = static_cast<std::size_t>(data_alignment);
  json.resize((json.size() + 8 + unit - 1) / unit * unit - 8, ' ');
  require(json.size() <= detail::largest_header, "[SafetensorsWriter] a header of ", json.size(),
          " bytes: the format allows ", detail::largest_header);
  for (unsigned i = 0; i < 8; ++i) layout.head.push_back(static_cast<char>(json.size() >> (8 * i) & 255));
  layout.head += json;
  for (auto& tensor : layout.tensors) tensor.begin += layout.head.size();
  require(!__builtin_add_overflow(end, layout.head.size(), &layout.total),
          "[SafetensorsWriter] more than 2^64 bytes of data");
  return layout;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::filesystem::path const& path, std::vector<TensorInfo> tensors,
                                     std::map<std::string, std::string> const& metadata,
                                     index_t data_alignment)
    : TensorWriter("SafetensorsWriter", path,
                   layout_of<Layout>(std::move(tensors), metadata, data_alignment)) {}

TensorFile SafetensorsWriter::open(std::filesystem::path const& path) const { return SafetensorsFile(path); }

}  // namespace dartquant
