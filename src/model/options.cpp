// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>

#include <dartquant/core/error.hpp>
#include <dartquant/model/fold.hpp>
#include <dartquant/model/forward.hpp>
#include <dartquant/model/pipeline.hpp>

#include "model/rounded_layers.hpp"

namespace dartquant {
namespace {

using detail::require;

bool known_bits(int bits) { return (bits >= 2 && bits <= 8) || bits == 16; }

/// Takes `prefix` and a number of one or two digits off the front of `text`; -1 where they are not there.
int take_bits(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return -1;
  text.remove_prefix(prefix.size());
  std::size_t digits = 0;
  int value = 0;
  for (; digits < text.size() && digits < 2 && text[digits] >= '0' && text[digits] <= '9'; ++digits)
    value = value * 10 + (text[digits] - '0');
  if (digits == 0 || text[0] == '0') return -1;
  text.remove_prefix(digits);
  return value;
}

}  // namespace

RotationSet RotationSet::parse(std::string_view text) {
  RotationSet set;
  if (text == "none") return set;
  constexpr std::array<std::string_view, 4> names{"r1", "r2", "r3", "r4"};
  std::array<bool*, 4> const parts{&set.r1, &set.r2, &set.r3, &set.r4};
  std::string_view rest = text;
  while (true) {
    std::size_t const comma = rest.find(',');
    std::string_view const name = rest.substr(0, comma);
    auto const index = static_cast<std::size_t>(std::find(names.begin(), names.end(), name) - names.begin());
    require(index < names.size(), "[RotationSet] '", name, "' in '", text,
            "': write none, or some of r1,r2,r3,r4 separated by commas");
    require(!*parts[index], "[RotationSet] '", text, "' names ", name, " twice");
    *parts[index] = true;
    if (comma == std::string_view::npos) return set;
    rest.remove_prefix(comma + 1);
  }
}

std::string RotationSet::name() const {
  std::string text;
  for (auto const& [on, part] : {std::pair{r1, "r1"}, {r2, "r2"}, {r3, "r3"}, {r4, "r4"}})
    if (on) text.append(text.empty() ? "" : ",").append(part);
  return text.empty() ? "none" : text;
}

Scheme Scheme::parse(std::string_view text) {
  Scheme scheme;
  std::string_view rest = text;
  scheme.weights = take_bits(rest, "w");
  scheme.activations = take_bits(rest, "a");
  if (!rest.empty()) scheme.kv = take_bits(rest, "kv");
  require(
      rest.empty() && known_bits(scheme.weights) && known_bits(scheme.activations) && known_bits(scheme.kv),
      "[Scheme] '", text, "': write wNaN or wNaNkvN with N from 2 to 8, or 16 for off, such as w4a4kv4");
  return scheme;
}

std::string Scheme::name() const { return detail::sentence('w', weights, 'a', activations, "kv", kv); }

void WeightQuantization::validate() const {
  require(known_bits(bits), "[WeightQuantization] ", bits, " bits: choose 2 to 8, or 16 for off");
  require(group >= 0, "[WeightQuantization] group ", group,
          ": give 0 for one scale per output channel, or the channels of a group");
  require(std::isfinite(damping) && damping >= 0, "[WeightQuantization] damping ", damping,
          ": it must be finite and not negative");
}

std::string_view name_of(WeightRounding rounding) {
  switch (rounding) {
    case WeightRounding::nearest:
      return "rtn";
    case WeightRounding::gptq:
      return "gptq";
    case WeightRounding::learned_clip:
      return "lwc";
  }
  return "";
}

WeightRounding parse_rounding(std::string_view name) {
  for (auto const rounding : {WeightRounding::nearest, WeightRounding::gptq, WeightRounding::learned_clip})
    if (name_of(rounding) == name) return rounding;
  throw InvalidArgument(
      detail::sentence("[parse_rounding] '", name, "' is no way to round weights (known: rtn, gptq, lwc)"));
}

void detail::require_text(WeightQuantization const& weights, TokenWindows const* windows) {
  require(!weights.needs_text() || windows != nullptr, "[WeightQuantization] rounding by ",
          name_of(weights.rounding),
          " looks at what the layers read on a text, and none was given: set hessian_windows, such as to 128 "
          "windows of the calibration text");
}

std::optional<QuantizeOptions> Quantization::at(Site site, index_t head_dim) const {
  bool const cache = site == Site::key || site == Site::value;
  if ((cache ? scheme.kv : scheme.activations) == 16) return std::nullopt;
  if (cache) {
    QuantizeOptions options = kv_options(scheme.kv, head_dim);
    options.clip_ratio = kv_clip;
    return options;
  }
  bool const per_head = site == Site::o_proj_input && o_proj_input == OutputInput::per_head;
  return QuantizeOptions{.bits = scheme.activations,
                         .granularity = per_head ? per_group(head_dim) : per_row,
                         .symmetry = activation_symmetry,
                         .clip_ratio = activation_clip};
}

void Quantization::validate() const {
  weights().validate();
  for (int const bits : {scheme.activations, scheme.kv})
    require(known_bits(bits), "[Quantization] ", bits, " bits: choose 2 to 8, or 16 for off");
  for (double const clip : {activation_clip, kv_clip})
    require(clip > 0 && clip <= 1, "[Quantization] clip ratio ", clip, ": it must be above 0 and at most 1");
  if (arithmetic == Arithmetic::floating_point) return;
  require(
      scheme.weights <= 4 && scheme.activations <= 8, "[Quantization] ", scheme.name(),
      " has no integer products: give 2 to 4 bits of weights and 2 to 8 of activations, such as w4a4kv4 or "
      "w4a8");
  require(weight_group % 8 == 0, "[Quantization] weight group ", weight_group,
          ": integer products need 0 or a multiple of 8");
}

void ForwardOptions::validate() const {
  quantization.validate();
  detail::require_text(quantization.weights(), hessian_windows);
  require(rotations != nullptr || (!active.r1 && !active.r2), "[ForwardOptions] the set of rotations is ",
          active.name(), ", but no rotations were given; R1 and R2 come from calibrate or load_rotations");
}

std::string_view name_of(Site site) {
  switch (site) {
    case Site::q_proj_input:
      return "q_proj input";
    case Site::key:
      return "key";
    case Site::value:
      return "value";
    case Site::o_proj_input:
      return "o_proj input";
    case Site::up_proj_input:
      return "up_proj input";
    case Site::down_proj_input:
      return "down_proj input";
  }
  return "";
}

index_t calibration_seqlen(ModelConfig const& config) { return std::min<index_t>(2048, config.positions); }

void LearningOptions::validate() const {
  require(epochs >= 0, "[LearningOptions] ", epochs, " epochs: give 0 for the default or a number above it");
  require(batch_rows >= 0, "[LearningOptions] ", batch_rows,
          " rows per batch: give 0 for the default or more");
  require(learning_rate >= 0 && learning_rate <= 1e6, "[LearningOptions] learning rate ", learning_rate,
          ": give 0 for the default or a number above it");
}

void ModelCalibrationOptions::validate() const {
  r1.validate();
  r2.validate();
  require(block >= 1, "[ModelCalibrationOptions] block ", block, ": at least one channel is needed");
  require(!weight_rows || (*weight_rows >= 0 && *weight_rows <= 16), "[ModelCalibrationOptions] ",
          weight_rows.value_or(0), " rows of weights for one of activations: 0 to 16 are possible");
  MethodTraits const& chosen = traits(method);
  double const rate = std::max(r1.learning_rate, r2.learning_rate);
  require(!chosen.learns() || rule.value_or(chosen.rule) != LearningRule::procrustes || !(rate > 0),
          "[ModelCalibrationOptions] learning rate ", rate, " for ", chosen.name,
          ", which has none: leave it out");
}

void CaptureOptions::validate() const {
  require(r1_rows >= 1, "[CaptureOptions] ", r1_rows, " rows for R1: at least one is needed");
  require(r2_rows >= 1, "[CaptureOptions] ", r2_rows, " rows for R2: at least one is needed");
  require(site_rows >= 1, "[CaptureOptions] ", site_rows, " rows per input: at least one is needed");
}

}  // namespace dartquant
