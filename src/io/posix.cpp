// SPDX-License-Identifier: Apache-2.0
#include "io/posix.hpp"

#include <fcntl.h>
#include <unistd.h>
#include <cerrno>

#include <system_error>

#include <dartquant/core/error.hpp>

#include "io/read_file.hpp"

namespace dartquant::detail {

using Kind = Error::Kind;

Descriptor::~Descriptor() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::string reason(int error) {
  switch (error) {
    case ENOENT:
      return "it does not exist";
    case EACCES:
    case EPERM:
      return "permission denied";
    case EROFS:
      return "the file system is read-only";
    case ENOTDIR:
      return "a part of its path is not a folder";
    case EISDIR:
      return "it is a folder";
    case EIO:
      return "the device reported an error";
    default:
      return std::generic_category().message(error);
  }
}

std::filesystem::path folder_of(std::filesystem::path const& path) {
  std::filesystem::path const folder = path.parent_path();
  return folder.empty() ? std::filesystem::path(".") : folder;
}

std::string printable(std::string_view text) {
  constexpr std::size_t longest = 160;
  constexpr char digits[] = "0123456789abcdef";
  std::string out;
  for (char const c : text.substr(0, longest)) {
    auto const byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F)
      out.append("\\x").append(1, digits[byte >> 4]).append(1, digits[byte & 15]);
    else out.push_back(c);
  }
  if (text.size() > longest) out += "...";
  return out;
}

std::string read_at(int file, std::uint64_t offset, std::span<std::byte> into) {
  while (!into.empty()) {
    ssize_t const got = ::pread(file, into.data(), into.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return reason(errno);
    if (got == 0) return "it ends too early";
    offset += static_cast<std::uint64_t>(got);
    into = into.subspan(static_cast<std::size_t>(got));
  }
  return {};
}

std::pair<Descriptor, struct stat> open_to_read(std::filesystem::path const& path, char const* function) {
  // Without O_NONBLOCK opening a named pipe would wait for a writer.
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (file.get() < 0 || ::fstat(file.get(), &status) != 0)
    fail(Kind::io, "[", function, "] ", path.string(), ": cannot be opened: ", reason(errno));
  if (S_ISDIR(status.st_mode))
    fail(Kind::io, "[", function, "] ", path.string(), ": this is a folder, not a file");
  if (!S_ISREG(status.st_mode))
    fail(Kind::io, "[", function, "] ", path.string(), ": this is not a regular file");
  return {std::move(file), status};
}

std::string read_file(std::filesystem::path const& path, std::size_t limit) {
  auto const [file, status] = open_to_read(path, "read_file");
  auto const size = static_cast<std::uint64_t>(status.st_size);
  if (size > limit)
    fail(Kind::memory, "[read_file] ", path.string(), ": ", size, " bytes, more than the limit of ", limit);
  std::string content(static_cast<std::size_t>(size), '\0');
  std::size_t done = 0;
  while (done < content.size()) {
    ssize_t const got = ::read(file.get(), content.data() + done, content.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(Kind::io, "[read_file] ", path.string(), ": cannot be read: ", reason(errno));
    if (got == 0) fail(Kind::io, "[read_file] ", path.string(), ": became shorter while it was read");
    done += static_cast<std::size_t>(got);
  }
  return content;
}

}  // namespace dartquant::detail
