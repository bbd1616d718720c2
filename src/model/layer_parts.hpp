// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dartquant/core/error.hpp>
#include <dartquant/model/rotations.hpp>

// The parts of LayerTransforms as data. Private to the model pipeline.
namespace dartquant::detail {

struct ScalePart {
  std::string_view name;
  std::optional<DiagonalScale> LayerTransforms::*scale;
  Extent channels;
};
inline constexpr std::array scale_parts{
    ScalePart{"attention_scale", &LayerTransforms::attention_scale, Extent::hidden},
    ScalePart{"value_scale", &LayerTransforms::value_scale, Extent::kv_channels},
    ScalePart{"mlp_scale", &LayerTransforms::mlp_scale, Extent::hidden},
    ScalePart{"down_scale", &LayerTransforms::down_scale, Extent::intermediate}};

struct ShiftPart {
  std::string_view name;
  std::vector<double> LayerTransforms::*shift;
  Extent channels;
};
inline constexpr std::array shift_parts{
    ShiftPart{"attention_shift", &LayerTransforms::attention_shift, Extent::hidden},
    ShiftPart{"mlp_shift", &LayerTransforms::mlp_shift, Extent::hidden},
    ShiftPart{"key_shift", &LayerTransforms::key_shift, Extent::kv_channels}};

struct InputPart {
  std::string_view name;
  std::optional<Transform> LayerTransforms::*transform;
  Extent channels;
};
inline constexpr std::array input_parts{
    InputPart{"q_proj_input", &LayerTransforms::q_proj_input, Extent::hidden},
    InputPart{"o_proj_input", &LayerTransforms::o_proj_input, Extent::query_channels},
    InputPart{"up_proj_input", &LayerTransforms::up_proj_input, Extent::hidden},
    InputPart{"down_proj_input", &LayerTransforms::down_proj_input, Extent::intermediate}};

[[nodiscard]] inline bool has_steps(std::optional<Transform> const& transform) {
  return transform && !transform->steps().empty();
}

[[nodiscard]] inline bool has_shifts(LayerTransforms const& layer) {
  for (ShiftPart const& part : shift_parts)
    if (!(layer.*part.shift).empty()) return true;
  return false;
}

/// The scales [kv_heads * head_dim] of values as the o_proj input [heads * head_dim] meets them: every query
/// head has those of the KV head it reads.
[[nodiscard]] inline DiagonalScale query_head_scale(DiagonalScale const& values, ModelConfig const& config) {
  index_t const group = config.heads / config.kv_heads, head_dim = config.head_dim;
  std::vector<double> scale;
  for (index_t head = 0; head < config.heads; ++head)
    for (index_t i = 0; i < head_dim; ++i)
      scale.push_back(values.scale()[static_cast<std::size_t>(head / group * head_dim + i)]);
  return DiagonalScale(std::move(scale));
}

/// Such as model.layers.3.down_scale.
[[nodiscard]] inline std::string part_name(std::size_t layer, std::string_view part) {
  return sentence("model.layers.", layer, ".", part);
}

}  // namespace dartquant::detail
