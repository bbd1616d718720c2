// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string_view>

namespace dartquant::program {

/// What the program tells the shell.
enum class ExitCode : int {
  ok = 0,
  bug = 1,          ///< an error that has no place in this list
  usage = 2,        ///< the command line asks for something impossible
  bad_file = 3,     ///< an input file is malformed, or does not fit the model
  unsupported = 4,  ///< a well-formed model or file that this program cannot handle
  memory = 5,
  io = 6,  ///< missing, unreadable, read-only, disk full
  numerics = 7,
  interrupted = 130
};

/// The list of codes, for --help.
[[nodiscard]] std::string_view exit_code_help();

/// Runs `job`. An exception becomes one sentence on stderr, `dartquant: ...`, and its exit code.
[[nodiscard]] ExitCode run_reporting_errors(std::function<void()> const& job);

/// Prints `dartquant: sentence` to stderr.
void print_error(std::string_view sentence);

}  // namespace dartquant::program
