// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include <dartquant/core/error.hpp>
#include <dartquant/model/architecture.hpp>

#include "io/json.hpp"

namespace dartquant {
namespace {

using detail::fail;
using detail::find_member;
using detail::Json;
using detail::sentence;
using Kind = Error::Kind;

/// A size: a whole number in [1, 2^24], or up to 2^31 - 1 for the vocabulary. Products of two stay below
/// 2^63.
index_t size_member(Json const& config, std::string_view key, std::string const& name,
                    std::int64_t largest = std::int64_t{1} << 24) {
  return detail::to_integer(detail::member(config, key, name), key, name, 1, largest);
}

double positive_member(Json const& object, std::string_view key, std::string const& name) {
  double const value = detail::get<double>(object, key, name);
  if (!(value > 0) || !std::isfinite(value))
    fail(Kind::format, name, ": '", key, "' is ", value, "; a number above 0 is needed");
  return value;
}

std::string architecture_of(Json const& config, std::string const& name) {
  Json const& list = detail::array_member(config, "architectures", name);
  if (list.size() != 1)
    fail(Kind::format, name, ": 'architectures' has ", list.size(), " entries; exactly one is needed");
  return detail::to_text(list[0], "architectures[0]", name);
}

RopeScaling scaling_of(Json const& rope, std::string const& name) {
  RopeScaling scaling;
  std::string const type = find_member(rope, "rope_type", name) != nullptr
                               ? detail::get<std::string>(rope, "rope_type", name)
                               : detail::get_or<std::string>(rope, "type", name, "default");
  if (type == "default") return scaling;
  if (type != "linear" && type != "llama3")
    fail(Kind::unsupported, name, ": rope_scaling of type '", type,
         "' is not known here (known: default, linear, llama3)");
  scaling.kind = type == "linear" ? RopeScaling::Kind::linear : RopeScaling::Kind::llama3;
  scaling.factor = positive_member(rope, "factor", name);
  if (type == "llama3") {
    scaling.low_frequency = positive_member(rope, "low_freq_factor", name);
    scaling.high_frequency = positive_member(rope, "high_freq_factor", name);
    scaling.original_positions = positive_member(rope, "original_max_position_embeddings", name);
    if (!(scaling.high_frequency > scaling.low_frequency))
      fail(Kind::format, name, ": high_freq_factor ", scaling.high_frequency,
           " must be above low_freq_factor ", scaling.low_frequency);
  }
  return scaling;
}

/// `rope_theta` and `rope_scaling`, or both inside `rope_parameters` as newer files have it.
void read_rope(Json const& config, std::string const& name, ModelConfig& result) {
  Json const* const parameters = find_member(config, "rope_parameters", name);
  Json const& source = parameters != nullptr ? *parameters : config;
  if (find_member(source, "rope_theta", name) != nullptr)
    result.rope_theta = positive_member(source, "rope_theta", name);
  if (parameters != nullptr) result.rope_scaling = scaling_of(*parameters, name);
  else if (Json const* scaling = find_member(config, "rope_scaling", name))
    result.rope_scaling = scaling_of(*scaling, name);
  double const part = detail::get_or<double>(source, "partial_rotary_factor", name, 1.0);
  if (part != 1.0)
    fail(Kind::unsupported, name, ": partial_rotary_factor ", part,
         " is not supported; RoPE must turn the whole head (1.0)");
}

void read_sizes(Json const& config, std::string const& name, ModelConfig& result) {
  result.hidden = size_member(config, "hidden_size", name);
  result.intermediate = size_member(config, "intermediate_size", name);
  result.layers = size_member(config, "num_hidden_layers", name, 4096);
  result.heads = size_member(config, "num_attention_heads", name);
  result.kv_heads = find_member(config, "num_key_value_heads", name) == nullptr
                        ? result.heads
                        : size_member(config, "num_key_value_heads", name);
  result.vocabulary = size_member(config, "vocab_size", name, 0x7FFFFFFF);
  result.positions = size_member(config, "max_position_embeddings", name, 0x7FFFFFFF);
  if (find_member(config, "head_dim", name) != nullptr)
    result.head_dim = size_member(config, "head_dim", name);
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

}  // namespace

ModelConfig parse_config(std::string_view text, std::string const& name) {
  Json const config = detail::parse_json(text, name);
  ModelConfig result;
  result.architecture = architecture_of(config, name);
  static_cast<void>(family_of(result.architecture));
  if (find_member(config, "quantization_config", name) != nullptr)
    fail(Kind::unsupported, name,
         ": the weights are already quantized ('quantization_config'); rotations "
         "need the full-precision checkpoint");
  read_sizes(config, name, result);
  read_rope(config, name, result);
  read_dtype(config, name, result);
  result.norm_epsilon = positive_member(config, "rms_norm_eps", name);
  result.tied_embeddings = detail::get_or<bool>(config, "tie_word_embeddings", name, false);
  result.attention_bias = detail::get_or<bool>(config, "attention_bias", name, false);
  result.mlp_bias = detail::get_or<bool>(config, "mlp_bias", name, false);
  std::string const activation = detail::get_or<std::string>(config, "hidden_act", name, "silu");
  if (activation != "silu" && activation != "swish")
    fail(Kind::unsupported, name, ": hidden_act '", activation, "' is not supported (known: silu)");
  // Within its sliding window a model attends to everything, so the window only limits the positions.
  if (find_member(config, "sliding_window", name) != nullptr)
    result.positions = std::min(result.positions, size_member(config, "sliding_window", name, 0x7FFFFFFF));
  return result;
}

index_t ModelConfig::layer_parameters() const {
  index_t const q = query_channels(), kv = kv_channels();
  index_t const weights = hidden * (2 * q + 2 * kv + 3 * intermediate) + 2 * hidden;
  return weights + (attention_bias ? q + 2 * kv + hidden : 0) + (mlp_bias ? 2 * intermediate + hidden : 0);
}

index_t ModelConfig::parameters() const {
  return layers * layer_parameters() + (tied_embeddings ? 1 : 2) * vocabulary * hidden + hidden;
}

}  // namespace dartquant
