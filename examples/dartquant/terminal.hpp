// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace dartquant::program {

[[nodiscard]] bool is_terminal(std::FILE* stream);
/// Columns of the terminal behind stderr; 80 when unknown.
[[nodiscard]] int terminal_columns();
/// Whether the locale's character set is UTF-8.
[[nodiscard]] bool speaks_utf8();

/// Characters a text takes on the screen: UTF-8 code points.
[[nodiscard]] std::size_t display_width(std::string_view text);

/// A horizontal bar of at most `columns` characters that fills `fraction` (0..1) of them, in eighths where the
/// terminal speaks UTF-8. Not padded.
[[nodiscard]] std::string bar(double fraction, int columns);

/// The text in bold where stdout is a terminal and NO_COLOR is not set.
[[nodiscard]] std::string bold(std::string_view text);

}  // namespace dartquant::program
