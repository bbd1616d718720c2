// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

namespace dartquant::detail {

/// XXH128 with seed 0 of a whole file, 32 hexadecimal digits: what `xxh128sum FILE` prints. It tells files
/// apart and finds damage; it is no proof against forgery. Reads at the speed of memory where the file is in
/// the page cache. Errors: Error(io).
[[nodiscard]] std::string file_hash(std::filesystem::path const& path);

}  // namespace dartquant::detail
