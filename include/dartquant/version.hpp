// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

// The only place where the version is written; CMake reads these lines.
#define DARTQUANT_VERSION_MAJOR 0
#define DARTQUANT_VERSION_MINOR 1
#define DARTQUANT_VERSION_PATCH 0

namespace dartquant {

/// The version as "major.minor.patch".
[[nodiscard]] inline std::string version() {
  return std::to_string(DARTQUANT_VERSION_MAJOR) + '.' + std::to_string(DARTQUANT_VERSION_MINOR) + '.' +
         std::to_string(DARTQUANT_VERSION_PATCH);
}

}  // namespace dartquant
