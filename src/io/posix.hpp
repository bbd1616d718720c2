// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace dartquant::detail {

/// Owns a file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int descriptor = -1) noexcept : descriptor_(descriptor) {}
  Descriptor(Descriptor&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Descriptor();
  [[nodiscard]] int get() const noexcept { return descriptor_; }
  [[nodiscard]] int take() noexcept { return std::exchange(descriptor_, -1); }

 private:
  int descriptor_;
};

/// What an errno means to the person who named the path: "it does not exist", "permission denied"...
[[nodiscard]] std::string reason(int error);

/// The folder that holds a path; "." when the path names none.
[[nodiscard]] std::filesystem::path folder_of(std::filesystem::path const& path);

/// Text from a file as it may stand in a sentence: control characters as \xNN, cut after 160 bytes.
[[nodiscard]] std::string printable(std::string_view text);

/// Reads [offset, offset + into.size()) of a file; returns what is wrong, or nothing: the text of an error of
/// the system, or that the file ends too early.
[[nodiscard]] std::string read_at(int file, std::uint64_t offset, std::span<std::byte> into);

/// Opens a regular file for reading and returns its status. Error(io) that starts with `[function] ` when it
/// is missing, a folder, something else than a file, or unreadable.
[[nodiscard]] std::pair<Descriptor, struct stat> open_to_read(std::filesystem::path const& path,
                                                              char const* function);

}  // namespace dartquant::detail
