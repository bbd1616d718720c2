// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include <dartquant/core/matrix.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// Reads a NumPy file (.npy, versions 1 to 3) with a one-dimensional little-endian array of int32, int64,
/// uint16 or uint32, such as token ids. Throws Error(io) when it cannot be opened, Error(format) when it is
/// malformed, its size is not exactly header + data, or a value does not fit (with its position), and
/// Error(unsupported) for other types and shapes. Format:
/// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
[[nodiscard]] std::vector<std::int32_t> read_npy_integers(std::filesystem::path const& path);

/// Reads a two-dimensional little-endian float32 or float64 array in C order; errors as above. A value beyond
/// float becomes infinite.
[[nodiscard]] RowMatrix<float> read_npy_matrix(std::filesystem::path const& path);

/// Write version 1.0 through AtomicFile: int32 [n], float32 [rows, cols].
void write_npy(std::filesystem::path const& path, std::span<std::int32_t const> values);
void write_npy(std::filesystem::path const& path, MatrixView<float const> values);

}  // namespace dartquant
