// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include <dartquant/io/atomic_file.hpp>

namespace dartquant::detail {

/// Reads what was written to a file again and compares checksums: a part as soon as it is on the disk, on a
/// thread of its own if one was started, the rest in `finish`. Remembers 32 bytes for each piece until then.
class ReadBack {
 public:
  /// `file` must outlive this.
  explicit ReadBack(AtomicFile const& file) : file_(file) {}
  ReadBack(ReadBack const&) = delete;
  ReadBack& operator=(ReadBack const&) = delete;
  ~ReadBack();

  /// Starts the thread.
  void start();
  /// `bytes`, at most `largest_piece`, were written at this offset. From any thread.
  void add(std::uint64_t offset, std::span<std::byte const> bytes);
  /// After AtomicFile::sync: reads the rest with so many threads. Returns the offset of the first piece that
  /// differs, or nothing. Errors: Error(io) where the file cannot be read.
  [[nodiscard]] std::optional<std::uint64_t> finish(int threads);

  static constexpr std::size_t largest_piece = std::size_t{1} << 20;

 private:
  struct Piece {
    std::uint64_t at, size, checksum, round;
  };
  void stop();
  void work();
  /// Pieces that are on the disk, in the order of the file. Precondition: locked.
  [[nodiscard]] std::vector<Piece> take_written();
  void check(std::span<Piece const> pieces);

  AtomicFile const& file_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Piece> pieces_;  ///< not read yet
  std::uint64_t rounds_ = 0;   ///< of the file, when `changed_` was last told
  std::optional<std::uint64_t> bad_;
  std::exception_ptr error_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace dartquant::detail
