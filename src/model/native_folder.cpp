// SPDX-License-Identifier: Apache-2.0
// The folder that an engine multiplies from: the compute layout of kernels.h, byte for byte.
#include <cmath>
#include <cstring>

#include <dartquant/kernels.h>
#include <dartquant/core/aligned_bytes.hpp>
#include <dartquant/core/error.hpp>

#include "io/json.hpp"
#include "model/packed_tensors.hpp"

namespace dartquant::detail::native {
namespace {

using Kind = Error::Kind;

dartquant_weights shape_of(PackedMap const& map, FolderQuantization const& folder) {
  WeightQuantization const weights = folder.quantization.weights();
  return {map.out, map.in, weights.group >= map.in ? 0 : weights.group,
          weights.symmetry == Symmetry::symmetric ? dartquant_symmetric : dartquant_asymmetric,
          folder.sums ? 1 : 0};
}

std::size_t packed_bytes(dartquant_weights const& shape, std::string const& name) {
  std::size_t bytes = 0;
  if (dartquant_status const status = dartquant_packed_size(&shape, &bytes); status != 0)
    throw InvalidArgument(sentence("[write_quantized] ", name, "weight [", shape.out, ", ", shape.in,
                                   "] in groups of ", shape.group, ": ",
                                   dartquant_argument_text(dartquant_status_argument(status)), " ",
                                   dartquant_reason_text(dartquant_status_reason(status))));
  return bytes;
}

int bits_member(Json const& object, std::string_view key, std::string const& source) {
  return static_cast<int>(to_integer(member(object, key, source), key, source, 2, 16));
}
double clip_member(Json const& object, std::string const& source) {
  double const clip = get<double>(object, "clip", source);
  if (!(clip > 0) || clip > 1)
    fail(Kind::format, source, ": 'clip' is ", clip, "; it lies above 0 and up to 1");
  return clip;
}

}  // namespace

void validate(QuantizedFolderOptions const& options) {
  int const bits = options.quantization.scheme.weights;
  require(bits <= 4, "[write_quantized] weights of ", bits, " bits: the native layout holds 2 to 4");
  index_t const group = options.quantization.weight_group;
  require(group % 8 == 0, "[write_quantized] groups of ", group,
          " channels: the native layout takes multiples of 8, or 0 for one scale per output");
}

std::vector<TensorInfo> tensors(PackedMap const& map, FolderQuantization const& folder) {
  std::size_t const bytes = packed_bytes(shape_of(map, folder), map.name);
  return {{map.name + "weight_int4", Dtype::i64, {static_cast<index_t>(bytes / 8)}}};
}

void write(Cpu const& cpu, PackedMap const& map, Levels const& levels, FolderQuantization const& folder,
           TensorSink& writer) {
  dartquant_weights const shape = shape_of(map, folder);
  AlignedBytes packed(packed_bytes(shape, map.name));
  dartquant_quantized q = c_quantized(std::get<Int4Matrix>(levels), 0, map.out);
  q.group = shape.group;  // a whole row is written as 0
  index_t const parts = cpu.threads();
  std::vector<dartquant_status> status(static_cast<std::size_t>(parts));
  cpu.parallel_for(parts, 1, [&](index_t part, index_t) {
    status[static_cast<std::size_t>(part)] =
        dartquant_pack(&shape, &q, packed.data(), packed.size(), part, parts);
  });
  for (dartquant_status const one : status)
    if (one != 0)
      fail(Kind::numerics, "[write_quantized] ", map.name,
           "weight cannot be packed: ", dartquant_argument_text(dartquant_status_argument(one)), " ",
           dartquant_reason_text(dartquant_status_reason(one)));
  writer.append_bytes(map.name + "weight_int4",
                      {static_cast<std::byte const*>(packed.data()), packed.size()});
}

Levels read(Cpu const& cpu, PackedMap const& map, FolderQuantization const& folder,
            Checkpoint const& checkpoint) {
  dartquant_weights const shape = shape_of(map, folder);
  std::string const name = map.name + "weight_int4";
  std::span<std::byte const> const bytes = checkpoint.tensor(name).bytes;
  AlignedBytes copy;
  void const* data = bytes.data();
  if (reinterpret_cast<std::uintptr_t>(data) % dartquant_alignment != 0) {  // written by another program
    copy = AlignedBytes(bytes.size());
    std::memcpy(copy.data(), bytes.data(), bytes.size());
    data = copy.data();
  }
  WeightQuantization const weights = folder.quantization.weights();
  Int4Matrix levels(map.out, map.in,
                    {.bits = weights.bits,
                     .granularity = shape.group == 0 ? per_row : per_group(shape.group),
                     .symmetry = weights.symmetry});
  dartquant_quantized q = c_quantized(levels, 0, map.out);
  q.group = shape.group;
  index_t const parts = cpu.threads();
  std::vector<dartquant_status> status(static_cast<std::size_t>(parts));
  cpu.parallel_for(parts, 1, [&](index_t part, index_t) {
    status[static_cast<std::size_t>(part)] = dartquant_unpack(&shape, data, bytes.size(), &q, part, parts);
  });
  for (dartquant_status const one : status)
    if (one != 0)
      refuse_packed(checkpoint, name,
                    sentence("its ", dartquant_argument_text(dartquant_status_argument(one)), " ",
                             dartquant_reason_text(dartquant_status_reason(one))));
  for (index_t row = 0; row < levels.scales().rows(); ++row)
    for (index_t col = 0; col < levels.scales().cols(); ++col)
      if (!std::isfinite(levels.scales()(row, col)))
        refuse_packed(checkpoint, name,
                      sentence("the scale of output ", row, ", group ", col, " is not finite"));
  return levels;
}

std::string config_text(FolderQuantization const& folder) {
  Quantization const& quantization = folder.quantization;
  WeightQuantization const weights = quantization.weights();
  Json const config{{"quant_method", "dartquant"},
                    {"layout", static_cast<int>(dartquant_layout)},
                    {"weights",
                     {{"bits", weights.bits},
                      {"group", weights.group},
                      {"symmetric", weights.symmetry == Symmetry::symmetric},
                      {"sums", folder.sums}}},
                    {"activations",
                     {{"bits", quantization.scheme.activations},
                      {"symmetric", quantization.activation_symmetry == Symmetry::symmetric},
                      {"clip", quantization.activation_clip},
                      {"o_proj_per_head", quantization.o_proj_input == Quantization::OutputInput::per_head}}},
                    {"kv_cache", {{"bits", quantization.scheme.kv}, {"clip", quantization.kv_clip}}},
                    {"online_r3", folder.online.r3}};
  return config.dump();
}

FolderQuantization parse(std::string const& text, std::string const& source) {
  Json const json = parse_json(text, source);
  if (std::int64_t const layout = get<std::int64_t>(json, "layout", source); layout != dartquant_layout)
    fail(Kind::unsupported, source, ": packed weights of layout ", layout, "; this version reads layout ",
         static_cast<int>(dartquant_layout));
  Json const& weights = object_member(json, "weights", source);
  Json const& activations = object_member(json, "activations", source);
  Json const& cache = object_member(json, "kv_cache", source);
  FolderQuantization folder{.format = FolderFormat::native};
  Quantization& quantization = folder.quantization;
  quantization.scheme = {bits_member(weights, "bits", source), bits_member(activations, "bits", source),
                         bits_member(cache, "bits", source)};
  quantization.weight_group = to_integer(member(weights, "group", source), "group", source, 0, 1 << 20);
  quantization.weight_symmetry =
      get<bool>(weights, "symmetric", source) ? Symmetry::symmetric : Symmetry::asymmetric;
  folder.sums = get<bool>(weights, "sums", source);
  quantization.activation_symmetry =
      get<bool>(activations, "symmetric", source) ? Symmetry::symmetric : Symmetry::asymmetric;
  quantization.activation_clip = clip_member(activations, source);
  quantization.kv_clip = clip_member(cache, source);
  quantization.o_proj_input = get<bool>(activations, "o_proj_per_head", source)
                                  ? Quantization::OutputInput::per_head
                                  : Quantization::OutputInput::per_token;
  folder.online.r3 = get<bool>(json, "online_r3", source);
  if (quantization.scheme.weights > 4 || quantization.weight_group % 8 != 0)
    fail(Kind::format, source, ": weights of ", quantization.scheme.weights, " bits in groups of ",
         quantization.weight_group, "; the layout holds 2 to 4 bits in groups that are multiples of 8");
  return folder;
}

}  // namespace dartquant::detail::native
