// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <string>

#include <dartquant/core/error.hpp>
#include <dartquant/model/method.hpp>

namespace dartquant {
namespace {

using detail::require;

using enum RotationSource;
using enum LearnedObjective;

// The paper's, with plain rounding and with learned clipping.
constexpr double duquant_alpha = 0.6, duquant_lwc_alpha = 0.5;

// One row per method. What is not said is as MethodTraits has it.
constexpr std::array table{
    MethodTraits{.method = Method::rtn, .name = "rtn", .description = "no rotation: round to nearest"},
    MethodTraits{.method = Method::quarot,
                 .name = "quarot",
                 .description = "random Hadamard matrices, nothing learned",
                 .source = random_hadamard},
    MethodTraits{.method = Method::dartquant,
                 .name = "dartquant",
                 .description = "Whip by QR-Orth, the paper's method",
                 .source = learned},
    MethodTraits{.method = Method::procrustes,
                 .name = "procrustes",
                 .description = "Whip by the Procrustes fixed point, no learning rate",
                 .source = learned,
                 .rule = LearningRule::procrustes},
    MethodTraits{.method = Method::cayley,
                 .name = "cayley",
                 .description = "Whip by Cayley SGD, SpinQuant's optimizer",
                 .source = learned,
                 .rule = LearningRule::cayley},
    MethodTraits{.method = Method::spinquant,
                 .name = "spinquant",
                 .description = "4-bit error of the layers' outputs (R2: Whip) by Cayley SGD",
                 .source = learned,
                 .objective = output_error,
                 .rule = LearningRule::cayley},
    MethodTraits{.method = Method::uniformity,
                 .name = "uniformity",
                 .description = "distance to the uniform distribution by QR-Orth",
                 .source = learned,
                 .objective = uniformity},
    MethodTraits{.method = Method::kurtosis,
                 .name = "kurtosis",
                 .description = "fourth moment by QR-Orth",
                 .source = learned,
                 .objective = kurtosis},
    MethodTraits{.method = Method::variance,
                 .name = "variance",
                 .description = "variance by QR-Orth, which no rotation changes: a control",
                 .source = learned,
                 .objective = variance},
    MethodTraits{.method = Method::peak,
                 .name = "peak",
                 .description = "soft-max weighted maximum by QR-Orth",
                 .source = learned,
                 .objective = peak},
    MethodTraits{.method = Method::quant_error,
                 .name = "quant-error",
                 .description = "error of a 4-bit grid by QR-Orth",
                 .source = learned,
                 .objective = quant_error},
    MethodTraits{.method = Method::smooth,
                 .name = "smooth",
                 .description = "DuQuant's smoothing alone, folded",
                 .smoothing = duquant_alpha},
    MethodTraits{.method = Method::duquant_rotation,
                 .name = "duquant-rotation",
                 .description = "smoothing and one greedy block rotation, online",
                 .sites = SiteChain::rotation,
                 .smoothing = duquant_alpha},
    MethodTraits{.method = Method::duquant_unsmoothed,
                 .name = "duquant-nosmooth",
                 .description = "greedy rotation, zigzag, greedy rotation, online, without smoothing",
                 .sites = SiteChain::duquant},
    MethodTraits{.method = Method::duquant,
                 .name = "duquant",
                 .description = "smoothing, greedy rotation, zigzag, greedy rotation, online",
                 .sites = SiteChain::duquant,
                 .smoothing = duquant_alpha},
    MethodTraits{.method = Method::duquant_lwc,
                 .name = "duquant+lwc",
                 .description = "the same with learned clipping of the weights",
                 .sites = SiteChain::duquant,
                 .smoothing = duquant_lwc_alpha,
                 .learned_clip = true},
    MethodTraits{.method = Method::duquant_released,
                 .name = "duquant-released",
                 .description = "duquant as its released code computes it: row index, range",
                 .sites = SiteChain::duquant_released,
                 .smoothing = duquant_alpha},
    MethodTraits{.method = Method::zigzag_hadamard,
                 .name = "zigzag+had128",
                 .description = "smoothing, zigzag and a Hadamard transform per block, online",
                 .sites = SiteChain::zigzag_hadamard,
                 .smoothing = duquant_alpha},
    MethodTraits{.method = Method::quarot_heads,
                 .name = "quarot-heads",
                 .description = "quarot with a Hadamard transform across the heads before o_proj, online",
                 .source = random_hadamard,
                 .sites = SiteChain::heads_hadamard},
    MethodTraits{
        .method = Method::centred,
        .name = "centred",
        .description = "peak on weights and on inputs about their means, which are subtracted online",
        .source = learned,
        .objective = peak,
        .means = InputMeans::subtracted,
        .weight_rows = 0.5},
    MethodTraits{.method = Method::centred_blocks,
                 .name = "centred+blocks",
                 .description = "centred, then learned rotations of inputs by blocks and of keys, online",
                 .source = learned,
                 .objective = peak,
                 .sites = SiteChain::learned_blocks,
                 .means = InputMeans::subtracted,
                 .weight_rows = 0.5},
    MethodTraits{.method = Method::ostquant,
                 .name = "ostquant",
                 .description = "procrustes, then folded scales per layer that balance inputs and weights",
                 .source = learned,
                 .rule = LearningRule::procrustes,
                 .balanced_scales = true},
};

constexpr bool in_order() {
  for (std::size_t i = 0; i < table.size(); ++i)
    if (table[i].method != static_cast<Method>(i)) return false;
  return true;
}
static_assert(in_order(), "the rows stand in the order of the enum");

}  // namespace

std::span<MethodTraits const> methods() { return table; }

MethodTraits const& traits(Method method) {
  auto const row = static_cast<std::size_t>(method);
  require(row < table.size(), "[traits] method ", row, ": there are ", table.size());
  return table[row];
}

std::string_view name_of(Method method) { return traits(method).name; }

std::string_view name_of(LearningRule rule) {
  switch (rule) {
    case LearningRule::qr_orth:
      return "qr-orth";
    case LearningRule::procrustes:
      return "procrustes";
    case LearningRule::cayley:
      return "cayley";
  }
  return "";
}

std::string_view name_of(LearnedObjective objective) {
  switch (objective) {
    case LearnedObjective::whip:
      return "whip";
    case LearnedObjective::uniformity:
      return "uniformity";
    case LearnedObjective::kurtosis:
      return "kurtosis";
    case LearnedObjective::variance:
      return "variance";
    case LearnedObjective::peak:
      return "peak";
    case LearnedObjective::quant_error:
      return "quant-error";
    case LearnedObjective::output_error:
      return "output-error";
  }
  return "";
}

LearnedObjective parse_objective(std::string_view name) {
  for (auto const objective : {whip, uniformity, kurtosis, variance, peak, quant_error, output_error})
    if (name_of(objective) == name) return objective;
  throw InvalidArgument(
      detail::sentence("[parse_objective] '", name,
                       "' is no objective (known: whip, uniformity, kurtosis, variance, peak, quant-error, "
                       "output-error)"));
}

LearningRule parse_rule(std::string_view name) {
  for (auto const rule : {LearningRule::qr_orth, LearningRule::procrustes, LearningRule::cayley})
    if (name_of(rule) == name) return rule;
  throw InvalidArgument(
      detail::sentence("[parse_rule] '", name, "' is no optimizer (known: qr-orth, procrustes, cayley)"));
}

Method parse_method(std::string_view name) {
  std::string known;
  for (MethodTraits const& row : table) {
    if (row.name == name) return row.method;
    known.append(known.empty() ? "" : ", ").append(row.name);
  }
  throw InvalidArgument(detail::sentence("[parse_method] '", name, "' is not a method (known: ", known, ")"));
}

std::string describe_methods() {
  std::size_t width = 0;
  for (MethodTraits const& row : table) width = std::max(width, row.name.size());
  std::string text;
  for (MethodTraits const& row : table) {
    text.append(text.empty() ? "" : "\n").append(row.name);
    text.append(width + 2 - row.name.size(), ' ').append(row.description);
  }
  return text;
}

}  // namespace dartquant
