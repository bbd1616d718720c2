// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/atomic_file.hpp>
#include <dartquant/io/checkpoint.hpp>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

#include <algorithm>
#include <functional>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include <dartquant/core/cpu.hpp>

#include "files.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

/// Files may not grow beyond `bytes` while this lives: the next write fails with EFBIG.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    rlimit now = before_;
    now.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &now);
  }
  FileSizeLimit(FileSizeLimit const&) = delete;
  FileSizeLimit& operator=(FileSizeLimit const&) = delete;
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int);
};

enum class Disk { small, read_only };

/// Runs the check in a child whose `folder` is a file system of 256 KiB, or one that is read-only. The child
/// reports one line; "" when it may not mount.
std::string on_disk(fs::path const& folder, Disk disk, std::function<std::string()> const& check) {
  int ends[2];
  if (::pipe(ends) != 0) return "";
  pid_t const child = ::fork();
  if (child == 0) {
    std::string line;
    bool const own = ::unshare(CLONE_NEWNS) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0;
    if (own && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
        ::mount("none", folder.c_str(), "tmpfs", disk == Disk::read_only ? MS_RDONLY : 0, "size=256k") == 0)
      line = check();
    ssize_t const sent = ::write(ends[1], line.data(), line.size());
    ::_exit(sent == static_cast<ssize_t>(line.size()) ? 0 : 1);
  }
  ::close(ends[1]);
  std::string line(4096, '\0');
  ssize_t const got = ::read(ends[0], line.data(), line.size());
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  line.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return line;
}

std::string files_in(fs::path const& folder) {
  std::string names;
  for (auto const& entry : fs::directory_iterator(folder)) names += entry.path().filename().string() + " ";
  return names;
}

}  // namespace

TEST_CASE("a file appears with its commit and not before", "[atomic_file]") {
  TemporaryFolder const folder;
  AtomicFile file(folder / "out", 10);
  file.write("hello ");
  file.write("world, and more");
  REQUIRE(!fs::exists(folder / "out"));
  REQUIRE(file.temporary_path() ==
          fs::path((folder / "out").string() + ".tmp." + std::to_string(::getpid())));
  REQUIRE(fs::exists(file.temporary_path()));
  REQUIRE(file.size() == 21);
  file.commit();
  REQUIRE(read_bytes(folder / "out") == "hello world, and more");
  REQUIRE(folder.entries() == 1);
  REQUIRE_ERROR(file.write("x"), io, "after it was finished");
  REQUIRE_ERROR(file.commit(), io, "finished already");
}

TEST_CASE("several threads write at places of their own, and read back", "[atomic_file][threads]") {
  TemporaryFolder const folder;
  constexpr index_t pieces = 200, piece = 400'000;  // 80 MB: several rounds
  AtomicFile file(folder / "f");
  Cpu(4).parallel_for(pieces, 1, [&](index_t i, index_t) {
    std::vector<std::byte> const bytes(piece, static_cast<std::byte>(i));
    file.write_at(static_cast<std::uint64_t>((pieces - 1 - i) * piece), bytes);
  });
  REQUIRE(file.size() == static_cast<std::uint64_t>(pieces * piece));
  REQUIRE(file.rounds_done() <= file.round());
  file.sync();
  file.forget(0, file.size());
  file.expect_reads(0, piece);
  std::vector<std::byte> bytes(piece);
  for (index_t i = 0; i < pieces; ++i) {
    file.read_at(static_cast<std::uint64_t>((pieces - 1 - i) * piece), bytes);
    bool const same = std::ranges::all_of(bytes, [i](std::byte b) { return b == static_cast<std::byte>(i); });
    REQUIRE(same);
  }
  REQUIRE_ERROR(file.read_at(file.size() - 1, bytes), io, "cannot be read back: it ends too early");
}

TEST_CASE("reserved space that was not used is cut off", "[atomic_file]") {
  TemporaryFolder const folder;
  AtomicFile file(folder / "out", 100000);
  file.write_at(3, std::as_bytes(std::span(std::string_view("abc"))));
  file.write_at(0, std::as_bytes(std::span(std::string_view("xy"))));
  file.commit();
  REQUIRE(read_bytes(folder / "out") == std::string_view("xy\0abc", 6));
}

TEST_CASE("without a commit the old file stays and nothing else does", "[atomic_file]") {
  TemporaryFolder const folder;
  write_bytes(folder / "out", "old");
  {
    AtomicFile file(folder / "out");
    file.write("new");
    AtomicFile const moved = std::move(file);
  }
  REQUIRE(read_bytes(folder / "out") == "old");
  REQUIRE(folder.entries() == 1);
  write_file_atomically(folder / "out", "new");
  REQUIRE(read_bytes(folder / "out") == "new");
  write_file_atomically(folder / "empty", "");
  REQUIRE(read_bytes(folder / "empty").empty());
}

TEST_CASE("a temporary that a killed process left is replaced, a live one is not", "[atomic_file]") {
  TemporaryFolder const folder;
  write_bytes((folder / "out").string() + ".tmp." + std::to_string(::getpid()), "left over");
  AtomicFile file(folder / "out");
  REQUIRE_ERROR(AtomicFile(folder / "out"), io, "writing this file already");
  file.write("x");
  file.commit();
  REQUIRE(read_bytes(folder / "out") == "x");
  REQUIRE(folder.entries() == 1);
}

TEST_CASE("places that cannot be written give a sentence", "[atomic_file]") {
  TemporaryFolder const folder;
  write_bytes(folder / "file", "x");
  fs::create_directory(folder / "dir");
  REQUIRE_ERROR(AtomicFile(folder / "none/out"), io, "its folder does not exist");
  REQUIRE_ERROR(AtomicFile(folder / "file/out"), io, "a part of its path is not a folder");
  REQUIRE_ERROR(AtomicFile(folder / std::string(300, 'n')), io, "cannot be created");
  REQUIRE_ERROR(AtomicFile(folder.path() / ""), io, "names no file");
  REQUIRE_ERROR(write_file_atomically(folder / "dir", "x"), io, "it is a folder");
  REQUIRE_ERROR(create_output_folder(folder / "file"), io, "file");
  REQUIRE_ERROR(create_output_folder(folder / "file/below"), io, "cannot be created");
  create_output_folder(folder / "new/deep");
  create_output_folder(folder / "new/deep");
  REQUIRE(fs::is_directory(folder / "new/deep"));
  REQUIRE(folder.entries() == 3);
}

TEST_CASE("a folder without write permission gives a sentence", "[atomic_file]") {
  TemporaryFolder const folder;
  REQUIRE(::chmod(folder.path().c_str(), 0500) == 0);
  bool const refused = ::access(folder.path().c_str(), W_OK) != 0;
  if (!refused) WARN("skipped: no permission is refused to this user (root)");
  if (refused) {
    REQUIRE_ERROR(AtomicFile(folder / "out"), io, "permission denied");
    REQUIRE_ERROR(create_output_folder(folder.path()), io, "cannot be written to: permission denied");
    REQUIRE_ERROR(create_output_folder(folder / "new"), io, "cannot be created: permission denied");
  }
  ::chmod(folder.path().c_str(), 0700);
}

TEST_CASE("a read-only file system gives a sentence", "[atomic_file]") {
  TemporaryFolder const folder;
  std::string const seen = on_disk(folder.path(), Disk::read_only, [&] {
    return failure_of([&] { AtomicFile(folder / "out"); }).text + "|" +
           failure_of([&] { create_output_folder(folder.path()); }).text + "|" +
           failure_of([&] { CheckpointWriter(folder / "new", {}); }).text;
  });
  if (seen.empty()) {
    WARN("skipped: no permission to mount a file system");
    return;
  }
  INFO(seen);
  REQUIRE(seen.find("out: cannot be created: the file system is read-only") != std::string::npos);
  REQUIRE(seen.find("cannot be written to: the file system is read-only") != std::string::npos);
  REQUIRE(seen.find("new: cannot be created: the file system is read-only") != std::string::npos);
}

TEST_CASE("a full disk is told in advance, and leaves the old file alone", "[atomic_file]") {
  TemporaryFolder const folder;
  std::string const seen = on_disk(folder.path(), Disk::small, [&] {
    write_bytes(folder / "out", "old");
    std::string const early = failure_of([&] { AtomicFile(folder / "out", 1000000); }).text;
    std::string const late = failure_of([&] {
                               AtomicFile file(folder / "out");
                               file.write(std::string(1000000, 'x'));
                             }).text;
    return early + "|" + late + "|" + read_bytes(folder / "out") + "|" + files_in(folder.path());
  });
  if (seen.empty()) {
    WARN("skipped: no permission to mount a file system");
    return;
  }
  INFO(seen);
  REQUIRE(seen.find("out: the disk is full: it needs 1000000 more bytes and ") != std::string::npos);
  REQUIRE(seen.find("|old|out ") != std::string::npos);
  std::size_t const second = seen.find("the disk is full", seen.find('|'));
  REQUIRE(second != std::string::npos);  // also when the space was not reserved
}

TEST_CASE("a checkpoint that does not fit the disk leaves the old one alone", "[atomic_file]") {
  TemporaryFolder const folder;
  std::string const seen = on_disk(folder.path(), Disk::small, [&] {
    RowMatrix<float> const W = RowMatrix<float>::Ones(100, 100);
    CheckpointWriter first(folder / "model", {{"w", Dtype::f32, {100, 100}}});
    first.append("w", W);
    first.commit();
    std::string const old = read_bytes(folder / "model/model.safetensors");
    std::string const full = failure_of([&] {
                               CheckpointWriter(folder / "model", {{"w", Dtype::f32, {1000, 1000}}});
                             }).text;
    std::string const fresh = failure_of([&] {
                                CheckpointWriter(folder / "new", {{"w", Dtype::f32, {1000, 1000}}});
                              }).text;
    bool const kept = read_bytes(folder / "model/model.safetensors") == old;
    return full + "|" + fresh + (kept ? "|kept|" : "|lost|") + files_in(folder.path()) +
           files_in(folder / "model");
  });
  if (seen.empty()) {
    WARN("skipped: no permission to mount a file system");
    return;
  }
  INFO(seen);
  REQUIRE(seen.find("model.safetensors: the disk is full: it needs 4000") != std::string::npos);
  REQUIRE(seen.find("|kept|model model.safetensors ") != std::string::npos);
}

TEST_CASE("every write call may fail: the old file stays", "[atomic_file]") {
  TemporaryFolder const folder;
  write_bytes(folder / "out", "old");
  for (rlim_t const bytes : std::initializer_list<rlim_t>{0, 1, 4095, 4096, 5000, 9999}) {
    {
      FileSizeLimit const limit(bytes);
      REQUIRE_ERROR(AtomicFile(folder / "out", 10000), io, "needs 10000 more bytes, beyond the largest file");
      Failure const failure = failure_of([&] {
        AtomicFile file(folder / "out");
        for (int i = 0; i < 10; ++i) file.write(std::string(1000, 'x'));
        file.commit();
      });
      REQUIRE(failure.is(Error::Kind::io));
      REQUIRE(failure.says("more bytes, beyond the largest file"));
    }
    REQUIRE(read_bytes(folder / "out") == "old");
    REQUIRE(folder.entries() == 1);
  }
}

TEST_CASE("a device that is full gives the sentence of a full disk", "[atomic_file]") {
  TemporaryFolder const folder;
  AtomicFile file(folder / "out");
  int const full = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
  if (full < 0) {
    WARN("skipped: no /dev/full here");
    return;
  }
  // The temporary's descriptor is replaced by the device: what a disk does that fills up under our feet.
  for (int descriptor = 3; descriptor < 64; ++descriptor) {
    std::error_code error;
    if (fs::read_symlink("/proc/self/fd/" + std::to_string(descriptor), error) == file.temporary_path())
      REQUIRE(::dup2(full, descriptor) == descriptor);
  }
  ::close(full);
  REQUIRE_ERROR(file.write("some bytes"), io, "the disk is full: it needs 10 more bytes");
}

TEST_CASE("a copy has the bytes of the original", "[atomic_file]") {
  TemporaryFolder const folder;
  std::string const content = std::string(2500000, 'a') + std::string("\0z", 2);
  write_bytes(folder / "a", content);
  copy_file_atomically(folder / "a", folder / "b");
  REQUIRE(read_bytes(folder / "b") == content);
  REQUIRE_ERROR(copy_file_atomically(folder / "none", folder / "c"), io,
                "none: cannot be opened: it does not exist");
  REQUIRE_ERROR(copy_file_atomically(folder / "a", folder / "a"), io, "same file as the input");
  REQUIRE(folder.entries() == 2);
}

TEST_CASE("an output that is the input is refused, also through links", "[atomic_file]") {
  TemporaryFolder const folder;
  fs::create_directories(folder / "model");
  fs::create_directories(folder / "other");
  fs::create_directory_symlink(folder / "model", folder / "link");
  write_bytes(folder / "model/w", "x");
  fs::create_hard_link(folder / "model/w", folder / "other/hard");
  REQUIRE_ERROR(require_distinct(folder / "model", folder / "model/../model/."), io,
                "the same folder as the input");
  REQUIRE_ERROR(require_distinct(folder / "model", folder / "link"), io, "choose another output");
  REQUIRE_ERROR(require_distinct(folder / "link", folder / "model"), io, "same folder");
  REQUIRE_ERROR(require_distinct(folder / "model/w", folder / "other/hard"), io, "same file");
  require_distinct(folder / "model", folder / "other");
  require_distinct(folder / "model", folder / "new");
  REQUIRE_ERROR(copy_file_atomically(folder / "model/w", folder / "link/w"), io, "same file");
}
