// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <dartquant/dartquant.hpp>

namespace engine {

using Matrix = dartquant::RowMatrix<float>;

inline constexpr std::array<char const*, 7> linear_names{"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                         "gate_proj", "up_proj", "down_proj"};
/// Such as "model.layers.0.self_attn.q_proj.".
[[nodiscard]] std::string tensor_of(std::string const& name);

struct Layer {
  std::map<std::string, Matrix> weight;  ///< [out, in] by the name of the projection
  Matrix attention_gain, mlp_gain;       ///< [1, hidden]
  dartquant::index_t heads, kv_heads;
};

/// The first layer of a model; weights only where the folder holds floats.
[[nodiscard]] Layer read_layer(dartquant::Model const& model);

/// Computes the maps named in `names` on the same input X: Y of each.
using Linears =
    std::function<std::map<std::string, Matrix>(Matrix& X, std::vector<std::string> const& names)>;

/// One decoder layer on tokens that see only themselves, so that attention returns the value of each head.
[[nodiscard]] Matrix run_layer(Layer const& layer, Matrix hidden, Linears const& linears);

}  // namespace engine
