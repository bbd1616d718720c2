// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include <dartquant/io/checkpoint.hpp>
#include <dartquant/model/fold.hpp>

#include "model/manifest.hpp"

namespace dartquant::detail {

/// Error(io) unless `output` may be written: not the input, and missing, empty or an earlier output.
void check_output_folder(std::filesystem::path const& input, std::filesystem::path const& output);

/// The config.json of `model` with its embeddings untied, of another dtype where one is given, and with
/// `quantization`, the text of a JSON value, as quantization_config where it is not empty.
[[nodiscard]] std::string output_config(Model const& model, std::optional<Dtype> dtype,
                                        std::string const& quantization = {});

/// What a written folder holds beside weights and the companions of the input.
struct FolderTexts {
  std::string config, manifest;
};

/// Puts everything in place: the weights that `writer` holds, rotations, tokenizer files, manifest,
/// config.json last. Fills the files and bytes of `report`.
void finish_folder(Model const& model, FolderTexts const& texts, Rotations const& rotations,
                   std::filesystem::path const& output, CheckpointWriter& writer, FoldReport& report);

}  // namespace dartquant::detail
