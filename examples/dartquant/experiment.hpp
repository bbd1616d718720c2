// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include <dartquant/model/pipeline.hpp>

#include "comparison.hpp"
#include "progress.hpp"

namespace dartquant::program {

/// What a comparison runs: every method and seed under every quantization.
struct Experiment {
  Cpu cpu;
  std::string device;  ///< see Machine
  Model model;
  TokenWindows learn, measure;
  RotationSet rotations;
  std::vector<Quantization> quantizations;
  std::vector<ModelCalibrationOptions> runs;
  CaptureOptions capture;
  Method reference;
};

/// Measures the original, learns, and measures every result; of the first seed of each method also the errors
/// site by site, on a few windows.
[[nodiscard]] Comparison run(Experiment const& experiment, ProgressDisplay& progress);

/// Adds the activations of the original, of the reference and of the best method, on a few windows.
void draw_portraits(Experiment const& experiment, ProgressDisplay& progress, Comparison& comparison);

}  // namespace dartquant::program
