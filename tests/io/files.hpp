// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/error.hpp>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>

#include "support/catch.hpp"

namespace dartquant::test {

namespace fs = std::filesystem;

/// A new folder, removed with everything inside at the end. Its name holds a space and a letter beyond ASCII.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "dartquant ü XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  TemporaryFolder(TemporaryFolder const&) = delete;
  TemporaryFolder& operator=(TemporaryFolder const&) = delete;
  ~TemporaryFolder() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  [[nodiscard]] fs::path const& path() const { return path_; }
  fs::path operator/(std::string_view name) const { return path_ / name; }
  [[nodiscard]] std::size_t entries() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(path_), fs::directory_iterator()));
  }

 private:
  fs::path path_;
};

inline void write_bytes(fs::path const& path, std::string_view content) {
  std::ofstream(path, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
}

inline std::string read_bytes(fs::path const& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A safetensors file as bytes: the length (or any other number), the header, the data.
inline std::string safetensors_bytes(std::string_view header, std::string_view data, std::uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(length >> (8 * i) & 255));
  return bytes.append(header).append(data);
}
inline std::string safetensors_bytes(std::string_view header, std::string_view data = {}) {
  return safetensors_bytes(header, data, header.size());
}

/// What a call threw.
struct Failure {
  enum class What { nothing, error, invalid_argument } what = What::nothing;
  Error::Kind kind{};
  std::string text;
  [[nodiscard]] bool is(Error::Kind wanted) const { return what == What::error && kind == wanted; }
  [[nodiscard]] bool says(std::string_view part) const { return text.find(part) != std::string::npos; }
};

template <class Call>
Failure failure_of(Call&& call) {
  try {
    call();
  } catch (Error const& error) {
    return {Failure::What::error, error.kind(), error.what()};
  } catch (InvalidArgument const& error) {
    return {Failure::What::invalid_argument, {}, error.what()};
  }
  return {};
}

}  // namespace dartquant::test

/// The call must throw Error of that kind with a sentence that holds the text.
#define REQUIRE_ERROR(call, wanted_kind, part)                               \
  do {                                                                       \
    auto const failure = dartquant::test::failure_of([&] { (void)(call); }); \
    INFO("the sentence: " << failure.text);                                  \
    REQUIRE(failure.is(dartquant::Error::Kind::wanted_kind));                \
    REQUIRE(failure.says(part));                                             \
  } while (false)

/// The call must throw InvalidArgument with a sentence that holds the text.
#define REQUIRE_INVALID(call, part)                                            \
  do {                                                                         \
    auto const failure = dartquant::test::failure_of([&] { (void)(call); });   \
    INFO("the sentence: " << failure.text);                                    \
    REQUIRE(failure.what == dartquant::test::Failure::What::invalid_argument); \
    REQUIRE(failure.says(part));                                               \
  } while (false)
