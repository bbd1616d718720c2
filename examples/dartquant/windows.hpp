// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <dartquant/io/tokenizer.hpp>
#include <dartquant/model/architecture.hpp>
#include <dartquant/model/forward.hpp>

#include "flags.hpp"

namespace dartquant::program {

/// The ids of a whole text file. Errors: Error(io), Error(format) naming the file where it is empty or no
/// UTF-8.
[[nodiscard]] std::vector<std::int32_t> encode(Tokenizer const& tokenizer, std::string const& file);

/// The ids of a source: the whole text as one document through the model's tokenizer.json (whose
/// post-processor adds <s> in front where the model has one), or the ids of an .npy file. Errors:
/// Error(format) naming the file where it is empty, no UTF-8, or an id is outside the vocabulary; those of
/// Tokenizer and read_npy_integers.
[[nodiscard]] std::vector<std::int32_t> read_ids(Model const& model, TextSource const& source);

/// Tokens per window: `flag`, or min(2048, positions) where it is 0. Errors: InvalidArgument when out of
/// range.
[[nodiscard]] index_t window_length(Model const& model, index_t flag);

/// Consecutive windows from the beginning, at most `limit` (0: all): for measuring.
[[nodiscard]] TokenWindows first_windows(Model const& model, TextSource const& source, index_t seqlen,
                                         index_t limit);

/// At most `samples` of the consecutive windows, spread evenly over the whole source: for learning.
[[nodiscard]] TokenWindows spread_windows(Model const& model, TextSource const& source, index_t seqlen,
                                          index_t samples);

}  // namespace dartquant::program
