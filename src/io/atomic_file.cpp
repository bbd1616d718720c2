// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/atomic_file.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <cerrno>

#include <algorithm>
#include <utility>
#include <vector>

#include <dartquant/core/error.hpp>

#include "io/posix.hpp"

namespace dartquant {
namespace {

using Kind = Error::Kind;
using detail::fail;
using detail::reason;

/// How many bytes wait for the disk at most.
constexpr std::uint64_t written_behind = std::uint64_t{32} << 20;

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

/// Lets the disk write while the next bytes are made, instead of all at once in `sync`: waits for what was
/// started before, gives its pages back and starts the rest. False where the disk says that it failed; where
/// the system has no such call nothing is lost but time.
bool write_behind(int file) {
#ifdef SYNC_FILE_RANGE_WRITE
  if (::sync_file_range(file, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE) != 0)
    return errno != EIO && errno != ENOSPC && errno != EDQUOT;
  ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  static_cast<void>(::sync_file_range(file, 0, 0, SYNC_FILE_RANGE_WRITE));
#else
  static_cast<void>(file);
#endif
  return true;
}

void sync_folder(std::filesystem::path const& path) {
  detail::Descriptor const folder(
      ::open(detail::folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // EINVAL: this file system has nothing to write through for a folder.
  if (folder.get() < 0 || (::fsync(folder.get()) != 0 && errno != EINVAL)) write_failed(path, errno, 0);
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path const& path, std::uint64_t expected_bytes)
    : path_(path), temporary_(path.string() + ".tmp." + std::to_string(::getpid())) {
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
      size_(other.size_),
      reserved_(other.reserved_),
      waiting_(other.waiting_) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  std::swap(reserved_, other.reserved_);
  std::swap(waiting_, other.waiting_);
  return *this;
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() noexcept {
  if (descriptor_ < 0) return;
  ::unlink(temporary_.c_str());
  ::close(std::exchange(descriptor_, -1));
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
  size_ = std::max(size_, end);
  waiting_ += given;
  if (waiting_ < written_behind) return;
  waiting_ = 0;
  if (!write_behind(descriptor_)) write_failed(path_, errno, std::max(end, reserved_) - end);
}

void AtomicFile::sync() {
  if (descriptor_ < 0) fail(Kind::io, "[AtomicFile] ", path_.string(), ": finished already");
  if (::ftruncate(descriptor_, static_cast<off_t>(size_)) != 0 || ::fsync(descriptor_) != 0)
    write_failed(path_, errno, 0);
  ::posix_fadvise(descriptor_, 0, 0, POSIX_FADV_DONTNEED);
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
