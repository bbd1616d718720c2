// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace dartquant {

/// The world failed: a file, the machine, a malformed model. `kind()` says which, so that a program can
/// choose an exit code.
class Error : public std::runtime_error {
 public:
  enum class Kind {
    format,       ///< a file's content is malformed or inconsistent
    unsupported,  ///< well formed, but not something this library can handle (an unknown architecture,
                  ///< dtype...)
    memory,       ///< not enough memory, or a stated limit would be exceeded
    io,           ///< the operating system refused: missing, unreadable, read-only, disk full
    numerics      ///< a numerical promise was not kept (not finite, not orthogonal, fold not equivalent)
  };

  Error(Kind kind, std::string const& sentence) : std::runtime_error(sentence), kind_(kind) {}
  [[nodiscard]] Kind kind() const noexcept { return kind_; }

 private:
  Kind kind_;
};

/// The caller broke a precondition: a shape, a range, an option, a value that is not finite.
class InvalidArgument : public std::invalid_argument {
 public:
  explicit InvalidArgument(std::string const& sentence) : std::invalid_argument(sentence) {}
};

namespace detail {

/// Joins the parts of a sentence: text, numbers, anything that streams.
template <class... Parts>
[[nodiscard]] std::string sentence(Parts const&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Throws InvalidArgument unless `condition` holds. The parts form one sentence that starts with the function
/// in brackets and carries the number that was wrong: `require(rows > 0, "[quantize] ", rows, " rows: at
/// least one is needed")`.
template <class... Parts>
void require(bool condition, Parts const&... parts) {
  if (!condition) throw InvalidArgument(sentence(parts...));
}

/// Throws Error(kind) with one sentence, built like that of `require`.
template <class... Parts>
[[noreturn]] void fail(Error::Kind kind, Parts const&... parts) {
  throw Error(kind, sentence(parts...));
}

}  // namespace detail
}  // namespace dartquant
