// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <CLI/CLI.hpp>

#include <dartquant/model/forward.hpp>

#include "comparison.hpp"

namespace dartquant::program {

/// The command that gives the same figures elsewhere: files by name without their folders, and without what
/// the figures do not depend on (outputs, threads).
[[nodiscard]] std::string command_line(CLI::App const& command);

/// Family and sizes.
[[nodiscard]] Fact model_fact(Model const& model);

/// File, windows, and a checksum of the token ids (FNV-1a of their little-endian bytes).
[[nodiscard]] Fact text_fact(std::string const& what, std::string const& file, TokenWindows const& windows);

/// How weights, activations and the cache are rounded.
[[nodiscard]] Fact rounding_fact(Quantization const& quantization);

}  // namespace dartquant::program
