// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/mapped_file.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cerrno>

#include <algorithm>
#include <utility>

#include <dartquant/core/error.hpp>

#include "io/posix.hpp"

namespace dartquant {

using Kind = Error::Kind;

MappedFile::MappedFile(std::filesystem::path const& path) : path_(path) {
  auto [file, status] = detail::open_to_read(path, "MappedFile");
  if (status.st_size == 0) detail::fail(Kind::format, "[MappedFile] ", path.string(), ": the file is empty");
  size_ = static_cast<std::size_t>(status.st_size);
  void* const address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED)
    detail::fail(Kind::io, "[MappedFile] ", path.string(), ": ", size_,
                 " bytes cannot be mapped: ", detail::reason(errno));
  data_ = static_cast<std::byte const*>(address);
  modified_seconds_ = status.st_mtim.tv_sec;
  modified_nanoseconds_ = status.st_mtim.tv_nsec;
  descriptor_ = file.take();
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      modified_seconds_(other.modified_seconds_),
      modified_nanoseconds_(other.modified_nanoseconds_) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(modified_seconds_, other.modified_seconds_);
  std::swap(modified_nanoseconds_, other.modified_nanoseconds_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

void MappedFile::read_at(std::size_t offset, std::span<std::byte> into) const {
  if (std::string const wrong = detail::read_at(descriptor_, offset, into); !wrong.empty())
    detail::fail(Kind::io, "[MappedFile] ", path_.string(), ": cannot be read: ", wrong);
}

void MappedFile::release(std::size_t offset, std::size_t length) const noexcept {
  if (offset >= size_ || length == 0) return;
  auto const page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::size_t const begin = offset / page * page;
  std::size_t const end = offset + std::min(length, size_ - offset);
  ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

void MappedFile::check_unchanged() const {
  struct stat status {};
  bool const same = ::fstat(descriptor_, &status) == 0 && static_cast<std::size_t>(status.st_size) == size_ &&
                    status.st_mtim.tv_sec == modified_seconds_ &&
                    status.st_mtim.tv_nsec == modified_nanoseconds_;
  if (!same)
    detail::fail(
        Kind::io, "[MappedFile] ", path_.string(),
        ": the file was changed by another program while it was in use; start again with the new file");
}

}  // namespace dartquant
