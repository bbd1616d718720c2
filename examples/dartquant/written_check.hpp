// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include <dartquant/core/cpu.hpp>
#include <dartquant/model/pipeline.hpp>

#include "flags.hpp"

namespace dartquant::program {

/// --dtype: the element type of written weights.
void add_dtype_flag(CLI::App& command, std::string& name);
/// Nothing where the name is empty.
[[nodiscard]] std::optional<Dtype> dtype_of(std::string const& name);

/// How far the logits of a written checkpoint may be from those of the original, relative to the largest:
/// 1e-4 for F32; F16 and BF16 round every weight, which alone changes logits, so 0.01 and 0.05, as do Q8_0
/// (0.05) and Q4_0 (0.5, which only finds what is wrong altogether); 0.5 for rounded mixtures of experts,
/// where a token may be given another expert.
[[nodiscard]] double logit_bound(Model const& written);

/// Windows to check on: the first two of `source`, or pseudo-random ids where no text was given.
[[nodiscard]] TokenWindows check_windows(Model const& model, TextSource const& source);

/// Compares the logits of a written checkpoint with those of the original under `options` (rotations and
/// rounding of weights on the fly). Errors: Error(numerics) above logit_bound.
[[nodiscard]] FoldCheck check_written(Cpu const& cpu, Model const& original, ForwardOptions const& options,
                                      Model const& written, TokenWindows const& windows);

/// Bytes that the weights take in `dtype` (absent: as they are), lm_head included.
[[nodiscard]] std::uint64_t written_bytes(Model const& model, std::optional<Dtype> dtype);

}  // namespace dartquant::program
