// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include <dartquant/io/checkpoint.hpp>
#include <dartquant/model/fold.hpp>

namespace dartquant::detail {

/// Error(io) unless `output` may be written: not the input, and missing, empty or an earlier output.
void check_output_folder(std::filesystem::path const& input, std::filesystem::path const& output);

/// Puts everything in place: the weights that `writer` holds, rotations, tokenizer files, manifest,
/// config.json last. Fills the files and bytes of `report`.
void finish_folder(Model const& model, Rotations const& rotations, std::filesystem::path const& output,
                   FoldOptions const& options, CheckpointWriter& writer, FoldReport& report);

}  // namespace dartquant::detail
