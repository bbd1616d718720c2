// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <dartquant/model/architecture.hpp>

// How GGUF names architectures and tensors, as data: a new architecture of the same form is one more row.
namespace dartquant::detail {

/// The order of the rows of q_proj and k_proj inside a head: as in Hugging Face, or as Tensor's
/// interleaved_heads describes it.
enum class HeadRows { halves, interleaved };

struct GgufArchitecture {
  std::string_view name;          ///< general.architecture, and the prefix of its keys
  std::string_view architecture;  ///< `architectures[0]` of config.json
  std::string_view model_type;    ///< `model_type` of config.json
  HeadRows head_rows;
};

/// All rows. Where two have the same name, the first one is read.
[[nodiscard]] std::span<GgufArchitecture const> gguf_architectures();

/// The row that is read, or written. Errors: Error(unsupported) that lists the known ones.
[[nodiscard]] GgufArchitecture const& gguf_architecture_named(std::string_view name,
                                                              std::string const& source);
[[nodiscard]] GgufArchitecture const& gguf_architecture_of(std::string_view architecture);

/// model.layers.3.self_attn.q_proj.weight <-> blk.3.attn_q.weight, and so on; nothing for an unknown name.
[[nodiscard]] std::optional<std::string> to_gguf_name(Family const& family, std::string_view name);
[[nodiscard]] std::optional<std::string> from_gguf_name(Family const& family, std::string_view name);

/// Heads whose rows a tensor of a model has interleaved in GGUF; 0 for none.
[[nodiscard]] index_t interleaved_heads(GgufArchitecture const& row, ModelConfig const& config,
                                        std::string_view gguf_name);

/// The factors of RoPE's angles that `scaling` of kind llama3 gives [head_dim / 2]: angles are divided by
/// them. GGUF stores them as the tensor rope_freqs.weight.
inline constexpr std::string_view rope_factors_name = "rope_freqs.weight";
[[nodiscard]] RowMatrix<float> rope_factors(RopeScaling const& scaling, double theta, index_t head_dim);

}  // namespace dartquant::detail
