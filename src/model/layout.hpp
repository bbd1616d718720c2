// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include <dartquant/model/architecture.hpp>

// How a family's rows become tensor names and sizes. Private to the model pipeline.
namespace dartquant::detail {

/// The file that `fold` leaves beside the weights, and the one with the rotations.
inline constexpr std::string_view manifest_name = "dartquant.json", rotations_name = "rotations.safetensors";

[[nodiscard]] index_t extent_of(ModelConfig const& config, Extent extent);
[[nodiscard]] bool has_bias(ModelConfig const& config, LinearRule const& rule);
/// Such as model.layers.3.self_attn.q_proj.weight.
[[nodiscard]] std::string tensor_name(Family const& family, index_t layer, std::string_view part,
                                      std::string_view suffix);

}  // namespace dartquant::detail
