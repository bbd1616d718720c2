// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/atomic_file.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <cerrno>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>
#include <vector>

#include <dartquant/core/error.hpp>

#include "io/posix.hpp"

namespace dartquant {
namespace {

using Kind = Error::Kind;
using detail::fail;
using detail::reason;

/// How many bytes make a round.
constexpr std::uint64_t round_bytes = std::uint64_t{32} << 20;

[[noreturn]] void write_failed(std::filesystem::path const& path, int error, std::uint64_t missing) {
  if (error == ENOSPC || error == EDQUOT) {
    struct statvfs disk {};
    std::uint64_t const free = ::statvfs(detail::folder_of(path).c_str(), &disk) == 0
                                   ? std::uint64_t{disk.f_bavail} * disk.f_frsize
                                   : 0;
    fail(Kind::io, "[AtomicFile] ", path.string(), ": the disk is full: it needs ", missing,
         " more bytes and ", free, " are free; free some space or write to another disk");
  }
  if (error == EFBIG)
    fail(Kind::io, "[AtomicFile] ", path.string(), ": it needs ", missing,
         " more bytes, beyond the largest file that the system allows here");
  fail(Kind::io, "[AtomicFile] ", path.string(), ": cannot be written: ", reason(error));
}

/// Opens a temporary of our own and locks it. One that a killed process of the same number left carries no
/// lock and is replaced.
int open_temporary(std::filesystem::path const& path, std::filesystem::path const& temporary) {
  for (int attempt = 0; attempt < 2; ++attempt) {
    int const file = ::open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file >= 0) {
      ::flock(file, LOCK_EX | LOCK_NB);
      return file;
    }
    if (errno != EEXIST) break;
    detail::Descriptor const left(::open(temporary.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    if (left.get() >= 0 && ::flock(left.get(), LOCK_EX | LOCK_NB) != 0)
      fail(Kind::io, "[AtomicFile] ", path.string(), ": this process is writing this file already");
    ::unlink(temporary.c_str());
  }
  int const error = errno;
  if (error == ENOENT)
    fail(Kind::io, "[AtomicFile] ", path.string(), ": its folder does not exist; create it first");
  fail(Kind::io, "[AtomicFile] ", path.string(), ": cannot be created: ", reason(error));
}

void sync_folder(std::filesystem::path const& path) {
  detail::Descriptor const folder(
      ::open(detail::folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // EINVAL: this file system has nothing to write through for a folder.
  if (folder.get() < 0 || (::fsync(folder.get()) != 0 && errno != EINVAL)) write_failed(path, errno, 0);
}

}  // namespace

struct AtomicFile::Counters {
  std::atomic<std::uint64_t> size{0};
  std::atomic<std::uint64_t> waiting{0};  ///< bytes since the last round
  std::atomic<std::uint64_t> started{0}, done{0};
  std::mutex one_round_at_a_time{};
};

AtomicFile::AtomicFile(std::filesystem::path const& path, std::uint64_t expected_bytes)
    : path_(path),
      temporary_(path.string() + ".tmp." + std::to_string(::getpid())),
      counters_(std::make_unique<Counters>()) {
  if (!path.has_filename()) fail(Kind::io, "[AtomicFile] '", path.string(), "' names no file");
  descriptor_ = open_temporary(path_, temporary_);
  if (expected_bytes == 0) return;
  int error = EFBIG;
  if (std::in_range<off_t>(expected_bytes)) {
    do error = ::fallocate(descriptor_, 0, 0, static_cast<off_t>(expected_bytes)) == 0 ? 0 : errno;
    while (error == EINTR);
  }
  reserved_ = expected_bytes;
  if (error == 0 || error == EOPNOTSUPP || error == ENOSYS || error == EINVAL) return;
  discard();
  write_failed(path_, error, expected_bytes);
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      reserved_(other.reserved_),
      counters_(std::move(other.counters_)) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(reserved_, other.reserved_);
  std::swap(counters_, other.counters_);
  return *this;
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() noexcept {
  if (descriptor_ < 0) return;
  ::unlink(temporary_.c_str());
  ::close(std::exchange(descriptor_, -1));
}

void AtomicFile::write(std::span<std::byte const> bytes) {
  std::uint64_t const rounds = rounds_done();
  write_at(size(), bytes);
  if (rounds_done() != rounds) forget(0, size());
}

void AtomicFile::write_at(std::uint64_t offset, std::span<std::byte const> bytes) {
  if (descriptor_ < 0) fail(Kind::io, "[AtomicFile] ", path_.string(), ": written to after it was finished");
  std::uint64_t const given = bytes.size();
  std::uint64_t end = 0;
  if (__builtin_add_overflow(offset, bytes.size(), &end) || !std::in_range<off_t>(end))
    write_failed(path_, EFBIG, bytes.size());
  while (!bytes.empty()) {
    ssize_t const done = ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) write_failed(path_, done == 0 ? EIO : errno, std::max(end, reserved_) - offset);
    offset += static_cast<std::uint64_t>(done);
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
  std::atomic<std::uint64_t>& size = counters_->size;
  for (std::uint64_t before = size; before < end && !size.compare_exchange_weak(before, end);) continue;
  if (counters_->waiting.fetch_add(given) + given < round_bytes) return;
  counters_->waiting = 0;
  write_behind(std::max(end, reserved_) - end);
}

std::uint64_t AtomicFile::size() const noexcept { return counters_->size; }
std::uint64_t AtomicFile::round() const noexcept { return counters_->started; }
std::uint64_t AtomicFile::rounds_done() const noexcept { return counters_->done; }

/// Waits for what the last round started, and starts to write the rest.
void AtomicFile::write_behind(std::uint64_t missing) {
#ifdef SYNC_FILE_RANGE_WRITE
  std::lock_guard const lock(counters_->one_round_at_a_time);
  ++counters_->started;
  if (::sync_file_range(descriptor_, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE) != 0) {
    if (errno == EIO || errno == ENOSPC || errno == EDQUOT) write_failed(path_, errno, missing);
    return;  // not on this file system: nothing is lost but time
  }
  if (::sync_file_range(descriptor_, 0, 0, SYNC_FILE_RANGE_WRITE) == 0) ++counters_->done;
#else
  static_cast<void>(missing);
#endif
}

void AtomicFile::forget(std::uint64_t offset, std::uint64_t length) const noexcept {
  static auto const page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  std::uint64_t const begin = offset / page * page, end = (offset + length + page - 1) / page * page;
  ::posix_fadvise(descriptor_, static_cast<off_t>(begin), static_cast<off_t>(end - begin),
                  POSIX_FADV_DONTNEED);
}

void AtomicFile::read_at(std::uint64_t offset, std::span<std::byte> bytes) const {
  if (std::string const wrong = detail::read_at(descriptor_, offset, bytes); !wrong.empty())
    fail(Kind::io, "[AtomicFile] ", path_.string(), ": cannot be read back: ", wrong);
}

void AtomicFile::expect_reads(std::uint64_t offset, std::uint64_t length) const noexcept {
  ::posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(length), POSIX_FADV_WILLNEED);
}

void AtomicFile::sync() {
  if (descriptor_ < 0) fail(Kind::io, "[AtomicFile] ", path_.string(), ": finished already");
  if (::ftruncate(descriptor_, static_cast<off_t>(size())) != 0 || ::fsync(descriptor_) != 0)
    write_failed(path_, errno, 0);
}

void AtomicFile::commit() {
  sync();
  if (::rename(temporary_.c_str(), path_.c_str()) != 0)
    fail(Kind::io, "[AtomicFile] ", path_.string(), ": cannot be replaced: ", reason(errno));
  ::close(std::exchange(descriptor_, -1));
  sync_folder(path_);
}

void write_file_atomically(std::filesystem::path const& path, std::string_view content) {
  AtomicFile file(path, content.size());
  file.write(content);
  file.commit();
}

void copy_file_atomically(std::filesystem::path const& from, std::filesystem::path const& to) {
  require_distinct(from, to);
  auto const [input, status] = detail::open_to_read(from, "copy_file_atomically");
  auto const size = static_cast<std::uint64_t>(status.st_size);
  AtomicFile output(to, size);
  std::vector<std::byte> buffer(std::size_t{1} << 20);
  for (;;) {
    ssize_t const got = ::read(input.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      fail(Kind::io, "[copy_file_atomically] ", from.string(), ": cannot be read: ", reason(errno));
    if (got == 0) break;
    output.write(std::span(buffer).first(static_cast<std::size_t>(got)));
  }
  if (output.size() != size)
    fail(Kind::io, "[copy_file_atomically] ", from.string(), ": its size changed from ", size, " to ",
         output.size(), " bytes while it was copied");
  output.commit();
}

void require_distinct(std::filesystem::path const& input, std::filesystem::path const& output) {
  struct stat a {
  }, b{};
  if (::stat(input.c_str(), &a) != 0 || ::stat(output.c_str(), &b) != 0) return;
  if (a.st_dev == b.st_dev && a.st_ino == b.st_ino)
    fail(Kind::io, "[require_distinct] ", output.string(), ": the output is the same ",
         S_ISDIR(a.st_mode) ? "folder" : "file", " as the input ", input.string(), "; choose another output");
}

void create_output_folder(std::filesystem::path const& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error)
    fail(Kind::io, "[create_output_folder] ", folder.string(),
         ": cannot be created: ", reason(error.value()));
  if (!std::filesystem::is_directory(folder, error))
    fail(Kind::io, "[create_output_folder] ", folder.string(), ": this is a file, not a folder");
  if (::access(folder.c_str(), W_OK | X_OK) != 0)
    fail(Kind::io, "[create_output_folder] ", folder.string(), ": cannot be written to: ", reason(errno));
}

}  // namespace dartquant
