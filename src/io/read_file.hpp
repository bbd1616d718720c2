// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace dartquant::detail {

/// The whole content of a regular file. Throws Error(io) with a sentence when it cannot be opened or read,
/// and Error(memory) when it is longer than `limit` bytes; the size is checked before anything is allocated.
[[nodiscard]] std::string read_file(std::filesystem::path const& path, std::size_t limit);

}  // namespace dartquant::detail
