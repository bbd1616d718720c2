// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include <nlohmann/json.hpp>

namespace dartquant::test {

using Json = nlohmann::ordered_json;

/// Copies the small model, without its texts, to `folder`.
void copy_model(std::filesystem::path const& folder);

/// Cuts a file to `share` of its size.
void truncate_file(std::filesystem::path const& file, double share);

/// Changes a JSON file.
void edit_json(std::filesystem::path const& file, std::function<void(Json&)> const& edit);

/// Changes the header of a safetensors file; the data stays where the header says.
void edit_header(std::filesystem::path const& file, std::function<void(Json&)> const& edit);

/// Overwrites 2-byte elements [first, first + count) of a tensor of a safetensors file.
void fill_elements(std::filesystem::path const& file, std::string const& tensor, std::uint64_t first,
                   std::uint64_t count, std::uint16_t bits);

/// Says that the weights of a single-file model are split: `missing` is in a second shard that is not there.
void make_sharded(std::filesystem::path const& folder, std::string const& missing);

}  // namespace dartquant::test
