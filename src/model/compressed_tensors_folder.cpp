// SPDX-License-Identifier: Apache-2.0
// The folder that vLLM reads: compressed-tensors, format pack-quantized.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include <dartquant/kernels.h>
#include <dartquant/core/error.hpp>

#include "io/json.hpp"
#include "model/layer_parts.hpp"
#include "model/packed_tensors.hpp"

namespace dartquant::detail::compressed_tensors {
namespace {

using Kind = Error::Kind;

index_t words(index_t codes, int bits) { return (codes * bits + 31) / 32; }
index_t groups_of(PackedMap const& map, WeightQuantization const& weights) {
  return weights.group == 0 ? 1 : (map.in + weights.group - 1) / weights.group;
}
dartquant_type c_type(Dtype dtype) {
  return dtype == Dtype::f16    ? dartquant_float16
         : dtype == Dtype::bf16 ? dartquant_bfloat16
                                : dartquant_float32;
}

/// The description of a matrix that was just made or is about to be filled.
template <int StorageBits>
dartquant_quantized described(IntMatrix<StorageBits> const& levels) {
  return c_quantized(levels, 0, levels.rows());
}

template <class T>
void append(TensorSink& writer, std::string const& name, std::vector<T> const& values) {
  writer.append_bytes(name, std::as_bytes(std::span(values)));
}

Json activations(Quantization const& quantization) {
  int const bits = quantization.scheme.activations;
  if (bits == 16) return nullptr;
  return {{"num_bits", bits}, {"type", "int"}, {"symmetric", true}, {"strategy", "token"}, {"dynamic", true}};
}

/// The block of R4, the same in every layer; 0: none.
index_t r4_block(Rotations const& transforms) {
  if (transforms.layers.empty() || !has_steps(transforms.layers.front().down_proj_input)) return 0;
  return std::get<Hadamard>(transforms.layers.front().down_proj_input->steps().front()).block();
}

/// Reads the one transform that is written here.
void parse_transforms(Json const& config, ModelConfig const& model, std::string const& source,
                      FolderQuantization& folder) {
  Json const* const transforms = find_member(config, "transform_config", source);
  if (transforms == nullptr || transforms->empty()) return;
  Json const& groups = object_member(*transforms, "config_groups", source);
  if (groups.size() != 1)
    fail(Kind::unsupported, source, ": transform_config has ", groups.size(),
         " groups; only R4 is known here");
  Json const& scheme = *groups.begin();
  Json const& apply = array_member(scheme, "apply", source);
  bool const known = get<std::string>(scheme, "type", source) == "hadamard" && apply.size() == 1 &&
                     get<std::string>(apply[0], "location", source) == "input" &&
                     array_member(apply[0], "targets", source) == Json::array({"re:.*down_proj$"});
  if (!known)
    fail(Kind::unsupported, source,
         ": transform_config is not a Hadamard transform of the down_proj input, the only one known here");
  index_t const block = to_integer(member(scheme, "head_dim", source), "head_dim", source, 1, 1 << 24);
  if (model.intermediate % block != 0 || (block & (block - 1)) != 0)
    fail(Kind::format, source, ": head_dim ", block,
         " of the Hadamard transform is no power of two that divides ", model.intermediate, " channels");
  folder.online.r4 = true;
  for (index_t layer = 0; layer < model.layers; ++layer) {
    folder.transforms.layers.emplace_back();
    folder.transforms.layers.back().down_proj_input =
        Transform(model.intermediate).then(Hadamard(model.intermediate, block));
  }
}

template <int StorageBits>
void write_levels(PackedMap const& map, IntMatrix<StorageBits> const& levels, Dtype scales,
                  TensorSink& writer) {
  index_t const groups = levels.scales().cols();
  bool const asymmetric = levels.symmetry() == Symmetry::asymmetric;
  std::vector<std::int32_t> packed(static_cast<std::size_t>(map.out * words(map.in, StorageBits))),
      zeros(asymmetric ? static_cast<std::size_t>(words(map.out, StorageBits) * groups) : 0);
  std::vector<std::byte> scale_bytes(static_cast<std::size_t>(map.out * groups * (bit_width(scales) / 8)));
  dartquant_quantized const q = described(levels);
  dartquant_compressed_tensors const tensors{packed.data(),
                                             {scale_bytes.data(), c_type(scales), map.out, groups, groups},
                                             asymmetric ? zeros.data() : nullptr};
  if (dartquant_to_compressed_tensors(&q, &tensors, 0, 1) != 0)
    fail(Kind::numerics, "[write_quantized] ", map.name, "weight_scale: a scale overflows ",
         to_string(scales), "; choose bf16 or f32");
  append(writer, map.name + "weight_packed", packed);
  writer.append_bytes(map.name + "weight_scale", scale_bytes);
  append(writer, map.name + "weight_shape", std::vector<std::int64_t>{map.out, map.in});
  if (asymmetric) append(writer, map.name + "weight_zero_point", zeros);
}

/// The bytes of a tensor, aligned as words.
template <class T>
std::vector<T> values_of(Tensor const& tensor) {
  std::vector<T> values(tensor.bytes.size() / sizeof(T));
  std::memcpy(values.data(), tensor.bytes.data(), values.size() * sizeof(T));
  return values;
}

template <int StorageBits>
IntMatrix<StorageBits> read_levels(PackedMap const& map, FolderQuantization const& folder,
                                   Checkpoint const& checkpoint) {
  WeightQuantization const weights = folder.quantization.weights();
  bool const asymmetric = weights.symmetry == Symmetry::asymmetric;
  auto packed = values_of<std::int32_t>(checkpoint.tensor(map.name + "weight_packed"));
  std::vector<std::int32_t> zeros;
  if (asymmetric) zeros = values_of<std::int32_t>(checkpoint.tensor(map.name + "weight_zero_point"));
  Tensor const& scales = checkpoint.tensor(map.name + "weight_scale");
  auto scale_bytes = values_of<std::uint32_t>(scales);
  if (scales.bytes.size() % 4 != 0) {  // an odd number of 16-bit scales
    scale_bytes.resize(scale_bytes.size() + 1);
    std::memcpy(scale_bytes.data(), scales.bytes.data(), scales.bytes.size());
  }
  auto const shape = values_of<std::int64_t>(checkpoint.tensor(map.name + "weight_shape"));
  if (shape != std::vector<std::int64_t>{map.out, map.in})
    refuse_packed(
        checkpoint, map.name + "weight_shape",
        sentence("says ", shape[0], " x ", shape[1], ", but config.json asks for ", map.out, " x ", map.in));
  IntMatrix<StorageBits> levels(map.out, map.in,
                                {.bits = weights.bits,
                                 .granularity = weights.group == 0 ? per_row : per_group(weights.group),
                                 .symmetry = weights.symmetry});
  index_t const groups = levels.scales().cols();
  dartquant_compressed_tensors const tensors{
      packed.data(),
      {scale_bytes.data(), c_type(scales.dtype), map.out, groups, groups},
      asymmetric ? zeros.data() : nullptr};
  dartquant_quantized const q = described(levels);
  if (dartquant_from_compressed_tensors(&tensors, &q, 0, 1) != 0)
    refuse_packed(checkpoint, map.name + "weight_scale", "holds a scale that is not finite");
  return levels;
}

}  // namespace

void validate(QuantizedFolderOptions const& options) {
  Quantization const& quantization = options.quantization;
  int const bits = quantization.scheme.weights, activation_bits = quantization.scheme.activations;
  require(bits == 4 || bits == 8, "[write_quantized] weights of ", bits,
          " bits: compressed-tensors is written with 4 or 8");
  require(activation_bits == 4 || activation_bits == 8 || activation_bits == 16,
          "[write_quantized] activations of ", activation_bits,
          " bits: choose 4, 8 or 16 for compressed-tensors");
  require(
      activation_bits == 16 || quantization.activation_symmetry == Symmetry::symmetric,
      "[write_quantized] compressed-tensors rounds activations symmetrically: choose symmetric activations");
  require(quantization.scheme.kv == 16, "[write_quantized] a KV cache of ", quantization.scheme.kv,
          " bits cannot be written into compressed-tensors: leave it at 16 and let the engine round it");
  require(!options.rotations.r3,
          "[write_quantized] R3 has no place in compressed-tensors as engines read it; leave r3 out");
}

std::vector<TensorInfo> tensors(PackedMap const& map, FolderQuantization const& folder, Dtype scales) {
  WeightQuantization const weights = folder.quantization.weights();
  index_t const groups = groups_of(map, weights);
  std::vector<TensorInfo> infos{
      {map.name + "weight_packed", Dtype::i32, {map.out, words(map.in, weights.bits)}},
      {map.name + "weight_scale", scales, {map.out, groups}},
      {map.name + "weight_shape", Dtype::i64, {2}}};
  if (weights.symmetry == Symmetry::asymmetric)
    infos.push_back({map.name + "weight_zero_point", Dtype::i32, {words(map.out, weights.bits), groups}});
  return infos;
}

void write(Cpu const&, PackedMap const& map, Levels const& levels, Dtype scales, TensorSink& writer) {
  std::visit([&](auto const& matrix) { write_levels(map, matrix, scales, writer); }, levels);
}

Levels read(Cpu const&, PackedMap const& map, FolderQuantization const& folder,
            Checkpoint const& checkpoint) {
  if (folder.quantization.scheme.weights <= 4) return read_levels<4>(map, folder, checkpoint);
  return read_levels<8>(map, folder, checkpoint);
}

std::string config_text(FolderQuantization const& folder, std::vector<std::string> kept) {
  kept.insert(kept.begin(), "lm_head");
  WeightQuantization const weights = folder.quantization.weights();
  Json weight_args{{"num_bits", weights.bits},
                   {"type", "int"},
                   {"symmetric", weights.symmetry == Symmetry::symmetric},
                   {"strategy", weights.group == 0 ? "channel" : "group"},
                   {"dynamic", false}};
  weight_args["group_size"] = weights.group == 0 ? Json(nullptr) : Json(weights.group);
  Json config{{"quant_method", "compressed-tensors"},
              {"format", "pack-quantized"},
              {"quantization_status", "compressed"},
              {"kv_cache_scheme", nullptr},
              {"global_compression_ratio", nullptr},
              {"ignore", kept},
              {"config_groups",
               {{"group_0",
                 {{"targets", Json::array({"Linear"})},
                  {"weights", weight_args},
                  {"input_activations", activations(folder.quantization)},
                  {"output_activations", nullptr}}}}}};
  if (index_t const block = r4_block(folder.transforms); block != 0)
    config["transform_config"] = {{"config_groups",
                                   {{"R4",
                                     {{"type", "hadamard"},
                                      {"head_dim", block},
                                      {"randomize", false},
                                      {"requires_grad", false},
                                      {"precision", "torch.float32"},
                                      {"apply", Json::array({{{"targets", Json::array({"re:.*down_proj$"})},
                                                              {"location", "input"},
                                                              {"inverse", false},
                                                              {"ignore", Json::array()}}})}}}}}};
  return config.dump();
}

FolderQuantization parse(std::string const& text, ModelConfig const& config, std::string const& source) {
  Json const json = parse_json(text, source);
  if (get<std::string>(json, "format", source) != "pack-quantized")
    fail(Kind::unsupported, source, ": compressed-tensors of format '",
         get<std::string>(json, "format", source), "' cannot be read; pack-quantized is needed");
  Json const& groups = object_member(json, "config_groups", source);
  if (groups.size() != 1)
    fail(Kind::unsupported, source, ": config_groups has ", groups.size(),
         " entries; exactly one can be read");
  Json const& group = *groups.begin();
  Json const& weights = object_member(group, "weights", source);
  FolderQuantization folder{.format = FolderFormat::compressed_tensors};
  Quantization& quantization = folder.quantization;
  quantization.scheme.weights =
      static_cast<int>(to_integer(member(weights, "num_bits", source), "num_bits", source, 1, 16));
  if (quantization.scheme.weights != 4 && quantization.scheme.weights != 8)
    fail(Kind::unsupported, source, ": weights of ", quantization.scheme.weights,
         " bits; 4 or 8 can be read");
  quantization.weight_symmetry =
      get<bool>(weights, "symmetric", source) ? Symmetry::symmetric : Symmetry::asymmetric;
  if (get<std::string>(weights, "strategy", source) == "group")
    quantization.weight_group =
        to_integer(member(weights, "group_size", source), "group_size", source, 1, 1 << 20);
  else if (get<std::string>(weights, "strategy", source) != "channel")
    fail(Kind::unsupported, source, ": weights of strategy '", get<std::string>(weights, "strategy", source),
         "'; group or channel can be read");
  if (Json const* const inputs = find_member(group, "input_activations", source)) {
    quantization.scheme.activations =
        static_cast<int>(to_integer(member(*inputs, "num_bits", source), "num_bits", source, 2, 8));
    quantization.activation_symmetry =
        get<bool>(*inputs, "symmetric", source) ? Symmetry::symmetric : Symmetry::asymmetric;
  }
  parse_transforms(json, config, source, folder);
  return folder;
}

}  // namespace dartquant::detail::compressed_tensors
