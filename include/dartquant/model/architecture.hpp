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
#include <dartquant/model/config.hpp>

namespace dartquant {

/// The linear maps of a decoder block. The first linear_count are rotated and quantized; those of the experts
/// of a mixture share the names of the dense ones. The last two choose and weigh experts: they are rotated
/// and stay in full precision.
enum class Linear { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, router, shared_gate };
inline constexpr std::size_t linear_count = 7;

/// What stands before a group of linear layers.
enum class NormKind {
  rms,         ///< x / RMS(x) w
  rms_offset,  ///< x / RMS(x) (1 + w)
  layer        ///< (x - mean) / standard deviation w + b
};

/// Which rotation acts on one side of a linear layer (X [tokens, in] W^T -> Y [tokens, out]).
enum class Acts {
  none,
  r1,  ///< the residual stream, [hidden, hidden]
  r2,  ///< one [head_dim, head_dim] per KV head (and per layer)
  r4,  ///< the online Hadamard transform of the intermediate channels
};

/// When a linear layer has a bias.
enum class BiasRule { never, always, attention_bias, mlp_bias, qkv_bias };

/// The sizes a side of a linear layer can have.
enum class Extent { hidden, intermediate, query_channels, kv_channels };

/// One linear layer of a block, as data: its name, shape, the norm that feeds it and where rotations act.
/// Rules of the same name share one tensor, their rows in the order of the rules. An empty name: there is
/// none.
struct LinearRule {
  Linear linear;
  std::string_view name;         ///< such as `self_attn.q_proj`, below the prefix of the layer
  Extent outputs, inputs;        ///< the weight is [outputs, inputs]
  std::string_view norm;         ///< the norm whose gain is folded into the columns; empty: none
  Acts input_side, output_side;  ///< W <- W R and W <- R^T W
  BiasRule bias;
};

/// How a sparse layer names its experts, below the prefix of the layer. Shapes, norms and rotations are those
/// of the rules of gate_proj, up_proj and down_proj.
struct MixtureRule {
  std::string_view router{};   ///< [experts, hidden]; empty: the family has no mixtures
  std::string_view experts{};  ///< then `.3.` and the name of the map
  std::string_view gate{}, up{}, down{};
  std::string_view shared{};       ///< the shared expert, `.` and gate_proj, up_proj or down_proj
  std::string_view shared_gate{};  ///< [1, hidden]: its output times sigmoid of this; empty: times 1
};

/// Which layers see a sliding window.
enum class Windows {
  none,
  all_layers,           ///< where `sliding_window` is a number
  late_layers,          ///< with `use_sliding_window`: from `max_window_layers` on, or `layer_types`
  even_layers,          ///< 0, 2, ..., or `layer_types`
  early_even_layers,    ///< with `use_sliding_window`: even ones below `max_window_layers`, or `layer_types`
  all_but_every_sixth,  ///< or another `sliding_window_pattern`, or `layer_types`
  all_when_used         ///< with `use_sliding_window`
};

/// How a family's config.json differs from Llama's, and what its class in transformers takes where a key is
/// absent.
struct ConfigForm {
  std::string_view intermediate = "intermediate_size", activation_key = "hidden_act";
  Activation activation = Activation::silu;
  double norm_epsilon = 0;  ///< 0: `rms_norm_eps` has to be there; else there is no such key
  double rope_theta = 10000;
  index_t head_dim = 0;  ///< 0: hidden / heads
  bool tied = false, qkv_bias = false;
  bool partial_rotary = false;  ///< RoPE may turn a part of a head, and `longrope` is known
  bool capped = false;          ///< it reads `attn_logit_softcapping` and `query_pre_attn_scalar`
  bool normalized = false;      ///< `norm_topk_prob`
  Windows windows = Windows::none;
  index_t window = 0;                       ///< where `sliding_window` is absent; null is none
  double attention_cap = 0, logit_cap = 0;  ///< where the keys are absent; null is none
  double local_rope_theta = 0;              ///< above 0: layers with a window have a RoPE of their own
};

/// One family of decoders, as data. A new architecture of the same form is one more row.
struct Family {
  std::string_view architecture;                               ///< `architectures[0]` of config.json
  std::string_view embedding, layer_prefix, final_norm, head;  ///< tensor names
  std::string_view attention_norm, mlp_norm;                   ///< names below the prefix of the layer
  NormKind norm;
  std::array<LinearRule, linear_count> linears{};  ///< in the order of enum Linear
  ConfigForm config{};
  std::string_view positions{};  ///< learned positions [positions + 2, hidden], added; empty: RoPE
  /// Norms of the outputs of o_proj and down_proj before they join the stream; empty: none.
  std::string_view attention_output_norm{}, mlp_output_norm{};
  std::string_view query_norm{}, key_norm{};  ///< of each head of q and k, before RoPE; empty: none
  bool scaled_embedding = false;              ///< by sqrt(hidden)
  MixtureRule mixture{};
};

/// All families known here.
[[nodiscard]] std::span<Family const> families();

/// The row of an architecture. Errors: Error(unsupported) that lists the known ones.
[[nodiscard]] Family const& family_of(std::string_view architecture);

/// What becomes of one of R1, R2, R3, R4 in a model.
struct RotationSupport {
  enum class How { folded, online, impossible } how;
  std::string reason;  ///< a sentence: why, or what it takes; may be empty where it is folded
};

/// The four of a family.
struct RotationsSupport {
  RotationSupport r1, r2, r3, r4;
};
[[nodiscard]] RotationsSupport rotation_support(Family const& family);

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
