// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <dartquant/model/quantized_folder.hpp>

#include "model/decoder_layer.hpp"
#include "model/packed_tensors.hpp"

namespace dartquant::detail {

/// Takes quantization_config out of the text of a config.json and returns it as text; empty where there is
/// none.
[[nodiscard]] std::string take_quantization(std::string& config_text, std::string const& source);

/// Reads what `text`, a quantization_config, says, and for the native format the file of rotations beside it.
/// Errors: Error(format), Error(unsupported) for a format or method that is not known here.
[[nodiscard]] FolderQuantization read_quantization(std::filesystem::path const& folder,
                                                   std::string const& text, ModelConfig const& config);

/// The tensors of a folder of packed weights, checked against config.json. Errors: Error(format),
/// Error(unsupported) naming the tensor.
void check_packed_tensors(Model const& model);

/// The tensors that stand in the place of the weight of a linear map.
[[nodiscard]] PackedMap packed_map(LayerLinear const& linear);

/// The levels of one linear map. Errors: Error(format) naming the tensor.
[[nodiscard]] Levels read_levels(Cpu const& cpu, Model const& model, LayerLinear const& linear);

/// All of a layer but the packed weights, which stay empty.
[[nodiscard]] LayerWeights load_packed_layer(Cpu const& cpu, Model const& model, index_t layer);

}  // namespace dartquant::detail
