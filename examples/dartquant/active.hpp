// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>

#include <dartquant/model/fold.hpp>
#include <dartquant/model/forward.hpp>

namespace dartquant::program {

/// The rotations of a file, or none where its name is empty.
[[nodiscard]] Rotations read_rotations(std::string const& file, ModelConfig const& config);

/// What the file of rotations says of how they were found (method, seed, windows...); empty without a file.
[[nodiscard]] std::map<std::string, std::string> origin_of_rotations(std::string const& file);

/// The set that `--active text` names; where the text is empty, those that `rotations` holds. Errors:
/// InvalidArgument where R1 or R2 is named and not there.
[[nodiscard]] RotationSet active_rotations(std::string const& text, Rotations const& rotations);

/// A forward pass in which `active` act: gains folded where any of them does.
[[nodiscard]] ForwardOptions rotated_forward(Rotations const& rotations, RotationSet active,
                                             Quantization const& quantization = {});

}  // namespace dartquant::program
