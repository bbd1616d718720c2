// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <dartquant/io/gguf.hpp>
#include <dartquant/model/architecture.hpp>

#include "model/gguf_names.hpp"

namespace dartquant::detail {

/// The text of the config.json that describes the model of a GGUF file. Errors: Error(format) for a key that
/// is missing or of another type, Error(unsupported) for what has no counterpart.
[[nodiscard]] std::string config_json_of(GgufFile const& file, GgufArchitecture const& row);

/// The keys that say the same of a model: sizes, RoPE, epsilon, experts. Errors: Error(unsupported) for what
/// llama.cpp computes in another way and has no key for.
[[nodiscard]] std::vector<GgufEntry> config_entries(ModelConfig const& config, GgufArchitecture const& row);

/// What llama.cpp does otherwise than the model without a loss for short texts; empty: nothing.
[[nodiscard]] std::string gguf_window_note(ModelConfig const& config, GgufArchitecture const& row);

/// Gemma's `query_pre_attn_scalar` as llama.cpp takes it, from the sizes: 1 / sqrt(scalar) multiplies the
/// scores.
[[nodiscard]] std::int64_t gguf_query_scalar(GgufArchitecture const& row, std::int64_t layers,
                                             std::int64_t hidden, std::int64_t heads, std::int64_t head_dim);

}  // namespace dartquant::detail
