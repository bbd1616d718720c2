// SPDX-License-Identifier: Apache-2.0
#include "interrupt.hpp"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <string_view>

#include "exit_code.hpp"

namespace dartquant::program {
namespace {

std::atomic<bool> interrupted = false, on_terminal = false;
std::atomic<int> temporary_files = 0;
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

/// From a signal handler.
void write_to_stderr(std::string_view text) {
  if (::write(STDERR_FILENO, text.data(), text.size()) < 0) return;
}

void on_signal(int) {
  int const saved = errno;
  if (on_terminal) write_to_stderr("\r\x1b[K");
  if (temporary_files == 0) {
    write_to_stderr("dartquant: ");
    write_to_stderr(interrupted_sentence);
    write_to_stderr("\n");
    ::_exit(static_cast<int>(ExitCode::interrupted));
  }
  interrupted = true;
  if (on_terminal) write_to_stderr("stopping after this step; press Ctrl-C again to stop at once\n");
  errno = saved;
}

void watch(int signal_number) {
  struct sigaction current = {};
  sigaction(signal_number, nullptr, &current);
  if (current.sa_handler == SIG_IGN) return;  // nohup, or a shell's background job
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = static_cast<int>(SA_RESTART | SA_RESETHAND);
  sigemptyset(&action.sa_mask);
  sigaction(signal_number, &action, nullptr);
}

}  // namespace

void watch_signals() {
  on_terminal = isatty(STDERR_FILENO) != 0;
  watch(SIGINT);
  watch(SIGTERM);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
}

void stop_if_interrupted() {
  if (interrupted) throw Interrupted{};
}

TemporaryFiles::TemporaryFiles() noexcept { ++temporary_files; }
TemporaryFiles::~TemporaryFiles() { --temporary_files; }

}  // namespace dartquant::program
