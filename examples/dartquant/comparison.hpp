// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <dartquant/model/pipeline.hpp>
#include <dartquant/model/quantization_errors.hpp>
#include <dartquant/model/site_statistics.hpp>

#include "peak_memory.hpp"
#include "report.hpp"

namespace dartquant::program {

/// One method with one seed under one scheme.
struct Result {
  Method method;
  Scheme scheme;
  WeightRounding weights = WeightRounding::nearest;
  RotationSet rotations;
  std::uint64_t seed = 0;
  Evaluation evaluation;
  double whip_per_channel = 0;
  double seconds = 0;  ///< of learning
  double evaluation_seconds = 0;
  PeakBytes learning_peak = 0, evaluation_peak = 0;  ///< 0: not measured
  std::optional<QuantizationErrors> errors{};        ///< of the first seed of a method
};

/// The activations of the model before or after a method's rotations, in full precision.
struct Portrait {
  std::string label;  ///< "original", or the method
  std::vector<SiteStatistics> sites;
};

/// One line of how the figures were made.
struct Fact {
  std::string what, value;
};

/// All results, scheme by scheme, method by method, seed by seed.
struct Comparison {
  std::string model;
  std::string device;      ///< see Machine
  Evaluation baseline;     ///< of the original
  Method reference{};      ///< the method that the others are compared with
  double whip_before = 0;  ///< per channel, of the unrotated model
  double capture_seconds = 0;
  PeakBytes capture_peak = 0;                    ///< of the capture and all R2; 0: not measured
  std::vector<PeakBytes> learning_peaks{};       ///< of R1, one per calibration
  std::vector<ModelCalibration> calibrations{};  ///< one per method and seed
  std::vector<Result> results{};
  std::vector<Portrait> portraits{};  ///< for the pictures: the original, then methods
  std::vector<Fact> facts{};          ///< for the pictures
};

/// The original first, then one row per scheme and method: mean and spread over seeds, the paired difference
/// to the reference, the best marked; then the errors site by site.
[[nodiscard]] std::string comparison_table(Comparison const& comparison);

/// {"baseline": {"perplexity": P}, "results": [{"method", "scheme", "rotations", "seed", "perplexity", "kl",
/// "whip_per_channel", "seconds"}, ...], "summary": [...]} and more keys.
[[nodiscard]] Json to_json(Comparison const& comparison);

/// The original, then one line per result (RFC 4180, numbers that read back exactly); empty where something
/// was not measured.
[[nodiscard]] std::string to_csv(Comparison const& comparison);

}  // namespace dartquant::program
