// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <dartquant/model/architecture.hpp>

// How a family's rows become tensor names and sizes. Private to the model pipeline.
namespace dartquant::detail {

/// The file that `fold` leaves beside the weights, and the one with the rotations.
inline constexpr std::string_view manifest_name = "dartquant.json", rotations_name = "rotations.safetensors";

[[nodiscard]] index_t extent_of(ModelConfig const& config, Extent extent);
/// Such as model.layers.3.self_attn.q_proj.weight.
[[nodiscard]] std::string tensor_name(Family const& family, index_t layer, std::string_view part,
                                      std::string_view suffix);
/// The bias beside a weight: such as model.decoder.final_layer_norm.bias.
[[nodiscard]] std::string bias_beside(std::string_view weight);

/// One linear map of one layer: where it lies in the checkpoint, its size, and what acts on it.
struct LayerLinear {
  Linear linear;
  index_t block = 0;  ///< of the MLPs of a sparse layer: the expert, and after the last one the shared expert
  std::string weight, bias{};              ///< tensor names; an empty bias: none
  std::string norm{};                      ///< name of the gain that is folded into the columns; empty: none
  index_t first_row = 0, tensor_rows = 0;  ///< of a tensor that it shares with others
  index_t outputs = 0, inputs = 0;
  Acts input_side = Acts::none, output_side = Acts::none;

  [[nodiscard]] bool shares_tensor() const { return outputs != tensor_rows; }
  /// The router and the gate of the shared expert stay in full precision.
  [[nodiscard]] bool quantized() const { return linear != Linear::router && linear != Linear::shared_gate; }
};

/// All linear maps of a layer: q, k, v, o; gate, up and down of every MLP; router and gate of a mixture.
[[nodiscard]] std::vector<LayerLinear> linears_of(Family const& family, ModelConfig const& config,
                                                  index_t layer);
/// MLPs of a layer: 1, or the experts with the shared one.
[[nodiscard]] index_t blocks_of(ModelConfig const& config, index_t layer);

/// The norms of a layer, names below its prefix, with their sizes. Empty names are left out.
struct LayerNorm {
  std::string_view name;
  index_t channels;
};
[[nodiscard]] std::vector<LayerNorm> norms_of(Family const& family, ModelConfig const& config);

}  // namespace dartquant::detail
