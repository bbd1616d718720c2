// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include <dartquant/model/architecture.hpp>
#include <dartquant/model/rotations.hpp>
#include <dartquant/model/weight_quantization.hpp>

namespace dartquant::detail {

/// What a written folder says about itself in dartquant.json.
struct Manifest {
  std::string format;            ///< "checkpoint", "compressed-tensors", "native"
  RotationSet rotations{};       ///< folded or online
  RotationSet online{};          ///< those the reader must run
  WeightQuantization weights{};  ///< of the linear layers
  double r1_orthogonality = 0, r2_orthogonality = 0;
  std::map<std::string, std::string> options{};  ///< the caller's: method, seed, data...
  std::vector<std::string> notes{};
};

/// The text of dartquant.json: version, the above, and size and XXH128 of every file that `model` was read
/// from. Paths are left out, only names are kept. Cost: one pass over those files.
[[nodiscard]] std::string manifest_text(Model const& model, Manifest const& manifest);

}  // namespace dartquant::detail
