// SPDX-License-Identifier: Apache-2.0
#include "active.hpp"

#include <dartquant/core/error.hpp>
#include <dartquant/io/safetensors.hpp>

namespace dartquant::program {

Rotations read_rotations(std::string const& file, ModelConfig const& config) {
  return file.empty() ? Rotations{} : load_rotations(file, config);
}

std::map<std::string, std::string> origin_of_rotations(std::string const& file) {
  std::map<std::string, std::string> origin;
  if (file.empty()) return origin;
  SafetensorsFile const rotations(file);
  for (auto const& [key, value] : rotations.metadata()) origin["rotations_" + key] = value;
  return origin;
}

RotationSet active_rotations(std::string const& text, Rotations const& rotations) {
  RotationSet const held{.r1 = rotations.r1.size() > 0, .r2 = !rotations.r2.empty()};
  if (text.empty()) return held;
  RotationSet const active = RotationSet::parse(text);
  detail::require(held.r1 || !active.r1, "--active ", text, ": R1 needs --rotations with a file that has it");
  detail::require(held.r2 || !active.r2, "--active ", text, ": R2 needs --rotations with a file that has it");
  return active;
}

ForwardOptions rotated_forward(Rotations const& rotations, RotationSet active,
                               Quantization const& quantization) {
  ForwardOptions options;
  options.active = active;
  options.quantization = quantization;
  if (active == RotationSet{} && rotations.layers.empty()) return options;
  options.rotations = &rotations;
  options.gains = ForwardOptions::Gains::folded;
  return options;
}

}  // namespace dartquant::program
