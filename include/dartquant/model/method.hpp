// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace dartquant {

/// How the rotations are found. What each does stands in one table, src/model/method.cpp; see `traits`.
enum class Method {
  rtn,
  quarot,
  dartquant,
  procrustes,
  cayley,
  spinquant,
  uniformity,
  kurtosis,
  variance,
  peak,
  quant_error,
  smooth,
  duquant_rotation,
  duquant_unsmoothed,
  duquant,
  duquant_lwc,
  duquant_released,
  zigzag_hadamard,
  quarot_heads,
  centred,
  centred_blocks,
  ostquant
};

/// Where the rotations of a method come from.
enum class RotationSource {
  none,             ///< there are none
  random_hadamard,  ///< random signs, nothing learned
  learned
};

/// What learned rotations minimise (calibrate/objective.hpp).
enum class LearnedObjective {
  whip,
  uniformity,
  kurtosis,
  variance,
  peak,
  quant_error,
  output_error  ///< of R1, over the linear layers that read its side of the stream; R2: Whip
};

/// "whip" "uniformity" "kurtosis" "variance" "peak" "quant-error" "output-error".
[[nodiscard]] std::string_view name_of(LearnedObjective objective);
/// The objective of a name. Errors: InvalidArgument that lists the names.
[[nodiscard]] LearnedObjective parse_objective(std::string_view name);

/// How they are learned.
enum class LearningRule {
  qr_orth,     ///< calibrate/descent.hpp with SGD
  procrustes,  ///< calibrate/procrustes.hpp
  cayley       ///< calibrate/cayley.hpp
};

/// "qr-orth" "procrustes" "cayley".
[[nodiscard]] std::string_view name_of(LearningRule rule);
/// The rule of a name. Errors: InvalidArgument that lists the names.
[[nodiscard]] LearningRule parse_rule(std::string_view name);

/// What runs online at the inputs of the linear maps besides the rotations: see LayerTransforms. Those that
/// are found on activations take the basis as it is, so they go with no rotation; all but heads_hadamard and
/// learned_blocks.
enum class SiteChain {
  none,
  rotation,          ///< one greedy block rotation
  duquant,           ///< greedy rotation, zigzag, greedy rotation
  duquant_released,  ///< the same as DuQuant's released code computes it: row as index, range as peak
  zigzag_hadamard,   ///< zigzag, then one Hadamard transform per block
  heads_hadamard,    ///< only at o_proj: a Hadamard transform across the heads
  learned_blocks  ///< a learned rotation per block of every input and one of the keys, after R1, R2, R4, for
                  ///< R3
};

/// What happens to the means of the q_proj inputs, the up_proj inputs and the keys.
enum class InputMeans {
  kept,
  subtracted  ///< online, see the shifts of LayerTransforms; R1 is learned about them
};

/// One row of the table of methods.
struct MethodTraits {
  Method method;
  std::string_view name;         ///< what the program calls it, such as "quant-error"
  std::string_view description;  ///< one line
  RotationSource source = RotationSource::none;
  LearnedObjective objective = LearnedObjective::whip;  ///< of learned rotations
  LearningRule rule = LearningRule::qr_orth;            ///< of learned rotations
  SiteChain sites = SiteChain::none;
  InputMeans means = InputMeans::kept;
  /// Scales of the norms' outputs and of the up channels that balance activations against weights after R1;
  /// they fold.
  bool balanced_scales = false;
  std::optional<double> smoothing{};  ///< alpha of DuQuant's smoothing of the four inputs; absent: none
  /// Its weights are rounded in ranges that are learned, whatever rounding was asked for.
  bool learned_clip = false;
  /// Rows of weights that its rotations also learn on, for every row of activations.
  double weight_rows = 0;

  [[nodiscard]] constexpr bool rotates() const { return source != RotationSource::none; }
  [[nodiscard]] constexpr bool learns() const { return source == RotationSource::learned; }
  /// Finds transforms or scales of single layers, in the basis as it is or after R1 and R2.
  [[nodiscard]] constexpr bool transforms() const { return sites != SiteChain::none || smoothing; }
  /// Whether the seed changes the result.
  [[nodiscard]] constexpr bool seeded() const {
    return rotates() || (sites != SiteChain::none && sites != SiteChain::zigzag_hadamard);
  }
};

/// All methods, in the order of the enum.
[[nodiscard]] std::span<MethodTraits const> methods();
/// The row of a method.
[[nodiscard]] MethodTraits const& traits(Method method);
/// Its name: "rtn", "quarot", "dartquant", ...
[[nodiscard]] std::string_view name_of(Method method);
/// The method of a name. Errors: InvalidArgument that lists the names.
[[nodiscard]] Method parse_method(std::string_view name);
/// The table for a person: one line per method, "name  description".
[[nodiscard]] std::string describe_methods();

}  // namespace dartquant
