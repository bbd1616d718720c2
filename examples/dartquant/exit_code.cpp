// SPDX-License-Identifier: Apache-2.0
#include "exit_code.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <system_error>

#include <fmt/core.h>

#include <dartquant/core/error.hpp>

#include "interrupt.hpp"

namespace dartquant::program {
namespace {

ExitCode exit_code_of(Error::Kind kind) {
  switch (kind) {
    case Error::Kind::format:
      return ExitCode::bad_file;
    case Error::Kind::unsupported:
      return ExitCode::unsupported;
    case Error::Kind::memory:
      return ExitCode::memory;
    case Error::Kind::io:
      return ExitCode::io;
    case Error::Kind::numerics:
      return ExitCode::numerics;
  }
  return ExitCode::bug;
}

ExitCode report(std::string_view sentence, ExitCode code) {
  print_error(sentence);
  return code;
}

}  // namespace

std::string_view exit_code_help() {
  return "Exit codes: 0 done, 2 usage, 3 bad input file, 4 unsupported model or file, 5 out of memory,\n"
         "            6 file system (missing, read-only, disk full), 7 numerical check failed, 130 "
         "interrupted";
}

void print_error(std::string_view sentence) {
  std::fflush(stdout);
  fmt::print(stderr, "dartquant: {}\n", sentence);
}

ExitCode run_reporting_errors(std::function<void()> const& job) {
  try {
    job();
    if (std::fflush(stdout) != 0)
      return report(fmt::format("cannot write to standard output: {}", std::strerror(errno)), ExitCode::io);
    return ExitCode::ok;
  } catch (Interrupted const&) {
    return report(interrupted_sentence, ExitCode::interrupted);
  } catch (Error const& error) {
    return report(error.what(), exit_code_of(error.kind()));
  } catch (InvalidArgument const& error) {
    return report(error.what(), ExitCode::usage);
  } catch (std::bad_alloc const&) {
    return report("out of memory: fewer --samples, --rows or --windows, or a shorter --seqlen, need less",
                  ExitCode::memory);
  } catch (std::system_error const& error) {
    return report(error.what(), ExitCode::io);
  } catch (std::exception const& error) {
    return report(fmt::format("unexpected error: {}", error.what()), ExitCode::bug);
  }
}

}  // namespace dartquant::program
