// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/mapped_file.hpp>

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <utility>

#include "files.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

/// Pages of files that are in this process's memory now, in bytes.
std::size_t resident_file_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("RssFile:")) return std::stoul(line.substr(8)) * 1024;
  return 0;
}

}  // namespace

TEST_CASE("a mapped file shows the bytes of the file", "[mapped_file]") {
  TemporaryFolder const folder;
  write_bytes(folder / "a", "hello");
  MappedFile file(folder / "a");
  REQUIRE(file.size() == 5);
  REQUIRE(std::to_integer<char>(file.bytes()[4]) == 'o');
  std::byte const* const where = file.bytes().data();
  MappedFile moved = std::move(file);
  REQUIRE(moved.bytes().data() == where);
  REQUIRE(file.bytes().empty());
  write_bytes(folder / "b", "x");
  moved = MappedFile(folder / "b");
  REQUIRE(moved.size() == 1);
  REQUIRE(moved.path() == folder / "b");
}

TEST_CASE("a mapped file is read without mapping", "[mapped_file]") {
  TemporaryFolder const folder;
  write_bytes(folder / "a", "hello");
  MappedFile const file(folder / "a");
  std::array<std::byte, 3> three{};
  file.read_at(2, three);
  REQUIRE(std::to_integer<char>(three[0]) == 'l');
  REQUIRE(std::to_integer<char>(three[2]) == 'o');
  file.read_at(5, {});
  REQUIRE_ERROR(file.read_at(3, three), io, "a: cannot be read: it ends too early");
  fs::resize_file(folder / "a", 1);  // meanwhile: a sentence, no SIGBUS
  REQUIRE_ERROR(file.read_at(0, three), io, "it ends too early");
}

TEST_CASE("a file that cannot be mapped gives a sentence", "[mapped_file]") {
  TemporaryFolder const folder;
  write_bytes(folder / "empty", "");
  REQUIRE_ERROR(MappedFile(folder / "none"), io, "none: cannot be opened: it does not exist");
  REQUIRE_ERROR(MappedFile(folder.path()), io, "this is a folder, not a file");
  REQUIRE_ERROR(MappedFile(folder / "empty"), format, "the file is empty");
  REQUIRE_ERROR(MappedFile(folder / "empty/below"), io, "a part of its path is not a folder");
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  REQUIRE_ERROR(MappedFile(folder / "pipe"), io, "not a regular file");  // and does not wait for a writer
}

TEST_CASE("a file without permission gives a sentence", "[mapped_file]") {
  TemporaryFolder const folder;
  write_bytes(folder / "secret", "x");
  REQUIRE(::chmod((folder / "secret").c_str(), 0) == 0);
  if (::access((folder / "secret").c_str(), R_OK) == 0) {
    WARN("skipped: no permission is refused to this user (root)");
    return;
  }
  REQUIRE_ERROR(MappedFile(folder / "secret"), io, "permission denied");
}

TEST_CASE("release gives the memory back and keeps the bytes readable", "[mapped_file]") {
  TemporaryFolder const folder;
  std::size_t const size = std::size_t{64} << 20;
  write_bytes(folder / "large", std::string(size, 'q'));
  MappedFile const file(folder / "large");
  std::size_t const before = resident_file_bytes();
  std::size_t const step = std::size_t{1} << 20;
  std::size_t most = 0, sum = 0;
  for (std::size_t at = 0; at < size; at += step) {
    for (std::size_t i = at; i < at + step; i += 512) sum += std::to_integer<std::size_t>(file.bytes()[i]);
    most = std::max(most, resident_file_bytes());
    file.release(at, step);
  }
  REQUIRE(sum == size / 512 * 'q');
  REQUIRE(most < before + 16 * step);  // and not the whole file
  REQUIRE(std::to_integer<char>(file.bytes()[0]) == 'q');
  file.release(size - 1, ~std::size_t{0});
  file.release(size + 1, 1);
  file.release(0, 0);
  REQUIRE(std::to_integer<char>(file.bytes()[size - 1]) == 'q');
}

TEST_CASE("a file that changed on the disk is noticed", "[mapped_file]") {
  TemporaryFolder const folder;
  write_bytes(folder / "a", std::string(10000, 'x'));
  MappedFile const file(folder / "a");
  file.check_unchanged();
  REQUIRE(::truncate((folder / "a").c_str(), 100) == 0);
  REQUIRE_ERROR(file.check_unchanged(), io, "changed by another program");
}
