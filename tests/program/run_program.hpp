// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace dartquant::test {

/// What a command line of the program did. `code` is -signal where a signal ended it.
struct Outcome {
  int code = 0;
  std::string out, err;
};

struct Surroundings {
  std::uint64_t file_limit = 0;    ///< bytes that a file may have (ulimit -f); 0: no limit
  std::uint64_t memory_limit = 0;  ///< bytes of address space (ulimit -v); 0: no limit
  int signal = 0;                  ///< sent as soon as stderr holds `signal_after`
  std::string signal_after{};
  std::string program{};                   ///< empty: dartquant
  std::vector<std::string> environment{};  ///< such as LC_ALL=C, added to this process's own
};

/// Runs `dartquant ARGUMENTS...` without a terminal and waits for it, ten minutes at most.
[[nodiscard]] Outcome run_program(std::vector<std::string> const& arguments,
                                  Surroundings const& surroundings = {});

/// A new folder that goes with this object.
class Scratch {
 public:
  Scratch();
  Scratch(Scratch const&) = delete;
  Scratch& operator=(Scratch const&) = delete;
  ~Scratch();

  [[nodiscard]] std::filesystem::path const& path() const { return path_; }
  [[nodiscard]] std::string operator/(std::string const& name) const { return (path_ / name).string(); }
  /// Names in the folder, sorted, each followed by a space.
  [[nodiscard]] std::string names() const;

 private:
  std::filesystem::path path_;
};

[[nodiscard]] std::string names_in(std::filesystem::path const& folder);
[[nodiscard]] std::string read_file(std::filesystem::path const& file);
void write_file(std::filesystem::path const& file, std::string const& content);

/// The model that is shipped with the examples, and its files.
[[nodiscard]] std::filesystem::path tiny_llama();

/// Exactly one line, `dartquant: ...`, that ends the output; plans and notes may come before.
[[nodiscard]] bool one_sentence(std::string const& err);

}  // namespace dartquant::test
