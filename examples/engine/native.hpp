// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/dartquant.hpp>

namespace engine {

/// Runs the first layer of a folder that `dartquant quantize --format native` wrote, with the activations
/// that it asks for, and compares with the same weights in float. 0 when both agree.
[[nodiscard]] int run_native(dartquant::Model const& model, int threads);

}  // namespace engine
