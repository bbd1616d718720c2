// SPDX-License-Identifier: Apache-2.0
#include "model/quantized_weights.hpp"

#include <algorithm>
#include <set>

#include <dartquant/core/error.hpp>

#include "io/json.hpp"
#include "model/layer_parts.hpp"
#include "model/layout.hpp"
#include "model/weights.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

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
  std::set<std::string> known, packed;
  for (index_t layer = 0; layer < untied.layers; ++layer)
    for (LayerLinear const& linear : linears_of(model.family(), untied, layer)) {
      if (!linear.quantized()) continue;
      PackedMap const map = packed_map(linear);
      packed.insert({linear.weight, linear.bias});
      for (TensorInfo const& info : packed_infos(map, *model.quantized())) {
        check_tensor(checkpoint, info);
        known.insert(info.name);
      }
      std::string const bias = map.name + "bias";
      if (!checkpoint.contains(bias)) {
        if (!linear.bias.empty()) refuse_packed(checkpoint, bias, "it is missing");
        continue;
      }
      check_tensor(checkpoint, {bias, Dtype::f32, {map.out}});
      known.insert(bias);
    }
  for (TensorInfo const& info : expected_tensors(model.family(), untied)) {
    if (packed.contains(info.name)) continue;
    check_tensor(checkpoint, {info.name, Dtype::f32, info.shape});
    known.insert(info.name);
  }
  for (std::string const& name : checkpoint.names())
    if (!known.contains(name))
      fail(Kind::unsupported, checkpoint.folder().string(), ": tensor '", name,
           "' is not part of what config.json describes");
}

PackedMap packed_map(LayerLinear const& linear) {
  return {linear.weight.substr(0, linear.weight.rfind('.') + 1), linear.tensor_rows, linear.inputs};
}

Levels read_levels(Cpu const& cpu, Model const& model, LayerLinear const& linear) {
  FolderQuantization const& folder = *model.quantized();
  Levels levels = folder.format == FolderFormat::native
                      ? native::read(cpu, packed_map(linear), folder, model.checkpoint())
                      : compressed_tensors::read(cpu, packed_map(linear), folder, model.checkpoint());
  if (!linear.shares_tensor()) return levels;
  return std::visit(
      [&](auto const& all) -> Levels {
        auto own = with_rows(all, linear.outputs);
        copy_rows(all, linear.first_row, own, 0, linear.outputs);
        return own;
      },
      levels);
}

LayerWeights load_packed_layer(Cpu const& cpu, Model const& model, index_t layer) {
  static LayerTransforms const nothing;
  Family const& family = model.family();
  Checkpoint const& checkpoint = model.checkpoint();
  FoldedWeights const stored(cpu, model, nullptr, {}, NormGains::kept);
  std::vector<LayerTransforms> const& layers = model.quantized()->transforms.layers;
  LayerTransforms const& online = layers.empty() ? nothing : layers[static_cast<std::size_t>(layer)];
  LayerWeights result;
  result.linears = stored.linears(layer);
  for (LayerLinear const& linear : result.linears) {
    LinearWeights& map = result.maps.emplace_back();
    if (!linear.quantized()) map.weight = checkpoint.read_matrix<float>(linear.weight);
    std::string const bias = packed_map(linear).name + "bias";
    if (checkpoint.contains(bias))
      map.bias = checkpoint.read_matrix<float>(bias).middleCols(linear.first_row, linear.outputs);
  }
  result.attention_norm = stored.attention_norm(layer);
  result.mlp_norm = stored.mlp_norm(layer);
  result.attention_output_norm = stored.kept_norm(layer, family.attention_output_norm);
  result.mlp_output_norm = stored.kept_norm(layer, family.mlp_output_norm);
  result.query_norm = stored.kept_norm(layer, family.query_norm);
  result.key_norm = stored.kept_norm(layer, family.key_norm);
  result.attention_shift = as_row(online.attention_shift);
  result.mlp_shift = as_row(online.mlp_shift);
  result.key_shift = as_row(online.key_shift);
  result.transforms = &online;
  return result;
}

}  // namespace dartquant::detail
