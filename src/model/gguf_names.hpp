// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dartquant/model/architecture.hpp>

// How GGUF names architectures and tensors. A new architecture of the same form is one more row.
namespace dartquant::detail {

/// The order of the rows of q_proj and k_proj inside a head: as in Hugging Face, or as Tensor's
/// interleaved_heads describes it.
enum class HeadRows { halves, interleaved };

struct GgufArchitecture {
  std::string_view name;          ///< general.architecture, and the prefix of its keys
  std::string_view architecture;  ///< `architectures[0]` of config.json
  std::string_view model_type;    ///< `model_type` of config.json
  HeadRows head_rows;
  bool normalized = false;    ///< llama.cpp divides the weights of the chosen experts by their sum
  bool dense_layers = false;  ///< it knows first layers without experts
  bool own_head = true;       ///< false: lm_head is always the embedding
  std::string_view experts_key = "num_experts";  ///< how config.json calls their number
};

/// All rows. Where two have the same name and both have experts or both have none, the first one is read.
[[nodiscard]] std::span<GgufArchitecture const> gguf_architectures();

/// The row that is read, or written. Errors: Error(unsupported) that lists the known ones.
[[nodiscard]] GgufArchitecture const& gguf_architecture_named(std::string_view name, bool experts,
                                                              std::string const& source);
[[nodiscard]] GgufArchitecture const& gguf_architecture_of(std::string_view architecture);

/// The names of a family's tensors in GGUF. All experts of a layer share one tensor per map, one after the
/// other: model.layers.3.mlp.experts.0.up_proj.weight, ...1..., ... <-> blk.3.ffn_up_exps.weight.
class GgufNames {
 public:
  /// `family` must outlive this.
  explicit GgufNames(Family const& family);

  /// Empty for an unknown name.
  [[nodiscard]] std::string to_gguf(std::string_view name) const;
  /// Which expert of its layer a tensor of the model belongs to; 0 where to none.
  [[nodiscard]] index_t expert_of(std::string_view name) const;
  /// One name; for a tensor of experts so many; none for an unknown name.
  [[nodiscard]] std::vector<std::string> from_gguf(std::string_view gguf, index_t experts) const;

  /// Whether all experts of a layer are in the tensor of this GGUF name.
  [[nodiscard]] static bool holds_experts(std::string_view gguf);
  /// Whether it is the gate of the shared expert, which has one dimension in GGUF and two in the model.
  [[nodiscard]] static bool is_shared_gate(std::string_view gguf);

 private:
  using Pair = std::pair<std::string, std::string>;  ///< the model's part, GGUF's
  Family const& family_;
  std::vector<Pair> whole_, parts_, experts_;
};

/// Heads whose rows a tensor of a model has interleaved in GGUF; 0 for none.
[[nodiscard]] index_t interleaved_heads(GgufArchitecture const& row, ModelConfig const& config,
                                        std::string_view gguf_name);
/// What is added to the values of a tensor in GGUF: 1 to the gains of a norm that multiplies by 1 + w.
[[nodiscard]] float added_value(Family const& family, std::string_view gguf_name);

/// The factors of RoPE's angles that `scaling` of kind llama3 gives [head_dim / 2]: angles are divided by
/// them. GGUF stores them as the tensor rope_freqs.weight, and the two lists of longrope likewise.
inline constexpr std::string_view rope_factors_name = "rope_freqs.weight",
                                  short_factors_name = "rope_factors_short.weight",
                                  long_factors_name = "rope_factors_long.weight";
[[nodiscard]] RowMatrix<float> rope_factors(RopeScaling const& scaling, double theta, index_t head_dim);

}  // namespace dartquant::detail
