// SPDX-License-Identifier: Apache-2.0
#include "model/quantized_weights.hpp"

#include <algorithm>
#include <set>

#include <dartquant/core/error.hpp>

#include "io/json.hpp"
#include "model/layer_parts.hpp"
#include "model/layout.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

PackedMap map_of(Model const& model, index_t layer, LinearRule const& rule) {
  return {tensor_name(model.family(), layer, rule.name, "."), extent_of(model.config(), rule.outputs),
          extent_of(model.config(), rule.inputs)};
}

bool is_float(Dtype dtype) { return dtype == Dtype::f32 || dtype == Dtype::f16 || dtype == Dtype::bf16; }

/// Exact shape; the type exactly, or any float where a float is asked for.
void check_tensor(Checkpoint const& checkpoint, TensorInfo const& wanted) {
  Tensor const& found = checkpoint.tensor(wanted.name);
  bool const type = is_float(wanted.dtype) ? is_float(found.dtype) : found.dtype == wanted.dtype;
  if (type && std::ranges::equal(found.shape, wanted.shape)) return;
  std::string shape;
  for (index_t const size : wanted.shape) shape += sentence(shape.empty() ? "" : ", ", size);
  refuse_packed(checkpoint, wanted.name,
                sentence("is ", describe(found), ", but config.json asks for ", to_string(wanted.dtype), " [",
                         shape, "]"));
}

std::vector<TensorInfo> packed_infos(PackedMap const& map, FolderQuantization const& folder) {
  return folder.format == FolderFormat::native ? native::tensors(map, folder)
                                               : compressed_tensors::tensors(map, folder, Dtype::f32);
}

RowMatrix<float> as_row(std::vector<double> const& values) {
  return Eigen::Map<Eigen::RowVectorXd const>(values.data(), static_cast<index_t>(values.size()))
      .cast<float>();
}

}  // namespace

void refuse_packed(Checkpoint const& checkpoint, std::string const& tensor, std::string const& why) {
  fail(Kind::format, checkpoint.folder().string(), ": tensor '", tensor, "': ", why);
}

std::string take_quantization(std::string& config_text, std::string const& source) {
  Json config = parse_json(config_text, source);
  Json const* const quantization = find_member(config, "quantization_config", source);
  if (quantization == nullptr) return {};
  std::string const text = quantization->dump();
  config.erase("quantization_config");
  config_text = config.dump();
  return text;
}

FolderQuantization read_quantization(std::filesystem::path const& folder, std::string const& text,
                                     ModelConfig const& config) {
  std::string const source = (folder / "config.json").string();
  std::string const method = get<std::string>(parse_json(text, source), "quant_method", source);
  if (method == "compressed-tensors") return compressed_tensors::parse(text, config, source);
  if (method != "dartquant")
    fail(Kind::unsupported, source, ": weights quantized by '", method,
         "' cannot be read (known: compressed-tensors, dartquant)");
  FolderQuantization result = native::parse(text, source);
  std::filesystem::path const rotations = folder / rotations_name;
  if (!std::filesystem::exists(rotations)) return result;
  result.transforms = load_rotations(rotations, config);
  if (result.transforms.r1.size() != 0 || !result.transforms.r2.empty())
    fail(Kind::format, rotations.string(), ": it holds R1 or R2, which packed weights have in them already");
  for (LayerTransforms const& layer : result.transforms.layers) {
    for (ScalePart const& part : scale_parts)
      if (layer.*part.scale)
        fail(Kind::format, rotations.string(),
             ": it holds a scale, which packed weights have in them already");
    result.online.r4 = result.online.r4 || has_steps(layer.down_proj_input);
  }
  return result;
}

void check_packed_tensors(Model const& model) {
  ModelConfig untied = model.config();
  untied.tied_embeddings = false;
  Checkpoint const& checkpoint = model.checkpoint();
  std::set<std::string> known;
  std::set<std::string> linear;
  for (index_t layer = 0; layer < untied.layers; ++layer)
    for (LinearRule const& rule : model.family().linears) {
      PackedMap const map = map_of(model, layer, rule);
      linear.insert(map.name + "weight");
      linear.insert(map.name + "bias");
      for (TensorInfo const& info : packed_infos(map, *model.quantized())) {
        check_tensor(checkpoint, info);
        known.insert(info.name);
      }
      std::string const bias = map.name + "bias";
      if (!checkpoint.contains(bias)) {
        if (has_bias(untied, rule)) refuse_packed(checkpoint, bias, "it is missing");
        continue;
      }
      check_tensor(checkpoint, {bias, Dtype::f32, {map.out}});
      known.insert(bias);
    }
  for (TensorInfo const& info : expected_tensors(model.family(), untied)) {
    if (linear.contains(info.name)) continue;
    check_tensor(checkpoint, {info.name, Dtype::f32, info.shape});
    known.insert(info.name);
  }
  for (std::string const& name : checkpoint.names())
    if (!known.contains(name))
      fail(Kind::unsupported, checkpoint.folder().string(), ": tensor '", name,
           "' is not part of what config.json describes");
}

Levels read_levels(Cpu const& cpu, Model const& model, index_t layer, LinearRule const& rule) {
  PackedMap const map = map_of(model, layer, rule);
  FolderQuantization const& folder = *model.quantized();
  return folder.format == FolderFormat::native
             ? native::read(cpu, map, folder, model.checkpoint())
             : compressed_tensors::read(cpu, map, folder, model.checkpoint());
}

LayerWeights load_packed_layer(Model const& model, index_t layer) {
  static LayerTransforms const nothing;
  Family const& family = model.family();
  Checkpoint const& checkpoint = model.checkpoint();
  std::vector<LayerTransforms> const& layers = model.quantized()->transforms.layers;
  LayerTransforms const& online = layers.empty() ? nothing : layers[static_cast<std::size_t>(layer)];
  LayerWeights result;
  for (LinearRule const& rule : family.linears) {
    std::string const bias = tensor_name(family, layer, rule.name, ".bias");
    if (checkpoint.contains(bias))
      result.bias[static_cast<std::size_t>(rule.linear)] = checkpoint.read_matrix<float>(bias);
  }
  result.attention_gain =
      checkpoint.read_matrix<float>(tensor_name(family, layer, family.attention_norm, ".weight"));
  result.mlp_gain = checkpoint.read_matrix<float>(tensor_name(family, layer, family.mlp_norm, ".weight"));
  result.attention_shift = as_row(online.attention_shift);
  result.mlp_shift = as_row(online.mlp_shift);
  result.key_shift = as_row(online.key_shift);
  result.transforms = &online;
  return result;
}

}  // namespace dartquant::detail
