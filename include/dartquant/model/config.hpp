// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <dartquant/core/view.hpp>
#include <dartquant/io/checkpoint.hpp>

namespace dartquant {

/// How `rope_scaling` stretches the angles of the rotary position embedding.
struct RopeScaling {
  enum class Kind { none, linear, llama3, longrope };
  Kind kind = Kind::none;
  double factor = 1;              ///< linear and llama3: positions are divided by it
  double low_frequency = 1;       ///< llama3: `low_freq_factor`
  double high_frequency = 4;      ///< llama3: `high_freq_factor`
  double original_positions = 0;  ///< llama3, longrope: `original_max_position_embeddings`
  /// longrope: pair i turns slower by factor i, the long ones where a window has more than
  /// original_positions tokens; [rotary_channels / 2].
  std::vector<double> short_factors{}, long_factors{};
  double attention_factor = 1;  ///< longrope: multiplies cosine and sine
};

/// The function between up_proj (or gate_proj) and down_proj.
enum class Activation {
  silu,       ///< x / (1 + exp(-x))
  gelu_tanh,  ///< x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
  relu        ///< max(x, 0)
};

/// Experts of the sparse layers of a model: y = sum over the `active` largest of softmax(router x) of
/// weight_e expert_e(x), plus the shared expert.
struct Mixture {
  index_t experts = 0;                  ///< routed experts of a sparse layer; 0: the model is dense
  index_t active = 0;                   ///< of them per token
  index_t intermediate = 0;             ///< channels of a routed expert
  index_t shared_intermediate = 0;      ///< channels of the expert that sees every token; 0: there is none
  bool normalized = false;              ///< the weights of the chosen experts are divided by their sum
  std::vector<index_t> dense_layers{};  ///< rising: layers with one MLP all the same
};

/// The numbers of a Hugging Face config.json that a decoder's arithmetic depends on. A default is what Llama
/// does.
struct ModelConfig {
  std::string architecture{};    ///< `architectures[0]`, such as LlamaForCausalLM
  index_t hidden = 0;            ///< `hidden_size`: channels of the residual stream
  index_t intermediate = 0;      ///< `intermediate_size`: channels between up_proj and down_proj
  index_t layers = 0;            ///< `num_hidden_layers`
  index_t heads = 0;             ///< `num_attention_heads`: query heads
  index_t kv_heads = 0;          ///< `num_key_value_heads`; heads / kv_heads query heads share one
  index_t head_dim = 0;          ///< `head_dim`, or hidden / heads where the key is absent
  index_t vocabulary = 0;        ///< `vocab_size`
  index_t positions = 0;         ///< `max_position_embeddings`
  double norm_epsilon = 0;       ///< `rms_norm_eps`
  double rope_theta = 10000;     ///< `rope_theta`
  RopeScaling rope_scaling{};    ///< `rope_scaling`
  bool tied_embeddings = false;  ///< `tie_word_embeddings`: lm_head uses the embedding's matrix
  bool attention_bias = false;   ///< `attention_bias`
  bool mlp_bias = false;         ///< `mlp_bias`
  bool qkv_bias = false;         ///< `qkv_bias`
  Dtype dtype = Dtype::f32;      ///< `torch_dtype` or `dtype`; F32 where both are absent

  Activation activation = Activation::silu;
  index_t rotary_channels = 0;  ///< the first channels of a head that RoPE turns; 0: all
  double local_rope_theta = 0;  ///< of the layers with a window, without scaling; 0: as the others
  double attention_scale = 0;   ///< of the scores; 0: 1 / sqrt(head_dim)
  double attention_cap = 0;     ///< scores <- cap tanh(scores / cap); 0: off
  double logit_cap = 0;         ///< the same of the logits
  double embedding_scale = 1;   ///< multiplies the embedding, not lm_head
  /// Per layer, how many tokens a query sees, itself included; 0: all before it. Empty: 0 everywhere.
  std::vector<index_t> windows{};
  Mixture mixture{};

  [[nodiscard]] index_t query_channels() const { return heads * head_dim; }
  [[nodiscard]] index_t kv_channels() const { return kv_heads * head_dim; }
  [[nodiscard]] index_t window(index_t layer) const {
    return windows.empty() ? 0 : windows[static_cast<std::size_t>(layer)];
  }
  /// True where a layer has a mixture of experts.
  [[nodiscard]] bool sparse(index_t layer) const;
  /// The widths of the inputs of down_proj over all layers, each once: of dense layers, routed experts, the
  /// shared expert. R4 acts on each.
  [[nodiscard]] std::vector<index_t> down_widths() const;
  /// Weights of the largest decoder layer, biases and gains included.
  [[nodiscard]] index_t layer_parameters() const;
  /// Weights of the whole model; a tied matrix counts once.
  [[nodiscard]] index_t parameters() const;
};

/// Reads and checks the text of a config.json; `name` is used in sentences. Keys that are absent take the
/// defaults of the family's class in transformers. Errors: Error(format) for malformed JSON, a missing or
/// mistyped key, sizes that contradict one another; Error(unsupported) for an unknown architecture (the
/// sentence lists the known ones), another activation than the family's, an unknown kind of `rope_scaling`,
/// and what of a family is not supported here.
[[nodiscard]] ModelConfig parse_config(std::string_view text, std::string const& name = "config.json");

}  // namespace dartquant
