// SPDX-License-Identifier: Apache-2.0
#include "model/gguf_names.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numbers>
#include <optional>

#include <dartquant/core/error.hpp>

#include "io/posix.hpp"

namespace dartquant::detail {
namespace {

using enum HeadRows;

constexpr GgufArchitecture normalized(GgufArchitecture row) {
  row.normalized = true;
  return row;
}
constexpr GgufArchitecture counted_by(std::string_view key, GgufArchitecture row) {
  row.experts_key = key;
  return row;
}
constexpr GgufArchitecture with_dense_layers(GgufArchitecture row) {
  row.dense_layers = true;
  return row;
}
constexpr GgufArchitecture without_head(GgufArchitecture row) {
  row.own_head = false;
  return row;
}

constexpr std::array known_architectures{
    GgufArchitecture{"llama", "LlamaForCausalLM", "llama", interleaved},
    GgufArchitecture{"llama", "MistralForCausalLM", "mistral", interleaved},
    counted_by("num_local_experts", normalized({"llama", "MixtralForCausalLM", "mixtral", interleaved})),
    GgufArchitecture{"qwen2", "Qwen2ForCausalLM", "qwen2", halves},
    GgufArchitecture{"qwen3", "Qwen3ForCausalLM", "qwen3", halves},
    GgufArchitecture{"qwen2moe", "Qwen2MoeForCausalLM", "qwen2_moe", halves},
    normalized({"qwen3moe", "Qwen3MoeForCausalLM", "qwen3_moe", halves}),
    counted_by("n_routed_experts",
               with_dense_layers({"deepseek", "DeepseekForCausalLM", "deepseek", interleaved})),
    GgufArchitecture{"phi3", "Phi3ForCausalLM", "phi3", halves},
    without_head({"gemma2", "Gemma2ForCausalLM", "gemma2", halves}),
    GgufArchitecture{"gemma3", "Gemma3ForCausalLM", "gemma3_text", halves},
};

constexpr std::string_view block_prefix = "blk.", expert_suffix = "_exps";

/// The parts of `model.layers.3.mlp.up_proj.weight`: prefix, 3, `mlp.up_proj`, `.weight`.
struct LayerName {
  std::string_view layer, part, suffix;
};

std::optional<LayerName> parse(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  std::size_t const first = name.find('.'), last = name.rfind('.');
  if (first == 0 || first == std::string_view::npos || last <= first + 1) return std::nullopt;
  LayerName const parts{name.substr(0, first), name.substr(first + 1, last - first - 1), name.substr(last)};
  bool const number = parts.layer.find_first_not_of("0123456789") == std::string_view::npos &&
                      (parts.layer.size() == 1 || parts.layer.front() != '0');
  return number && (parts.suffix == ".weight" || parts.suffix == ".bias") ? std::optional(parts)
                                                                          : std::nullopt;
}

std::string joined(std::string_view prefix, LayerName const& name, std::string_view part) {
  return sentence(prefix, name.layer, '.', part, name.suffix);
}

template <class Pairs, class Name>
auto const* look_up(Pairs const& pairs, std::string_view name, Name Pairs::value_type::*from) {
  auto const found = std::ranges::find(pairs, name, from);
  return found == pairs.end() ? nullptr : &*found;
}

}  // namespace

std::span<GgufArchitecture const> gguf_architectures() { return known_architectures; }

GgufArchitecture const& gguf_architecture_named(std::string_view name, bool experts,
                                                std::string const& source) {
  std::string known;
  for (GgufArchitecture const& row : known_architectures) {
    if (row.name == name && !family_of(row.architecture).mixture.router.empty() == experts) return row;
    if (known.find(row.name) == std::string::npos) known.append(known.empty() ? "" : ", ").append(row.name);
  }
  fail(Error::Kind::unsupported, source, ": the architecture '", printable(name), "'",
       experts ? " with experts" : "", " is not read from GGUF (known: ", known, ")");
}

GgufArchitecture const& gguf_architecture_of(std::string_view architecture) {
  std::string known;
  for (GgufArchitecture const& row : known_architectures) {
    if (row.architecture == architecture) return row;
    known.append(known.empty() ? "" : ", ").append(row.architecture);
  }
  fail(Error::Kind::unsupported, "[fold] ", architecture, " is not written as GGUF (known: ", known,
       "); write a folder instead");
}

GgufNames::GgufNames(Family const& family) : family_(family) {
  auto const add = [](std::vector<Pair>& pairs, std::string_view part, std::string_view gguf) {
    if (!part.empty()) pairs.emplace_back(part, gguf);
  };
  add(whole_, family.embedding, "token_embd.weight");
  add(whole_, family.final_norm, "output_norm.weight");
  add(whole_, family.head, "output.weight");
  add(parts_, family.attention_norm, "attn_norm");
  add(parts_, family.attention_output_norm, "post_attention_norm");
  add(parts_, family.mlp_norm, "ffn_norm");
  add(parts_, family.mlp_output_norm, "post_ffw_norm");
  add(parts_, family.query_norm, "attn_q_norm");
  add(parts_, family.key_norm, "attn_k_norm");
  constexpr std::array<std::string_view, linear_count> own{"attn_q",   "attn_k", "attn_v",  "attn_output",
                                                           "ffn_gate", "ffn_up", "ffn_down"};
  auto const part = [&](Linear linear) { return family.linears[static_cast<std::size_t>(linear)].name; };
  bool const fused_attention = part(Linear::q_proj) == part(Linear::k_proj),
             fused_mlp = part(Linear::gate_proj) == part(Linear::up_proj);
  for (LinearRule const& rule : family.linears) {
    bool const first = look_up(parts_, rule.name, &Pair::first) == nullptr;
    if (first && fused_attention && rule.linear == Linear::q_proj) add(parts_, rule.name, "attn_qkv");
    else if (first && fused_mlp && rule.linear == Linear::gate_proj) add(parts_, rule.name, "ffn_up");
    else if (first) add(parts_, rule.name, own[static_cast<std::size_t>(rule.linear)]);
  }
  MixtureRule const& mixture = family.mixture;
  add(parts_, mixture.router, "ffn_gate_inp");
  add(parts_, mixture.shared_gate, "ffn_gate_inp_shexp");
  if (!mixture.shared.empty())
    for (char const* const map : {"gate", "up", "down"})
      parts_.emplace_back(sentence(mixture.shared, '.', map, "_proj"), sentence("ffn_", map, "_shexp"));
  add(experts_, mixture.gate, "ffn_gate_exps");
  add(experts_, mixture.up, "ffn_up_exps");
  add(experts_, mixture.down, "ffn_down_exps");
}

std::string GgufNames::to_gguf(std::string_view name) const {
  if (auto const* const pair = look_up(whole_, name, &Pair::first)) return pair->second;
  auto const parts = parse(name, family_.layer_prefix);
  if (!parts) return {};
  if (auto const* const pair = look_up(parts_, parts->part, &Pair::first))
    return joined(block_prefix, *parts, pair->second);
  std::string_view const experts = family_.mixture.experts;
  std::size_t const dot = parts->part.rfind('.');
  if (experts.empty() || !parts->part.starts_with(experts) || dot < experts.size()) return {};
  auto const* const pair = look_up(experts_, parts->part.substr(dot + 1), &Pair::first);
  return pair == nullptr ? std::string() : joined(block_prefix, *parts, pair->second);
}

index_t GgufNames::expert_of(std::string_view name) const {
  auto const parts = parse(name, family_.layer_prefix);
  std::string const prefix = sentence(family_.mixture.experts, '.');
  index_t expert = 0;
  if (!parts || family_.mixture.experts.empty() || !parts->part.starts_with(prefix)) return expert;
  std::string_view const number = parts->part.substr(prefix.size());
  std::from_chars(number.data(), number.data() + number.size(), expert);
  return expert;
}

std::vector<std::string> GgufNames::from_gguf(std::string_view gguf, index_t experts) const {
  if (auto const* const pair = look_up(whole_, gguf, &Pair::second)) return {pair->first};
  auto const parts = parse(gguf, block_prefix);
  if (!parts) return {};
  if (auto const* const pair = look_up(parts_, parts->part, &Pair::second))
    return {joined(family_.layer_prefix, *parts, pair->first)};
  std::vector<std::string> names;
  if (auto const* const pair = look_up(experts_, parts->part, &Pair::second))
    for (index_t expert = 0; expert < experts; ++expert)
      names.push_back(joined(family_.layer_prefix, *parts,
                             sentence(family_.mixture.experts, '.', expert, '.', pair->first)));
  return names;
}

bool GgufNames::holds_experts(std::string_view gguf) {
  return gguf.find(sentence(expert_suffix, '.')) != std::string_view::npos;
}

bool GgufNames::is_shared_gate(std::string_view gguf) { return gguf.ends_with(".ffn_gate_inp_shexp.weight"); }

index_t interleaved_heads(GgufArchitecture const& row, ModelConfig const& config,
                          std::string_view gguf_name) {
  if (row.head_rows == halves) return 0;
  if (gguf_name.find(".attn_q.") != std::string_view::npos) return config.heads;
  return gguf_name.find(".attn_k.") != std::string_view::npos ? config.kv_heads : 0;
}

float added_value(Family const& family, std::string_view gguf_name) {
  return family.norm == NormKind::rms_offset && gguf_name.ends_with("norm.weight") ? 1.0f : 0.0f;
}

RowMatrix<float> rope_factors(RopeScaling const& scaling, double theta, index_t head_dim) {
  RowMatrix<float> factors(1, head_dim / 2);
  for (index_t i = 0; i < head_dim / 2; ++i) {
    double const frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    double const turns = scaling.original_positions * frequency / (2 * std::numbers::pi);
    double const smooth = std::clamp(
        (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency), 0.0, 1.0);
    factors(0, i) = static_cast<float>(1.0 / ((1.0 - smooth) / scaling.factor + smooth));
  }
  return factors;
}

}  // namespace dartquant::detail
