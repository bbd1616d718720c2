// SPDX-License-Identifier: Apache-2.0
#include "run_program.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <thread>

namespace dartquant::test {
namespace fs = std::filesystem;
namespace {

void limit(int what, std::uint64_t bytes) {
  rlimit const value{bytes, bytes};
  if (bytes > 0) setrlimit(static_cast<__rlimit_resource_t>(what), &value);
}

[[noreturn]] void become_program(std::vector<std::string> const& arguments, Surroundings const& surroundings,
                                 std::string const& out, std::string const& err) {
  char const* const program = surroundings.program.empty() ? DARTQUANT_PROGRAM : surroundings.program.c_str();
  std::vector<char const*> argv{program};
  for (std::string const& argument : arguments) argv.push_back(argument.c_str());
  argv.push_back(nullptr);
  for (std::string const& setting : surroundings.environment) {
    std::size_t const equals = setting.find('=');
    setenv(setting.substr(0, equals).c_str(), setting.substr(equals + 1).c_str(), 1);
  }
  dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
  dup2(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
  dup2(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
  signal(SIGINT, SIG_DFL);
  limit(RLIMIT_FSIZE, surroundings.file_limit);
  limit(RLIMIT_AS, surroundings.memory_limit);
  execv(program, const_cast<char* const*>(argv.data()));
  _exit(126);
}

int wait_for(pid_t child, Surroundings const& surroundings, std::string const& err) {
  auto const deadline = std::chrono::steady_clock::now() + std::chrono::minutes(10);
  bool signalled = surroundings.signal == 0;
  int status = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (!signalled && read_file(err).find(surroundings.signal_after) != std::string::npos) {
      kill(child, surroundings.signal);
      signalled = true;
    }
    if (std::chrono::steady_clock::now() > deadline) kill(child, SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace

Outcome run_program(std::vector<std::string> const& arguments, Surroundings const& surroundings) {
  Scratch const scratch;
  std::string const out = scratch / "out", err = scratch / "err";
  write_file(err, "");
  pid_t const child = fork();
  if (child < 0) throw std::runtime_error("cannot fork");
  if (child == 0) become_program(arguments, surroundings, out, err);
  int const code = wait_for(child, surroundings, err);
  return {code, read_file(out), read_file(err)};
}

Scratch::Scratch() {
  std::string name = (fs::temp_directory_path() / "dartquant-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot create " + name);
  path_ = name;
}

Scratch::~Scratch() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::string Scratch::names() const { return names_in(path_); }

std::string names_in(fs::path const& folder) {
  std::vector<std::string> names;
  for (fs::directory_entry const& entry : fs::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  std::string text;
  for (std::string const& name : names) text += name + " ";
  return text;
}

std::string read_file(fs::path const& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_file(fs::path const& file, std::string const& content) {
  std::ofstream(file, std::ios::binary) << content;
}

fs::path tiny_llama() { return fs::path(DARTQUANT_EXAMPLE_DATA) / "tiny-llama"; }

bool one_sentence(std::string const& err) {
  std::size_t const start = err.rfind("dartquant: ");
  return start != err.npos && (start == 0 || err[start - 1] == '\n') &&
         err.find('\n', start) == err.size() - 1 && err.find("dartquant: ") == start;
}

}  // namespace dartquant::test
