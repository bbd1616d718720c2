// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <future>
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

/// Size and XXH128 of every file that a model was read from, by its name without folders.
struct InputFile {
  std::uint64_t bytes = 0;
  std::string xxh128{};
};
using InputFiles = std::map<std::string, InputFile>;

/// One pass over those files: on a thread of its own where there are several, else when the result is asked
/// for. `model` must outlive the result. Errors: Error(io), thrown by get().
[[nodiscard]] std::future<InputFiles> hash_inputs(Model const& model, int threads);

/// The text of dartquant.json: version and the above.
[[nodiscard]] std::string manifest_text(InputFiles const& inputs, Manifest const& manifest);

}  // namespace dartquant::detail
