// SPDX-License-Identifier: Apache-2.0
#include "model/gguf_names.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numbers>

#include <dartquant/core/error.hpp>

#include "io/posix.hpp"

namespace dartquant::detail {
namespace {

constexpr std::array known_architectures{
    GgufArchitecture{"llama", "LlamaForCausalLM", "llama", HeadRows::interleaved},
    GgufArchitecture{"llama", "MistralForCausalLM", "mistral", HeadRows::interleaved},
    GgufArchitecture{"qwen2", "Qwen2ForCausalLM", "qwen2", HeadRows::halves},
    GgufArchitecture{"qwen3", "Qwen3ForCausalLM", "qwen3", HeadRows::halves},
};

struct NamePair {
  std::string_view part, gguf;
};

/// Names below the prefix of a layer, without .weight and .bias.
constexpr std::array layer_names{
    NamePair{"input_layernorm", "attn_norm"},    NamePair{"post_attention_layernorm", "ffn_norm"},
    NamePair{"self_attn.q_proj", "attn_q"},      NamePair{"self_attn.k_proj", "attn_k"},
    NamePair{"self_attn.v_proj", "attn_v"},      NamePair{"self_attn.o_proj", "attn_output"},
    NamePair{"self_attn.q_norm", "attn_q_norm"}, NamePair{"self_attn.k_norm", "attn_k_norm"},
    NamePair{"mlp.gate_proj", "ffn_gate"},       NamePair{"mlp.up_proj", "ffn_up"},
    NamePair{"mlp.down_proj", "ffn_down"},
};

constexpr std::string_view block_prefix = "blk.";

std::array<NamePair, 3> model_names(Family const& family) {
  return {{{family.embedding, "token_embd.weight"},
           {family.final_norm, "output_norm.weight"},
           {family.head, "output.weight"}}};
}

/// `prefix` `number` . `part` . `suffix`, with the part looked up.
std::optional<std::string> renamed(std::string_view name, std::string_view from_prefix,
                                   std::string_view to_prefix, std::string_view NamePair::*from,
                                   std::string_view NamePair::*to) {
  if (!name.starts_with(from_prefix)) return std::nullopt;
  std::string_view rest = name.substr(from_prefix.size());
  unsigned layer = 0;
  auto const [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), layer);
  if (error != std::errc{}) return std::nullopt;
  std::string_view const number = rest.substr(0, static_cast<std::size_t>(end - rest.data()));
  if (number.size() > 1 && number.front() == '0') return std::nullopt;
  rest.remove_prefix(number.size());
  std::size_t const dot = rest.rfind('.');
  if (dot == std::string_view::npos || dot < 2 || rest.front() != '.') return std::nullopt;
  std::string_view const part = rest.substr(1, dot - 1), suffix = rest.substr(dot);
  if (suffix != ".weight" && suffix != ".bias") return std::nullopt;
  for (NamePair const& pair : layer_names)
    if (pair.*from == part)
      return std::string(to_prefix).append(number).append(".").append(pair.*to).append(suffix);
  return std::nullopt;
}

}  // namespace

std::span<GgufArchitecture const> gguf_architectures() { return known_architectures; }

GgufArchitecture const& gguf_architecture_named(std::string_view name, std::string const& source) {
  std::string known;
  for (GgufArchitecture const& row : known_architectures) {
    if (row.name == name) return row;
    if (known.find(row.name) == std::string::npos) known.append(known.empty() ? "" : ", ").append(row.name);
  }
  fail(Error::Kind::unsupported, source, ": the architecture '", printable(name),
       "' is not read from GGUF (known: ", known, ")");
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

std::optional<std::string> to_gguf_name(Family const& family, std::string_view name) {
  for (NamePair const& pair : model_names(family))
    if (pair.part == name) return std::string(pair.gguf);
  return renamed(name, family.layer_prefix, block_prefix, &NamePair::part, &NamePair::gguf);
}

std::optional<std::string> from_gguf_name(Family const& family, std::string_view name) {
  for (NamePair const& pair : model_names(family))
    if (pair.gguf == name) return std::string(pair.part);
  return renamed(name, block_prefix, family.layer_prefix, &NamePair::gguf, &NamePair::part);
}

index_t interleaved_heads(GgufArchitecture const& row, ModelConfig const& config,
                          std::string_view gguf_name) {
  if (row.head_rows == HeadRows::halves) return 0;
  if (gguf_name.find(".attn_q.") != std::string_view::npos) return config.heads;
  return gguf_name.find(".attn_k.") != std::string_view::npos ? config.kv_heads : 0;
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
