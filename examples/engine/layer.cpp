// SPDX-License-Identifier: Apache-2.0
#include "layer.hpp"

#include <cmath>

namespace engine {
namespace {

Matrix rms_norm(Matrix const& X, Matrix const& gain) {
  Matrix Y = X;
  for (dartquant::index_t i = 0; i < X.rows(); ++i)
    Y.row(i) *= 1.0f / std::sqrt(X.row(i).squaredNorm() / static_cast<float>(X.cols()) + 1e-5f);
  return Y.array().rowwise() * Eigen::Map<Eigen::RowVectorXf const>(gain.data(), X.cols()).array();
}

}  // namespace

Layer read_layer(dartquant::Model const& model) {
  std::string const prefix = "model.layers.0.";
  auto const read = [&](std::string const& name) {
    return model.checkpoint().read_matrix<float>(prefix + name + ".weight");
  };
  Layer layer{{},
              read("input_layernorm"),
              read("post_attention_layernorm"),
              model.config().heads,
              model.config().kv_heads};
  for (char const* name : linear_names)
    if (std::string const tensor = tensor_of(name); model.checkpoint().contains(tensor + "weight"))
      layer.weight[name] = model.checkpoint().read_matrix<float>(tensor + "weight");
  return layer;
}

std::string tensor_of(std::string const& name) {
  bool const attention = name[0] == 'q' || name[0] == 'k' || name[0] == 'v' || name[0] == 'o';
  return std::string("model.layers.0.") + (attention ? "self_attn." : "mlp.") + name + ".";
}

Matrix run_layer(Layer const& layer, Matrix hidden, Linears const& linears) {
  Matrix X = rms_norm(hidden, layer.attention_gain);
  Matrix const V = linears(X, {"q_proj", "k_proj", "v_proj"}).at("v_proj");
  dartquant::index_t const head_dim = V.cols() / layer.kv_heads, share = layer.heads / layer.kv_heads;
  Matrix mixed(hidden.rows(), layer.heads * head_dim);
  for (dartquant::index_t head = 0; head < layer.heads; ++head)
    mixed.middleCols(head * head_dim, head_dim) = V.middleCols(head / share * head_dim, head_dim);
  hidden += linears(mixed, {"o_proj"}).at("o_proj");
  X = rms_norm(hidden, layer.mlp_gain);
  auto const gated = linears(X, {"gate_proj", "up_proj"});
  Matrix const& gate = gated.at("gate_proj");
  Matrix product = gate.array() / (1.0f + (-gate.array()).exp()) * gated.at("up_proj").array();
  hidden += linears(product, {"down_proj"}).at("down_proj");
  return hidden;
}

}  // namespace engine
