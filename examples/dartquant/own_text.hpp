// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/model/forward.hpp>

#include "flags.hpp"
#include "progress.hpp"

namespace dartquant::program {

/// What a model is to write.
struct OwnText {
  TextSource source{};  ///< the first tokens of its windows begin those to write; none: one random token each
  index_t windows = 0, seqlen = 0;  ///< of `windows` at most as many as the source has
  index_t prompt = 8;               ///< tokens of a window that are from the source
  double temperature = 1;
};

/// Lets the model write, after saying what that takes. Errors: InvalidArgument where that is more than the
/// memory of this machine; those of the source and of generate.
[[nodiscard]] TokenWindows write_own_text(CommonFlags const& flags, Machine const& machine,
                                          Model const& model, OwnText const& wanted,
                                          ProgressDisplay& progress);

}  // namespace dartquant::program
