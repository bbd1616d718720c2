// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include <dartquant/model/forward.hpp>
#include <dartquant/model/rotations.hpp>

namespace dartquant::program {

/// What a written folder is.
struct OutputKind {
  std::string format;       ///< "checkpoint", "compressed-tensors" or "native"
  RotationSet rotations{};  ///< that act; r3 and r4 run online
  Quantization quantization{};
};

/// Sentences: which engine runs the folder at full quality, and which does not.
[[nodiscard]] std::vector<std::string> engine_notes(OutputKind const& kind);

/// A sentence where only weights are rounded, in small groups, and rotations act; docs/results.md has the
/// measurement behind it. Else empty.
[[nodiscard]] std::string small_group_note(OutputKind const& kind);

}  // namespace dartquant::program
