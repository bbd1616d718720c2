// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <dartquant/model/architecture.hpp>
#include <dartquant/model/pipeline.hpp>

#include "flags.hpp"

namespace dartquant::program {

using Json = nlohmann::ordered_json;

/// "tiny-llama": the last part of the folder's path.
[[nodiscard]] std::string name_of(Model const& model);
/// Two lines: family, size, dtype; the config's sizes.
[[nodiscard]] std::string describe(Model const& model);
[[nodiscard]] Json to_json(ModelConfig const& config);

/// "about 12 s, 80 MB of memory, 3 MB on disk".
[[nodiscard]] std::string describe(Plan const& plan);
/// What a job will do and on which device, to stderr before it starts; nothing with --quiet.
void print_plan(CommonFlags const& flags, std::string_view device, std::string_view what, Plan const& plan);

/// "9.403 +- 0.051": the perplexity and its standard error.
[[nodiscard]] std::string format_perplexity(Evaluation const& evaluation);
/// exp(nll) times the standard error of nll.
[[nodiscard]] double perplexity_error(Evaluation const& evaluation);
[[nodiscard]] Json to_json(Evaluation const& evaluation);

/// The losses, Whip, orthogonality and notes of a calibration, several lines.
[[nodiscard]] std::string describe(ModelCalibration const& found);
[[nodiscard]] Json to_json(ModelCalibration const& found);

/// One line each, "note: ...".
[[nodiscard]] std::string describe(std::vector<std::string> const& notes);

/// Where the locale has it, the sign of plus or minus.
[[nodiscard]] std::string_view plus_minus();

/// Writes the text, whole or not at all; nothing when `file` is empty.
void write_text(std::string const& file, std::string_view text);
/// The same for a report. Bytes that are no UTF-8 (of a file name) are replaced.
void write_json(std::string const& file, Json const& report);

}  // namespace dartquant::program
