// SPDX-License-Identifier: Apache-2.0
#include "model/layout.hpp"

#include <algorithm>
#include <functional>

#include <dartquant/core/error.hpp>

namespace dartquant {
namespace detail {
namespace {

bool has_bias(ModelConfig const& config, BiasRule rule) {
  switch (rule) {
    case BiasRule::never:
      return false;
    case BiasRule::always:
      return true;
    case BiasRule::attention_bias:
      return config.attention_bias;
    case BiasRule::mlp_bias:
      return config.mlp_bias;
    case BiasRule::qkv_bias:
      return config.qkv_bias;
  }
  return false;
}

/// The maps of one layer, one after the other.
class Builder {
 public:
  Builder(Family const& family, ModelConfig const& config, index_t layer)
      : family_(family), config_(config), layer_(layer) {}

  [[nodiscard]] LinearRule const& rule(Linear linear) const {
    return family_.linears[static_cast<std::size_t>(linear)];
  }
  [[nodiscard]] index_t outputs(LinearRule const& rule) const { return extent_of(config_, rule.outputs); }

  /// A map of the family's own rules; rules of one name share a tensor.
  void add(LinearRule const& rule) {
    if (rule.name.empty()) return;
    LayerLinear linear = map(rule, rule.name, outputs(rule), extent_of(config_, rule.inputs));
    linear.tensor_rows = 0;
    for (LinearRule const& other : family_.linears) {
      if (other.name != rule.name) continue;
      if (other.linear < rule.linear) linear.first_row += outputs(other);
      linear.tensor_rows += outputs(other);
    }
    result.push_back(std::move(linear));
  }

  /// An MLP of a sparse layer.
  void add_expert(index_t block, std::string const& prefix, std::array<std::string_view, 3> const& names,
                  index_t width) {
    constexpr std::array linears{Linear::gate_proj, Linear::up_proj, Linear::down_proj};
    for (std::size_t i = 0; i < linears.size(); ++i) {
      bool const down = linears[i] == Linear::down_proj;
      LayerLinear linear = map(rule(linears[i]), sentence(prefix, '.', names[i]),
                               down ? config_.hidden : width, down ? width : config_.hidden);
      linear.block = block;
      result.push_back(std::move(linear));
    }
  }

  /// A map that reads the input of up_proj in full precision.
  void add_chooser(Linear linear, std::string_view name, index_t outputs) {
    LayerLinear chooser = map(rule(Linear::up_proj), name, outputs, config_.hidden);
    chooser.linear = linear;
    result.push_back(std::move(chooser));
  }

  std::vector<LayerLinear> result;

 private:
  [[nodiscard]] LayerLinear map(LinearRule const& rule, std::string_view name, index_t outputs,
                                index_t inputs) const {
    LayerLinear linear{.linear = rule.linear, .weight = tensor_name(family_, layer_, name, ".weight")};
    if (has_bias(config_, rule.bias)) linear.bias = tensor_name(family_, layer_, name, ".bias");
    if (!rule.norm.empty()) linear.norm = tensor_name(family_, layer_, rule.norm, ".weight");
    linear.outputs = linear.tensor_rows = outputs;
    linear.inputs = inputs;
    linear.input_side = rule.input_side;
    linear.output_side = rule.output_side;
    return linear;
  }

  Family const& family_;
  ModelConfig const& config_;
  index_t layer_;
};

void add_mixture(Family const& family, Mixture const& mixture, Builder& builder) {
  MixtureRule const& rule = family.mixture;
  for (index_t expert = 0; expert < mixture.experts; ++expert)
    builder.add_expert(expert, sentence(rule.experts, '.', expert), {rule.gate, rule.up, rule.down},
                       mixture.intermediate);
  if (mixture.shared_intermediate != 0)
    builder.add_expert(mixture.experts, std::string(rule.shared), {"gate_proj", "up_proj", "down_proj"},
                       mixture.shared_intermediate);
  builder.add_chooser(Linear::router, rule.router, mixture.experts);
  if (mixture.shared_intermediate != 0 && !rule.shared_gate.empty())
    builder.add_chooser(Linear::shared_gate, rule.shared_gate, 1);
}

std::vector<TensorInfo> layer_tensors(Family const& family, ModelConfig const& config, index_t layer) {
  std::vector<TensorInfo> tensors;
  for (LayerNorm const& norm : norms_of(family, config)) {
    std::string const name = tensor_name(family, layer, norm.name, ".weight");
    tensors.push_back({name, config.dtype, {norm.channels}});
    if (family.norm == NormKind::layer) tensors.push_back({bias_beside(name), config.dtype, {norm.channels}});
  }
  for (LayerLinear const& linear : linears_of(family, config, layer)) {
    if (linear.first_row != 0) continue;  // it shares the tensor of one before
    tensors.push_back({linear.weight, config.dtype, {linear.tensor_rows, linear.inputs}});
    if (!linear.bias.empty()) tensors.push_back({linear.bias, config.dtype, {linear.tensor_rows}});
  }
  return tensors;
}

index_t values_of(std::vector<TensorInfo> const& tensors) {
  index_t values = 0;
  for (TensorInfo const& tensor : tensors)
    values += tensor.shape[0] * (tensor.shape.size() == 2 ? tensor.shape[1] : 1);
  return values;
}

}  // namespace

index_t extent_of(ModelConfig const& config, Extent extent) {
  switch (extent) {
    case Extent::hidden:
      return config.hidden;
    case Extent::intermediate:
      return config.intermediate;
    case Extent::query_channels:
      return config.query_channels();
    case Extent::kv_channels:
      return config.kv_channels();
  }
  return 0;
}

std::string tensor_name(Family const& family, index_t layer, std::string_view part, std::string_view suffix) {
  return sentence(family.layer_prefix, layer, '.', part, suffix);
}

std::string bias_beside(std::string_view weight) {
  return std::string(weight.substr(0, weight.rfind('.'))).append(".bias");
}

std::vector<LayerLinear> linears_of(Family const& family, ModelConfig const& config, index_t layer) {
  Builder builder(family, config, layer);
  for (LinearRule const& rule : family.linears)
    if (rule.linear <= Linear::o_proj || !config.sparse(layer)) builder.add(rule);
  if (config.sparse(layer)) add_mixture(family, config.mixture, builder);
  return std::move(builder.result);
}

index_t blocks_of(ModelConfig const& config, index_t layer) {
  if (!config.sparse(layer)) return 1;
  return config.mixture.experts + (config.mixture.shared_intermediate != 0 ? 1 : 0);
}

std::vector<LayerNorm> norms_of(Family const& family, ModelConfig const& config) {
  std::vector<LayerNorm> norms{
      {family.attention_norm, config.hidden}, {family.attention_output_norm, config.hidden},
      {family.mlp_norm, config.hidden},       {family.mlp_output_norm, config.hidden},
      {family.query_norm, config.head_dim},   {family.key_norm, config.head_dim}};
  std::erase_if(norms, [](LayerNorm const& norm) { return norm.name.empty(); });
  return norms;
}

}  // namespace detail

std::vector<TensorInfo> expected_tensors(Family const& family, ModelConfig const& config) {
  std::vector<TensorInfo> tensors;
  auto const add = [&](std::string name, std::vector<index_t> shape) {
    tensors.push_back({std::move(name), config.dtype, std::move(shape)});
  };
  add(std::string(family.embedding), {config.vocabulary, config.hidden});
  if (!family.positions.empty()) add(std::string(family.positions), {config.positions + 2, config.hidden});
  for (index_t layer = 0; layer < config.layers; ++layer)
    for (TensorInfo& tensor : detail::layer_tensors(family, config, layer))
      tensors.push_back(std::move(tensor));
  add(std::string(family.final_norm), {config.hidden});
  if (family.norm == NormKind::layer) add(detail::bias_beside(family.final_norm), {config.hidden});
  if (!config.tied_embeddings) add(std::string(family.head), {config.vocabulary, config.hidden});
  return tensors;
}

bool ModelConfig::sparse(index_t layer) const {
  return mixture.experts != 0 && !std::ranges::binary_search(mixture.dense_layers, layer);
}

std::vector<index_t> ModelConfig::down_widths() const {
  bool const any_sparse = mixture.experts != 0 && static_cast<index_t>(mixture.dense_layers.size()) < layers;
  bool const any_dense = mixture.experts == 0 || !mixture.dense_layers.empty();
  std::vector<index_t> widths;
  if (any_dense) widths.push_back(intermediate);
  if (any_sparse) widths.push_back(mixture.intermediate);
  if (any_sparse && mixture.shared_intermediate != 0) widths.push_back(mixture.shared_intermediate);
  std::ranges::sort(widths, std::greater<>());
  widths.erase(std::unique(widths.begin(), widths.end()), widths.end());
  return widths;
}

index_t ModelConfig::layer_parameters() const {
  Family const& family = family_of(architecture);
  index_t const dense = mixture.dense_layers.empty() ? 0 : mixture.dense_layers.front();
  index_t sparse_layer = 0;
  while (mixture.experts != 0 && sparse_layer + 1 < layers && !sparse(sparse_layer)) ++sparse_layer;
  return std::max(detail::values_of(detail::layer_tensors(family, *this, dense)),
                  detail::values_of(detail::layer_tensors(family, *this, sparse_layer)));
}

index_t ModelConfig::parameters() const {
  return detail::values_of(expected_tensors(family_of(architecture), *this));
}

}  // namespace dartquant
