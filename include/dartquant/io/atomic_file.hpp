// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace dartquant {

/// An output file that appears whole or not at all. It is written as `NAME.tmp.PID` in the same folder and
/// takes its name in `commit`, after its bytes reached the disk; without a commit (an exception, an early
/// return) the temporary is removed and an existing file of that name is untouched.
///
/// All members throw Error(io) with a sentence that names the file: folder missing or read-only, disk full
/// (with the number of bytes that are missing), write error.
class AtomicFile {
 public:
  /// Opens the temporary. With `expected_bytes` the space is reserved at once where the file system can, so
  /// that a full disk shows before the work and not after it.
  explicit AtomicFile(std::filesystem::path const& path, std::uint64_t expected_bytes = 0);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  AtomicFile(AtomicFile const&) = delete;
  AtomicFile& operator=(AtomicFile const&) = delete;
  ~AtomicFile();

  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }
  [[nodiscard]] std::filesystem::path const& temporary_path() const noexcept { return temporary_; }
  /// The end of what was written so far.
  [[nodiscard]] std::uint64_t size() const noexcept;

  /// Appends at the end. What is on the disk leaves the system's cache on the way.
  void write(std::span<std::byte const> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// Writes at a place of its own, also from several threads at once; a gap that stays unwritten reads as
  /// zeros. The disk is told to write now and then, in rounds, so that not all of it waits for `sync`.
  void write_at(std::uint64_t offset, std::span<std::byte const> bytes);
  /// What is written by the time `round` returns r is on the disk when `rounds_done` returns r + 2 or more.
  /// On systems without the means for it that never happens.
  [[nodiscard]] std::uint64_t round() const noexcept;
  [[nodiscard]] std::uint64_t rounds_done() const noexcept;

  /// Takes a part that is on the disk out of the system's cache, so that what is read next is what the disk
  /// holds.
  void forget(std::uint64_t offset, std::uint64_t length) const noexcept;
  /// Reads what was written; `expect_reads` starts to read a part ahead.
  void read_at(std::uint64_t offset, std::span<std::byte> bytes) const;
  void expect_reads(std::uint64_t offset, std::uint64_t length) const noexcept;

  /// Cuts the file to `size()` and writes it through to the disk.
  void sync();
  /// `sync`, then renames the temporary to `path()` and writes the folder through. At most once.
  void commit();

 private:
  struct Counters;
  void discard() noexcept;
  void write_behind(std::uint64_t missing);

  std::filesystem::path path_, temporary_;
  int descriptor_ = -1;
  std::uint64_t reserved_ = 0;
  std::unique_ptr<Counters> counters_;
};

/// Writes a small file (a config, an index) through AtomicFile.
void write_file_atomically(std::filesystem::path const& path, std::string_view content);

/// Copies a file byte by byte through AtomicFile. Error(io) also when both are the same file.
void copy_file_atomically(std::filesystem::path const& from, std::filesystem::path const& to);

/// Error(io) when both paths are the same file or folder on the disk, also through links. A path that does
/// not exist yet is distinct from any.
void require_distinct(std::filesystem::path const& input, std::filesystem::path const& output);

/// Creates the folder and its parents where missing. Error(io) when it cannot be created, is no folder or
/// cannot be written to.
void create_output_folder(std::filesystem::path const& folder);

}  // namespace dartquant
