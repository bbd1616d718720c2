// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "model/config_parts.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

void read_llama3(Json const& rope, std::string const& name, RopeScaling& scaling) {
  scaling.low_frequency = positive_member(rope, "low_freq_factor", name);
  scaling.high_frequency = positive_member(rope, "high_freq_factor", name);
  scaling.original_positions = positive_member(rope, "original_max_position_embeddings", name);
  if (!(scaling.high_frequency > scaling.low_frequency))
    fail(Kind::format, name, ": high_freq_factor ", scaling.high_frequency, " must be above low_freq_factor ",
         scaling.low_frequency);
}

std::vector<double> factors(Json const& rope, std::string_view key, index_t pairs, std::string const& name) {
  std::vector<double> values;
  for (Json const& value : array_member(rope, key, name)) {
    values.push_back(to_number(value, key, name));
    if (!(values.back() > 0))
      fail(Kind::format, name, ": '", key, "' holds ", values.back(), "; numbers above 0 are needed");
  }
  if (static_cast<index_t>(values.size()) != pairs)
    fail(Kind::format, name, ": '", key, "' has ", values.size(), " numbers, but RoPE turns ", pairs,
         " pairs");
  return values;
}

/// The attention factor is sqrt(1 + ln(positions / original) / ln(original)) unless it is given.
void read_longrope(Json const& rope, Json const& config, std::string const& name, ModelConfig const& model,
                   RopeScaling& scaling) {
  index_t const pairs = (model.rotary_channels == 0 ? model.head_dim : model.rotary_channels) / 2;
  scaling.short_factors = factors(rope, "short_factor", pairs, name);
  scaling.long_factors = factors(rope, "long_factor", pairs, name);
  Json const& holder = find_member(rope, "original_max_position_embeddings", name) != nullptr ? rope : config;
  scaling.original_positions = positive_member(holder, "original_max_position_embeddings", name);
  double const factor = find_member(rope, "factor", name) != nullptr
                            ? positive_member(rope, "factor", name)
                            : static_cast<double>(model.positions) / scaling.original_positions;
  if (find_member(rope, "attention_factor", name) != nullptr)
    scaling.attention_factor = positive_member(rope, "attention_factor", name);
  else if (factor > 1)
    scaling.attention_factor = std::sqrt(1 + std::log(factor) / std::log(scaling.original_positions));
}

RopeScaling scaling_of(Json const& rope, Json const& config, std::string const& name, ConfigForm const& form,
                       ModelConfig const& model) {
  RopeScaling scaling;
  std::string const type = find_member(rope, "rope_type", name) != nullptr
                               ? get<std::string>(rope, "rope_type", name)
                               : get_or<std::string>(rope, "type", name, "default");
  if (type == "default") return scaling;
  if (form.partial_rotary &&
      (type == "longrope" || type == "su" || type == "yarn")) {  // Phi-3 calls it all three
    scaling.kind = RopeScaling::Kind::longrope;
    read_longrope(rope, config, name, model, scaling);
    return scaling;
  }
  if (type != "linear" && type != "llama3")
    fail(Kind::unsupported, name, ": rope_scaling of type '", type,
         "' is not known here (known: default, linear, llama3; longrope in Phi-3)");
  scaling.kind = type == "linear" ? RopeScaling::Kind::linear : RopeScaling::Kind::llama3;
  scaling.factor = positive_member(rope, "factor", name);
  if (type == "llama3") read_llama3(rope, name, scaling);
  return scaling;
}

void read_part(Json const& source, Json const& config, std::string const& name, ConfigForm const& form,
               ModelConfig& result) {
  constexpr std::string_view key = "partial_rotary_factor";
  double const part =
      get_or<double>(find_member(source, key, name) != nullptr ? source : config, key, name, 1.0);
  if (part == 1.0) return;
  if (!form.partial_rotary)
    fail(Kind::unsupported, name, ": partial_rotary_factor ", part, " is not supported in ",
         result.architecture, "; RoPE must turn the whole head (1.0)");
  if (!(part > 0 && part <= 1))
    fail(Kind::format, name, ": partial_rotary_factor ", part, "; a number in (0, 1] is needed");
  result.rotary_channels = static_cast<index_t>(static_cast<double>(result.head_dim) * part);
  if (result.rotary_channels < 2 || result.rotary_channels % 2 != 0)
    fail(Kind::unsupported, name, ": partial_rotary_factor ", part, " turns ", result.rotary_channels, " of ",
         result.head_dim, " channels of a head; an even number above 0 is needed");
}

}  // namespace

void read_rope(Json const& config, std::string const& name, ConfigForm const& form, ModelConfig& result) {
  Json const* parameters = find_member(config, "rope_parameters", name);
  Json const* local = nullptr;
  if (parameters != nullptr && form.local_rope_theta > 0 &&
      find_member(*parameters, "full_attention", name) != nullptr) {
    local = find_member(*parameters, "sliding_attention", name);
    parameters = find_member(*parameters, "full_attention", name);
  }
  Json const& source = parameters != nullptr ? *parameters : config;
  result.rope_theta = find_member(source, "rope_theta", name) != nullptr
                          ? positive_member(source, "rope_theta", name)
                          : form.rope_theta;
  read_part(source, config, name, form, result);
  if (parameters != nullptr) result.rope_scaling = scaling_of(*parameters, config, name, form, result);
  else if (Json const* scaling = find_member(config, "rope_scaling", name))
    result.rope_scaling = scaling_of(*scaling, config, name, form, result);
  if (form.local_rope_theta <= 0) return;
  Json const& holder = local != nullptr ? *local : config;
  std::string_view const key = local != nullptr ? "rope_theta" : "rope_local_base_freq";
  result.local_rope_theta =
      find_member(holder, key, name) != nullptr ? positive_member(holder, key, name) : form.local_rope_theta;
  if (local != nullptr && scaling_of(*local, config, name, form, result).kind != RopeScaling::Kind::none)
    fail(Kind::unsupported, name,
         ": the RoPE of layers with a sliding window is scaled; only 'default' is known");
}

}  // namespace dartquant::detail
