// SPDX-License-Identifier: Apache-2.0
#pragma once

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
  uniformity,
  kurtosis,
  variance,
  peak,
  quant_error
};

/// Where the rotations of a method come from.
enum class RotationSource {
  none,             ///< there are none
  random_hadamard,  ///< random signs, nothing learned
  learned
};

/// What learned rotations minimise (calibrate/objective.hpp).
enum class LearnedObjective { whip, uniformity, kurtosis, variance, peak, quant_error };

/// How they are learned.
enum class LearningRule {
  qr_orth,     ///< calibrate/descent.hpp with SGD
  procrustes,  ///< calibrate/procrustes.hpp
  cayley       ///< calibrate/cayley.hpp
};

/// What is folded at the inputs of the linear layers besides the rotations.
enum class SiteChain { none };

/// One row of the table of methods.
struct MethodTraits {
  Method method;
  std::string_view name;         ///< what the program calls it, such as "quant-error"
  std::string_view description;  ///< one line
  RotationSource source = RotationSource::none;
  LearnedObjective objective = LearnedObjective::whip;  ///< of learned rotations
  LearningRule rule = LearningRule::qr_orth;            ///< of learned rotations
  SiteChain sites = SiteChain::none;

  [[nodiscard]] constexpr bool rotates() const { return source != RotationSource::none; }
  [[nodiscard]] constexpr bool learns() const { return source == RotationSource::learned; }
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
