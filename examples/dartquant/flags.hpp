// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include <dartquant/core/cpu.hpp>
#include <dartquant/model/forward.hpp>
#include <dartquant/model/pipeline.hpp>

#include "progress.hpp"

namespace dartquant::program {

/// Accepts whole numbers of at least `least`.
[[nodiscard]] CLI::Validator at_least(index_t least);

/// Where a job runs.
struct Machine {
  Cpu cpu;             ///< with the compiled kernels, and the products of the device
  Learners learners;   ///< of the device; empty: the CPU learns
  std::string device;  ///< "CPU", or the name of the device
};

/// What every sub-command takes.
struct CommonFlags {
  std::string model;
  std::string json;  ///< empty: no JSON file
  std::string isa;   ///< empty: the best
  std::string device = "cpu";
  std::uint64_t seed = 0;
  int threads = 1;
  bool quiet = false;

  /// Errors: InvalidArgument where there is no instruction set of the name; those of open_device.
  [[nodiscard]] Machine machine() const;
  [[nodiscard]] ProgressDisplay::Detail detail() const {
    return quiet ? ProgressDisplay::Detail::hidden : ProgressDisplay::Detail::shown;
  }
};
void add_common_flags(CLI::App& command, CommonFlags& flags);
/// --device, where a command multiplies or learns.
void add_device_flag(CLI::App& command, CommonFlags& flags);

/// The options that a command line gave, as "--name" and value, for a manifest; of a path the last part.
[[nodiscard]] std::map<std::string, std::string> given_options(CLI::App const& command);

/// A text or a file of token ids.
struct TextSource {
  std::string text, tokens;
  [[nodiscard]] bool given() const { return !text.empty() || !tokens.empty(); }
  [[nodiscard]] std::string const& file() const { return tokens.empty() ? text : tokens; }
};
/// `text_names` and `token_names` as CLI11 takes them, such as "--text,--calibration"; `purpose` goes into
/// the help.
void add_text_flags(CLI::App& command, TextSource& source, std::string const& text_names,
                    std::string const& token_names, std::string const& purpose);
/// Throws InvalidArgument where neither was given; `names` is what the sentence asks for.
void require_given(TextSource const& source, std::string const& names);

/// How a calibration learns.
struct LearningFlags {
  std::string method = "centred", optimizer, objective;
  index_t samples = calibration_samples;
  LearningOptions r1, r2;
  std::optional<double> weight_rows;
  index_t block = ModelCalibrationOptions{}.block;
  index_t r1_rows = CaptureOptions{}.r1_rows, r2_rows = CaptureOptions{}.r2_rows,
          site_rows = CaptureOptions{}.site_rows;

  [[nodiscard]] ModelCalibrationOptions options(RotationSet rotations, std::uint64_t seed) const;
  [[nodiscard]] CaptureOptions capture(std::uint64_t seed, Progress progress) const;
};
/// All but --method.
void add_learning_flags(CLI::App& command, LearningFlags& flags);
/// --samples.
void add_samples_flag(CLI::App& command, index_t& samples);
/// --method.
void add_method_flag(CLI::App& command, LearningFlags& flags);

/// How weights, activations and the KV cache are rounded.
struct SchemeFlags {
  std::string scheme = "w16a16kv16";
  index_t weight_group = 0;
  std::string weight_clip = "mse", weights = "rtn", weight_order = "natural";
  double damping = WeightQuantization{}.damping;
  double activation_clip = 1, kv_clip = 1;
  bool symmetric = false, per_head = false, asymmetric_weights = false;

  [[nodiscard]] Quantization quantization(Scheme parsed) const;
  [[nodiscard]] Quantization quantization() const { return quantization(Scheme::parse(scheme)); }
};
/// `purpose` is the help of --scheme.
void add_scheme_flags(CLI::App& command, SchemeFlags& flags, std::string const& purpose);
/// --integers, where a run can be repeated on integer products.
void add_integers_flag(CLI::App& command, bool& integers);

}  // namespace dartquant::program
