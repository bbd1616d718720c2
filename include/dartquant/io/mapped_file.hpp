// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace dartquant {

/// A file mapped read-only into memory. Nothing is read until a byte is touched, and `release` gives touched
/// pages back, so resident memory follows what is in use and not the size of the file.
///
/// The views are valid while this object (or the one it was moved into) lives. A file that another program
/// shortens while it is mapped raises SIGBUS on access; `check_unchanged` reports it as an error where a
/// reader is about to touch many pages.
class MappedFile {
 public:
  /// Throws Error(io) when the file is missing, a directory or not a regular file, unreadable, or cannot be
  /// mapped, and Error(format) when it is empty.
  explicit MappedFile(std::filesystem::path const& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(MappedFile const&) = delete;
  MappedFile& operator=(MappedFile const&) = delete;
  ~MappedFile();

  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }
  [[nodiscard]] std::span<std::byte const> bytes() const noexcept { return {data_, size_}; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  /// Copies [offset, offset + into.size()) without mapping it: cheaper than touching pages that are read
  /// once. Error(io) where the disk fails or the file became shorter.
  void read_at(std::size_t offset, std::span<std::byte> into) const;

  /// Tells the system that the pages which hold [offset, offset + length) are not needed now. They stay valid
  /// and are read again when touched. A range beyond the end is cut to the file.
  void release(std::size_t offset, std::size_t length) const noexcept;

  /// Throws Error(io) when the file's size or its time of modification changed since it was opened.
  void check_unchanged() const;

 private:
  std::filesystem::path path_;
  std::byte const* data_ = nullptr;
  std::size_t size_ = 0;
  int descriptor_ = -1;
  std::int64_t modified_seconds_ = 0, modified_nanoseconds_ = 0;
};

}  // namespace dartquant
