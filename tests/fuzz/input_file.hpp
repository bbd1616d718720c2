// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <dartquant/core/error.hpp>

namespace dartquant::fuzz {

/// The bytes as a file that lives in memory, so that a fuzzer enters where a user does: by a path.
class InputFile {
 public:
  InputFile(std::uint8_t const* bytes, std::size_t size) : descriptor_(::memfd_create("input", MFD_CLOEXEC)) {
    for (std::size_t done = 0; done < size;) {
      ssize_t const wrote = ::write(descriptor_, bytes + done, size - done);
      if (wrote <= 0) std::abort();
      done += static_cast<std::size_t>(wrote);
    }
  }
  InputFile(InputFile const&) = delete;
  InputFile& operator=(InputFile const&) = delete;
  ~InputFile() { ::close(descriptor_); }

  [[nodiscard]] std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

/// Runs `use`: a parser may refuse what it is given with a sentence, and do nothing else.
template <class Use>
int refuse_or_accept(Use const& use) {
  try {
    use();
  } catch (Error const& error) {
    // Neither memory nor the disk is a limit here: a refusal is about the bytes.
    if (error.kind() == Error::Kind::io) std::abort();
  }
  return 0;
}

}  // namespace dartquant::fuzz
