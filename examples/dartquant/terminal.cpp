// SPDX-License-Identifier: Apache-2.0
#include "terminal.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include <fmt/core.h>

namespace dartquant::program {

bool is_terminal(std::FILE* stream) { return isatty(fileno(stream)) != 0; }

int terminal_columns() {
  winsize size = {};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

bool speaks_utf8() {
  for (char const* const name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    char const* const value = std::getenv(name);
    if (value == nullptr || *value == '\0') continue;
    std::string_view const locale = value;
    return locale.find("UTF-8") != locale.npos || locale.find("utf8") != locale.npos;
  }
  return false;
}

std::size_t display_width(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; }));
}

std::string bar(double fraction, int columns) {
  double const filled = std::clamp(std::isfinite(fraction) ? fraction : 0.0, 0.0, 1.0) * columns;
  if (!speaks_utf8()) return std::string(static_cast<std::size_t>(std::lround(filled)), '#');
  constexpr std::string_view eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  long const steps = std::lround(filled * 8);
  std::string text;
  for (long i = 0; i < steps / 8; ++i) text += "█";
  text += eighths[steps % 8];
  return text;
}

std::string bold(std::string_view text) {
  static bool const styled = is_terminal(stdout) && std::getenv("NO_COLOR") == nullptr;
  return styled ? fmt::format("\x1b[1m{}\x1b[0m", text) : std::string(text);
}

}  // namespace dartquant::program
