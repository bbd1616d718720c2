// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include <dartquant/io/gguf.hpp>
#include <dartquant/model/architecture.hpp>

#include "model/gguf_names.hpp"

namespace dartquant::detail {

/// The text of the config.json that describes the model of a GGUF file. Errors: Error(format) for a key that
/// is missing or of another type, Error(unsupported) for what has no counterpart, such as experts.
[[nodiscard]] std::string config_json_of(GgufFile const& file, GgufArchitecture const& row);

/// The keys that say the same of a model: sizes, RoPE, epsilon.
[[nodiscard]] std::vector<GgufEntry> config_entries(ModelConfig const& config, GgufArchitecture const& row);

}  // namespace dartquant::detail
