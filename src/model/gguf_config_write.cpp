// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include <dartquant/core/error.hpp>

#include "model/gguf_config.hpp"

namespace dartquant::detail {
namespace {

class ConfigWriter {
 public:
  ConfigWriter(ModelConfig const& config, GgufArchitecture const& row)
      : config_(config), row_(row), family_(family_of(config.architecture)) {}

  std::vector<GgufEntry> write() {
    size("block_count", config_.layers);
    size("context_length", config_.positions);
    size("embedding_length", config_.hidden);
    size("feed_forward_length", config_.intermediate);
    size("attention.head_count", config_.heads);
    size("attention.head_count_kv", config_.kv_heads);
    number("attention.layer_norm_rms_epsilon", config_.norm_epsilon);
    number("rope.freq_base", config_.rope_theta);
    size("rope.dimension_count", config_.rotary_channels != 0 ? config_.rotary_channels : config_.head_dim);
    size("attention.key_length", config_.head_dim);
    size("attention.value_length", config_.head_dim);
    size("vocab_size", config_.vocabulary);
    if (config_.local_rope_theta > 0) number("rope.freq_base_swa", config_.local_rope_theta);
    add_scaling();
    add_windows();
    if (family_.config.capped) add_caps();
    if (config_.mixture.experts != 0) add_experts();
    return std::move(entries_);
  }

 private:
  [[nodiscard]] std::string key(std::string_view part) const { return sentence(row_.name, '.', part); }
  void size(std::string_view part, index_t value) {
    entries_.push_back({key(part), static_cast<std::uint32_t>(value)});
  }
  void number(std::string_view part, double value) {
    entries_.push_back({key(part), static_cast<float>(value)});
  }
  template <class... Parts>
  void demand(bool met, Parts const&... why) const {
    if (!met)
      fail(Error::Kind::unsupported, "[fold] ", config_.architecture, " as GGUF: ", why...,
           "; llama.cpp knows no other way. Write a folder instead");
  }

  void add_scaling() {
    RopeScaling const& scaling = config_.rope_scaling;
    if (scaling.kind == RopeScaling::Kind::linear) {
      entries_.push_back({key("rope.scaling.type"), std::string("linear")});
      number("rope.scaling.factor", scaling.factor);
    }
    if (scaling.kind == RopeScaling::Kind::llama3 || scaling.kind == RopeScaling::Kind::longrope)
      size("rope.scaling.original_context_length", static_cast<index_t>(scaling.original_positions));
    if (scaling.kind == RopeScaling::Kind::longrope)
      number("rope.scaling.attn_factor", scaling.attention_factor);
  }

  /// Gemma's pattern of layers is fixed; elsewhere no layer has a window.
  void add_windows() {
    auto const widest = std::ranges::max_element(config_.windows);
    index_t const window = widest == config_.windows.end() ? 0 : *widest;
    if (window != 0 || row_.name == "phi3") size("attention.sliding_window", window);
    bool const even = family_.config.windows == Windows::even_layers,
               sixth = family_.config.windows == Windows::all_but_every_sixth;
    if (!even && !sixth) return;
    for (index_t layer = 0; layer < config_.layers; ++layer) {
      bool const windowed = even ? layer % 2 == 0 : (layer + 1) % 6 != 0;
      demand(window != 0 && config_.window(layer) == (windowed ? window : 0),
             even ? "every second layer" : "all layers but every sixth", " must have one sliding window");
    }
  }

  void add_caps() {
    bool const capped = family_.config.attention_cap > 0;
    demand((config_.attention_cap > 0) == capped && (config_.logit_cap > 0) == capped,
           "scores and logits must ", capped ? "" : "not ", "be capped");
    if (capped) {
      number("attn_logit_softcapping", config_.attention_cap);
      number("final_logit_softcapping", config_.logit_cap);
    }
    auto const scalar = static_cast<double>(
        gguf_query_scalar(row_, config_.layers, config_.hidden, config_.heads, config_.head_dim));
    demand(std::abs(config_.attention_scale * std::sqrt(scalar) - 1) < 1e-6, "query_pre_attn_scalar must be ",
           scalar);
  }

  void add_experts() {
    Mixture const& mixture = config_.mixture;
    demand(mixture.normalized == row_.normalized, "norm_topk_prob must be ",
           row_.normalized ? "true" : "false");
    auto const dense = static_cast<index_t>(mixture.dense_layers.size());
    demand(dense == 0 || (row_.dense_layers && mixture.dense_layers.back() == dense - 1),
           row_.dense_layers ? "layers without experts must be the first ones"
                             : "every layer must have experts");
    size("expert_count", mixture.experts);
    size("expert_used_count", mixture.active);
    if (row_.name != "llama") size("expert_feed_forward_length", mixture.intermediate);
    if (!family_.mixture.shared_gate.empty())
      size("expert_shared_feed_forward_length", mixture.shared_intermediate);
    if (!row_.dense_layers) return;
    demand(mixture.shared_intermediate % mixture.intermediate == 0,
           "the shared experts must be as wide as whole experts");
    size("leading_dense_block_count", dense);
    size("expert_shared_count", mixture.shared_intermediate / mixture.intermediate);
    number("expert_weights_scale", 1);
  }

  ModelConfig const& config_;
  GgufArchitecture const& row_;
  Family const& family_;
  std::vector<GgufEntry> entries_;
};

}  // namespace

std::vector<GgufEntry> config_entries(ModelConfig const& config, GgufArchitecture const& row) {
  return ConfigWriter(config, row).write();
}

std::string gguf_window_note(ModelConfig const& config, GgufArchitecture const& row) {
  Windows const rule = family_of(row.architecture).config.windows;
  auto const widest = std::ranges::max_element(config.windows);
  if (widest == config.windows.end() || *widest == 0 || rule == Windows::even_layers ||
      rule == Windows::all_but_every_sixth)
    return {};
  return sentence("llama.cpp runs ", row.name, " without sliding windows: beyond ", *widest,
                  " tokens it attends to more than the model does");
}

std::int64_t gguf_query_scalar(GgufArchitecture const& row, std::int64_t layers, std::int64_t hidden,
                               std::int64_t heads, std::int64_t head_dim) {
  bool const largest = (row.name == "gemma2" && layers == 46) || (row.name == "gemma3" && layers == 62);
  return largest ? hidden / heads : head_dim;
}

}  // namespace dartquant::detail
