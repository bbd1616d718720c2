// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>

#include <dartquant/core/error.hpp>
#include <dartquant/model/architecture.hpp>

#include "model/config_parts.hpp"

namespace dartquant {
namespace {

using detail::fail;
using detail::find_member;
using detail::Json;
using detail::positive_member;
using detail::size_member;
using Kind = Error::Kind;

std::string architecture_of(Json const& config, std::string const& name) {
  Json const& list = detail::array_member(config, "architectures", name);
  if (list.size() != 1)
    fail(Kind::format, name, ": 'architectures' has ", list.size(), " entries; exactly one is needed");
  return detail::to_text(list[0], "architectures[0]", name);
}

void read_sizes(Json const& config, std::string const& name, ConfigForm const& form, ModelConfig& result) {
  result.hidden = size_member(config, "hidden_size", name);
  result.intermediate = size_member(config, form.intermediate, name);
  result.layers = size_member(config, "num_hidden_layers", name, 4096);
  result.heads = size_member(config, "num_attention_heads", name);
  result.kv_heads = find_member(config, "num_key_value_heads", name) == nullptr
                        ? result.heads
                        : size_member(config, "num_key_value_heads", name);
  result.vocabulary = size_member(config, "vocab_size", name, 0x7FFFFFFF);
  result.positions = size_member(config, "max_position_embeddings", name, 0x7FFFFFFF);
  if (find_member(config, "head_dim", name) != nullptr)
    result.head_dim = size_member(config, "head_dim", name);
  else if (form.head_dim != 0) result.head_dim = form.head_dim;
  else if (result.hidden % result.heads == 0) result.head_dim = result.hidden / result.heads;
  else
    fail(Kind::format, name, ": hidden_size ", result.hidden, " is not a multiple of num_attention_heads ",
         result.heads, ", and there is no head_dim");
  if (result.heads % result.kv_heads != 0)
    fail(Kind::format, name, ": num_attention_heads ", result.heads,
         " is not a multiple of num_key_value_heads ", result.kv_heads);
  if (result.head_dim % 2 != 0)
    fail(Kind::format, name, ": head_dim ", result.head_dim, " is odd; RoPE turns pairs of channels");
}

void read_dtype(Json const& config, std::string const& name, ModelConfig& result) {
  std::string_view const key = find_member(config, "torch_dtype", name) != nullptr ? "torch_dtype" : "dtype";
  std::string const dtype = detail::get_or<std::string>(config, key, name, "float32");
  if (dtype == "float32") result.dtype = Dtype::f32;
  else if (dtype == "float16") result.dtype = Dtype::f16;
  else if (dtype == "bfloat16") result.dtype = Dtype::bf16;
  else
    fail(Kind::unsupported, name, ": ", key, " '", dtype,
         "' is not supported (known: float32, float16, bfloat16)");
}

/// A cap is `fallback` where the key is absent, off where it is null.
double cap_member(Json const& config, std::string_view key, std::string const& name, double fallback) {
  if (!config.contains(key)) return fallback;
  return find_member(config, key, name) == nullptr ? 0 : positive_member(config, key, name);
}

void read_activation(Json const& config, std::string const& name, ConfigForm const& form) {
  struct Spelling {
    std::string_view text;
    Activation activation;
  };
  static constexpr std::array spellings{
      Spelling{"silu", Activation::silu}, Spelling{"swish", Activation::silu},
      Spelling{"gelu_pytorch_tanh", Activation::gelu_tanh}, Spelling{"relu", Activation::relu}};
  Spelling const* const known = std::ranges::find(spellings, form.activation, &Spelling::activation);
  std::string const found =
      detail::get_or<std::string>(config, form.activation_key, name, std::string(known->text));
  for (Spelling const& spelling : spellings)
    if (spelling.text == found && spelling.activation == form.activation) return;
  fail(Kind::unsupported, name, ": ", form.activation_key, " '", found,
       "' is not supported (known: ", known->text, ")");
}

/// What a family's class can do and is not done here.
void refuse_variants(Json const& config, std::string const& name, ModelConfig const& result) {
  auto const must_be = [&](std::string_view key, bool wanted, std::string_view sentence) {
    if (detail::get_or<bool>(config, key, name, wanted) != wanted)
      fail(Kind::unsupported, name, ": '", key, "' is ", wanted ? "false" : "true", ": ", sentence);
  };
  must_be("do_layer_norm_before", true, "norms after the attention and the MLP are not supported");
  must_be("enable_bias", true, "LayerNorm has a bias, which needs that of the linear layers after it");
  must_be("layer_norm_elementwise_affine", true, "norms without gains are not supported");
  must_be("_remove_final_layer_norm", false, "a model without its final norm is not supported");
  must_be("use_bidirectional_attention", false, "tokens that see later ones are not supported");
  index_t const width = detail::get_or<index_t>(config, "word_embed_proj_dim", name, result.hidden);
  if (width != result.hidden)
    fail(Kind::unsupported, name, ": word_embed_proj_dim ", width, " differs from hidden_size ",
         result.hidden, ": embeddings with a projection are not supported");
}

}  // namespace

ModelConfig parse_config(std::string_view text, std::string const& name) {
  Json const config = detail::parse_json(text, name);
  ModelConfig result;
  result.architecture = architecture_of(config, name);
  Family const& family = family_of(result.architecture);
  ConfigForm const& form = family.config;
  if (find_member(config, "quantization_config", name) != nullptr)
    fail(Kind::unsupported, name,
         ": the weights are already quantized ('quantization_config'); rotations "
         "need the full-precision checkpoint");
  read_sizes(config, name, form, result);
  if (family.positions.empty()) detail::read_rope(config, name, form, result);
  read_dtype(config, name, result);
  result.norm_epsilon =
      form.norm_epsilon > 0 ? form.norm_epsilon : positive_member(config, "rms_norm_eps", name);
  result.tied_embeddings = detail::get_or<bool>(config, "tie_word_embeddings", name, form.tied);
  result.attention_bias = detail::get_or<bool>(config, "attention_bias", name, false);
  result.mlp_bias = detail::get_or<bool>(config, "mlp_bias", name, false);
  result.qkv_bias = detail::get_or<bool>(config, "qkv_bias", name, form.qkv_bias);
  read_activation(config, name, form);
  result.activation = form.activation;
  if (form.capped) {
    result.attention_cap = cap_member(config, "attn_logit_softcapping", name, form.attention_cap);
    result.logit_cap = cap_member(config, "final_logit_softcapping", name, form.logit_cap);
    result.attention_scale = 1 / std::sqrt(find_member(config, "query_pre_attn_scalar", name) == nullptr
                                               ? 256
                                               : positive_member(config, "query_pre_attn_scalar", name));
  }
  if (family.scaled_embedding) result.embedding_scale = std::sqrt(static_cast<double>(result.hidden));
  detail::read_windows(config, name, form, result);
  if (!family.mixture.router.empty()) detail::read_mixture(config, name, family, result);
  refuse_variants(config, name, result);
  return result;
}

}  // namespace dartquant
