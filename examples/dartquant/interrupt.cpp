// SPDX-License-Identifier: Apache-2.0
#include "interrupt.hpp"

#include <signal.h>
#include <unistd.h>

#include <cerrno>

namespace dartquant::program {
namespace {

volatile sig_atomic_t interrupted = 0;
volatile sig_atomic_t on_terminal = 0;

void on_signal(int) {
  int const saved = errno;
  interrupted = 1;
  constexpr char message[] = "\nstopping after this step; press Ctrl-C again to stop at once\n";
  if (on_terminal != 0 && ::write(STDERR_FILENO, message, sizeof message - 1) < 0) on_terminal = 0;
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
  on_terminal = isatty(STDERR_FILENO);
  watch(SIGINT);
  watch(SIGTERM);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
}

void stop_if_interrupted() {
  if (interrupted != 0) throw Interrupted{};
}

}  // namespace dartquant::program
