// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <dartquant/core/view.hpp>
#include <dartquant/io/checkpoint.hpp>

namespace dartquant {

/// How `rope_scaling` stretches the angles of the rotary position embedding.
struct RopeScaling {
  enum class Kind { none, linear, llama3 };
  Kind kind = Kind::none;
  double factor = 1;              ///< linear and llama3: positions are divided by it
  double low_frequency = 1;       ///< llama3: `low_freq_factor`
  double high_frequency = 4;      ///< llama3: `high_freq_factor`
  double original_positions = 0;  ///< llama3: `original_max_position_embeddings`
};

/// The numbers of a Hugging Face config.json that a decoder's arithmetic depends on.
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
  Dtype dtype = Dtype::f32;      ///< `torch_dtype` or `dtype`; F32 where both are absent

  [[nodiscard]] index_t query_channels() const { return heads * head_dim; }
  [[nodiscard]] index_t kv_channels() const { return kv_heads * head_dim; }
  /// Weights of one decoder layer, biases and gains included.
  [[nodiscard]] index_t layer_parameters() const;
  /// Weights of the whole model; a tied matrix counts once.
  [[nodiscard]] index_t parameters() const;
};

/// Reads and checks the text of a config.json; `name` is used in sentences. Errors: Error(format) for
/// malformed JSON, a missing or mistyped key, sizes that contradict one another; Error(unsupported) for an
/// unknown architecture (the sentence lists the known ones), a sliding window shorter than the positions, an
/// activation other than SiLU, an unknown kind of `rope_scaling`.
[[nodiscard]] ModelConfig parse_config(std::string_view text, std::string const& name = "config.json");

/// The linear layers of a decoder block.
enum class Linear { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj };
inline constexpr std::size_t linear_count = 7;

/// What stands before a group of linear layers.
enum class NormKind { rms };

/// Which rotation acts on one side of a linear layer (X [tokens, in] W^T -> Y [tokens, out]).
enum class Acts {
  none,
  r1,  ///< the residual stream, [hidden, hidden]
  r2,  ///< one [head_dim, head_dim] per KV head (and per layer)
  r4,  ///< the online Hadamard transform of the intermediate channels
};

/// When a linear layer has a bias.
enum class BiasRule { never, attention_bias, mlp_bias };

/// The sizes a side of a linear layer can have.
enum class Extent { hidden, intermediate, query_channels, kv_channels };

/// One linear layer of a block, as data: its name, shape, the norm that feeds it and where rotations act.
struct LinearRule {
  Linear linear;
  std::string_view name;         ///< such as `self_attn.q_proj`, below the prefix of the layer
  Extent outputs, inputs;        ///< the weight is [outputs, inputs]
  std::string_view norm;         ///< the norm whose gain is folded into the columns; empty: none
  Acts input_side, output_side;  ///< W <- W R and W <- R^T W
  BiasRule bias;
};

/// One family of decoders, as data. A new architecture of the same form is one more row.
struct Family {
  std::string_view architecture;                               ///< `architectures[0]` of config.json
  std::string_view embedding, layer_prefix, final_norm, head;  ///< tensor names
  std::string_view attention_norm, mlp_norm;                   ///< names below the prefix of the layer
  NormKind norm;
  std::array<LinearRule, linear_count> linears{};  ///< in the order of enum Linear
};

/// All families known here.
[[nodiscard]] std::span<Family const> families();

/// The row of an architecture. Errors: Error(unsupported) that lists the known ones.
[[nodiscard]] Family const& family_of(std::string_view architecture);

/// Every tensor that the config asks for, in the order of use: embedding, layers, final norm, lm_head (absent
/// when tied). Their dtype is the config's; a checkpoint may mix F32, F16 and BF16.
[[nodiscard]] std::vector<TensorInfo> expected_tensors(Family const& family, ModelConfig const& config);

struct FolderQuantization;

/// Which weights a folder may hold: floats alone, or also packed levels, which can be run and measured but
/// neither rotated nor rounded again.
enum class Weights { full_precision, any };

/// A checkpoint folder, or a GGUF file, whose config and tensors were checked against each other. Holds the
/// memory map, no weights. Copies share the map.
class Model {
 public:
  /// Opens a Hugging Face checkpoint folder or a GGUF file. Every tensor's presence, shape and dtype (F32,
  /// F16, BF16; in GGUF also Q8_0 and Q4_0) is checked; values are checked when they are read. A GGUF file
  /// looks like the folder that says the same: names, order of rows, config. Errors: Error(io) where a file
  /// cannot be read, Error(format) and Error(unsupported) as parse_config, Checkpoint and GgufFile, and
  /// Error(format) naming the tensor that is missing or has the wrong shape. Cost: the headers only.
  [[nodiscard]] static Model open(std::filesystem::path const& folder,
                                  Weights allowed = Weights::full_precision);

  [[nodiscard]] ModelConfig const& config() const { return config_; }
  [[nodiscard]] Family const& family() const { return *family_; }
  [[nodiscard]] Checkpoint const& checkpoint() const { return *checkpoint_; }
  [[nodiscard]] std::filesystem::path const& folder() const { return folder_; }
  /// The text of config.json, as found, or as a GGUF file implies it.
  [[nodiscard]] std::string const& config_text() const { return config_text_; }
  /// The text of tokenizer.json, as found, or as a GGUF file implies it; nothing where there is none. Errors:
  /// Error(io), and Error(unsupported) where a GGUF file holds a tokenizer of another kind.
  [[nodiscard]] std::optional<std::string> tokenizer_text() const;
  /// Whether tokenizer_text gives one.
  [[nodiscard]] bool has_tokenizer() const;
  /// True where this folder was written by `fold` with R4 folded into down_proj: every forward pass then
  /// applies R4 online.
  [[nodiscard]] bool needs_r4() const { return needs_r4_; }
  /// What a folder of packed weights says about itself (model/quantized_folder.hpp); null for floats.
  [[nodiscard]] FolderQuantization const* quantized() const { return quantized_.get(); }

 private:
  Model() = default;
  std::filesystem::path folder_;
  std::string config_text_;
  std::optional<std::string> tokenizer_text_;
  std::string tokenizer_error_;
  ModelConfig config_;
  Family const* family_ = nullptr;
  std::shared_ptr<Checkpoint const> checkpoint_;
  std::shared_ptr<FolderQuantization const> quantized_;
  bool needs_r4_ = false;
};

}  // namespace dartquant
