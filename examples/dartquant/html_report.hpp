// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "comparison.hpp"

namespace dartquant::program {

/// One page with tables and pictures of a comparison: HTML that is also well-formed XML, style sheet and
/// pictures inside, no script, nothing loaded from elsewhere. Light or dark as the reader's system is.
[[nodiscard]] std::string to_html(Comparison const& comparison);

}  // namespace dartquant::program
