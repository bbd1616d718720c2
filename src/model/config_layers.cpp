// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "model/config_parts.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

/// Layers that see a window where `layer_types` does not say it.
bool sees_window(Windows rule, index_t layer, index_t border, index_t pattern) {
  switch (rule) {
    case Windows::none:
      return false;
    case Windows::all_layers:
    case Windows::all_when_used:
      return true;
    case Windows::late_layers:
      return layer >= border;
    case Windows::even_layers:
      return layer % 2 == 0;
    case Windows::early_even_layers:
      return layer % 2 == 0 && layer < border;
    case Windows::all_but_every_sixth:
      return (layer + 1) % pattern != 0;
  }
  return false;
}

bool reads_layer_types(Windows rule) { return rule != Windows::all_layers && rule != Windows::all_when_used; }

bool only_when_used(Windows rule) {
  return rule == Windows::late_layers || rule == Windows::early_even_layers || rule == Windows::all_when_used;
}

/// `layer_types`: which layers see a window.
std::vector<bool> windowed_layers(Json const& types, index_t layers, std::string const& name) {
  if (!types.is_array() || static_cast<index_t>(types.size()) != layers)
    fail(Kind::format, name, ": 'layer_types' must be a list of ", layers, " entries, one per layer");
  std::vector<bool> windowed;
  for (Json const& type : types) {
    std::string const text = to_text(type, "layer_types", name);
    if (text != "sliding_attention" && text != "full_attention")
      fail(Kind::unsupported, name, ": layer_types holds '", text,
           "' (known: full_attention, sliding_attention)");
    windowed.push_back(text == "sliding_attention");
  }
  return windowed;
}

/// The first of these keys that is there, or null.
Json const* first_of(Json const& config, std::initializer_list<std::string_view> keys,
                     std::string const& name) {
  for (std::string_view const key : keys)
    if (Json const* found = find_member(config, key, name)) return found;
  return nullptr;
}

index_t shared_experts(Json const& config, std::string const& name) {
  Json const* const count = find_member(config, "n_shared_experts", name);
  return count == nullptr ? 0 : to_integer(*count, "n_shared_experts", name, 0, 1 << 20);
}

}  // namespace

void read_windows(Json const& config, std::string const& name, ConfigForm const& form, ModelConfig& result) {
  Windows const rule = form.windows;
  if (rule == Windows::none) return;
  if (only_when_used(rule) && !get_or<bool>(config, "use_sliding_window", name, false)) return;
  index_t window = config.contains("sliding_window") ? 0 : form.window;
  if (Json const* const given = find_member(config, "sliding_window", name))
    window = to_integer(*given, "sliding_window", name, 0, 0x7FFFFFFF);
  if (window == 0) return;
  index_t const border = get_or<index_t>(config, "max_window_layers", name, 28);
  Json const* const step = first_of(config, {"sliding_window_pattern", "_sliding_window_pattern"}, name);
  index_t const pattern = step == nullptr ? 6 : to_integer(*step, "sliding_window_pattern", name, 1, 1 << 24);
  Json const* const types = reads_layer_types(rule) ? find_member(config, "layer_types", name) : nullptr;
  std::vector<bool> windowed;
  if (types != nullptr) windowed = windowed_layers(*types, result.layers, name);
  else
    for (index_t layer = 0; layer < result.layers; ++layer)
      windowed.push_back(sees_window(rule, layer, border, pattern));
  for (bool const one : windowed) result.windows.push_back(one ? window : 0);
}

void read_mixture(Json const& config, std::string const& name, Family const& family, ModelConfig& result) {
  constexpr index_t most = 1 << 20;  // expert maps of a whole model: no checkpoint has more tensors
  Json const* const experts =
      first_of(config, {"num_local_experts", "num_experts", "n_routed_experts"}, name);
  if (experts == nullptr) return;
  Mixture& mixture = result.mixture;
  mixture.experts = to_integer(*experts, "experts", name, 1, most);
  if (mixture.experts * result.layers > most)
    fail(Kind::unsupported, name, ": ", mixture.experts, " experts in each of ", result.layers,
         " layers are more than ", most);
  mixture.active = to_integer(member(config, "num_experts_per_tok", name), "num_experts_per_tok", name, 1,
                              mixture.experts);
  mixture.intermediate = find_member(config, "moe_intermediate_size", name) == nullptr
                             ? result.intermediate
                             : size_member(config, "moe_intermediate_size", name);
  if (!family.mixture.shared_gate.empty())
    mixture.shared_intermediate = size_member(config, "shared_expert_intermediate_size", name);
  else if (!family.mixture.shared.empty())
    mixture.shared_intermediate = mixture.intermediate * shared_experts(config, name);
  mixture.normalized = get_or<bool>(config, "norm_topk_prob", name, false) || family.config.normalized;
  std::string const scoring = get_or<std::string>(config, "scoring_func", name, "softmax");
  if (scoring != "softmax" || get_or<double>(config, "routed_scaling_factor", name, 1) != 1)
    fail(Kind::unsupported, name, ": experts are chosen with scoring_func '", scoring,
         "' or scaled; only softmax without a factor is supported");
  index_t const step = get_or<index_t>(config, "decoder_sparse_step", name, 1),
                frequency = get_or<index_t>(config, "moe_layer_freq", name, 1),
                first = get_or<index_t>(config, "first_k_dense_replace", name, 0);
  if (step < 1 || frequency < 1 || mixture.shared_intermediate > 1 << 24)
    fail(Kind::format, name, ": decoder_sparse_step ", step, ", moe_layer_freq ", frequency,
         " and the shared experts' ", mixture.shared_intermediate,
         " channels must be positive numbers below 2^24");
  std::vector<index_t> only_dense;
  if (Json const* const list = find_member(config, "mlp_only_layers", name))
    for (Json const& layer : *list) only_dense.push_back(to_integer(layer, "mlp_only_layers", name));
  for (index_t layer = 0; layer < result.layers; ++layer)
    if ((layer + 1) % step != 0 || layer % frequency != 0 || layer < first ||
        std::ranges::find(only_dense, layer) != only_dense.end())
      mixture.dense_layers.push_back(layer);
}

}  // namespace dartquant::detail
