// SPDX-License-Identifier: Apache-2.0
#include "output.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <system_error>

#include <fmt/core.h>

#include <dartquant/core/error.hpp>
#include <dartquant/io/atomic_file.hpp>
#include <dartquant/io/gguf.hpp>

#include "units.hpp"

namespace dartquant::program {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view staging_prefix = ".dartquant-";

[[noreturn]] void refuse(std::string const& sentence) { throw Error(Error::Kind::io, sentence); }

bool same(fs::path const& a, fs::path const& b) {
  std::error_code none;
  return fs::equivalent(a, b, none) && !none;
}

bool is_staging(fs::path const& entry) {
  return entry.filename().string().starts_with(staging_prefix) && entry.extension() == ".tmp";
}

/// A folder that does not exist, is empty, or holds an earlier output.
void require_free_or_ours(fs::path const& folder) {
  if (!fs::exists(folder)) return;
  if (!fs::is_directory(folder))
    refuse(fmt::format("{} is no folder: choose another output", folder.string()));
  if (fs::exists(folder / "dartquant.json")) return;
  for (fs::directory_entry const& entry : fs::directory_iterator(folder))
    if (!is_staging(entry.path()))
      refuse(fmt::format(
          "{} holds files that are no earlier output (such as {}): choose a new or an empty folder",
          folder.string(), entry.path().filename().string()));
}

/// Files of an earlier output that a new one need not replace: shards of a larger one, its rotations.
bool is_of_output(std::string const& name) {
  return name == "model.safetensors.index.json" || name == "rotations.safetensors" ||
         (name.starts_with("model") && name.ends_with(".safetensors"));
}

/// A file that does not exist, or an earlier output.
void require_free_or_our_file(fs::path const& file) {
  if (!fs::exists(file)) return;
  bool ours = false;
  try {
    ours = fs::is_regular_file(file) && GgufFile(file).text("dartquant.version").has_value();
  } catch (Error const&) {  // some other file
  }
  if (!ours)
    refuse(fmt::format(
        "{} is no earlier output (a GGUF file with the key dartquant.version): choose another name",
        file.string()));
}

void require_space(fs::path const& folder, std::uint64_t bytes) {
  std::uint64_t const available = fs::space(folder).available;
  if (available < bytes)
    refuse(fmt::format("{} has {} free and about {} are needed: choose another disk", folder.string(),
                       format_bytes(available), format_bytes(bytes)));
}

}  // namespace

void check_output_file(std::string const& file, fs::path const& model,
                       std::initializer_list<std::string> inputs) {
  if (file.empty()) return;
  fs::path const path = file;
  for (std::string const& input : inputs)
    detail::require(input.empty() || !same(path, input), path.string(),
                    " is an input: choose another output");
  fs::path const folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  detail::require(!(fs::exists(path) && same(folder, model)), path.string(),
                  " is a file of the input model: choose another output");
  if (!fs::is_directory(folder)) refuse(fmt::format("{} is no folder: create it first", folder.string()));
  if (fs::is_directory(path)) refuse(fmt::format("{} is a folder: name a file", path.string()));
  TemporaryFiles const guard;
  AtomicFile const probe(path);  // creates its temporary file, and removes it
}

StagedFile::StagedFile(fs::path const& output, fs::path const& input, std::uint64_t bytes)
    : output_(fs::absolute(output).lexically_normal()) {
  detail::require(!same(output_, input), output.string(), " is the input: choose another output");
  detail::require(output_.has_filename(), output.string(), " is a folder: name a file");
  require_free_or_our_file(output_);
  fs::path const folder = output_.parent_path();
  if (!fs::is_directory(folder)) refuse(fmt::format("{} is no folder: create it first", folder.string()));
  require_space(folder, bytes);
  staging_ = folder / fmt::format("{}{}.tmp", staging_prefix, ::getpid());
  create_output_folder(staging_);
  staged_ = staging_ / output_.filename();
}

StagedFile::~StagedFile() {
  std::error_code ignored;
  fs::remove_all(staging_, ignored);
}

void StagedFile::commit() {
  for (fs::directory_entry const& beside : fs::directory_iterator(staging_))
    if (beside.path() != staged_) fs::rename(beside.path(), output_.parent_path() / beside.path().filename());
  fs::rename(staged_, output_);
  int const folder = ::open(output_.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  bool const synced = folder >= 0 && ::fsync(folder) == 0;
  if (folder >= 0) ::close(folder);
  if (!synced) refuse(fmt::format("{}: {}", output_.string(), std::strerror(errno)));
}

StagedFolder::StagedFolder(fs::path const& output, fs::path const& input, std::uint64_t bytes)
    : output_(fs::absolute(output).lexically_normal()) {
  if (!output_.has_filename()) output_ = output_.parent_path();
  detail::require(!same(output_, input), output.string(), " is the input folder: choose another output");
  require_free_or_ours(output_);
  for (fs::path folder = output_; !fs::exists(folder); folder = folder.parent_path())
    created_.push_back(folder);
  staging_ = output_ / fmt::format("{}{}.tmp", staging_prefix, ::getpid());
  try {
    create_output_folder(output_);
    lock();
    require_space(output_, bytes);
  } catch (...) {
    undo();
    throw;
  }
}

void StagedFolder::lock() {
  descriptor_ = ::open(output_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor_ < 0) refuse(fmt::format("{} cannot be opened: {}", output_.string(), std::strerror(errno)));
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    created_.clear();  // they are the other writer's now
    refuse(fmt::format("{} is being written by another process: wait for it or choose another output",
                       output_.string()));
  }
  std::vector<fs::path> stale;
  for (fs::directory_entry const& entry : fs::directory_iterator(output_))
    if (is_staging(entry.path())) stale.push_back(entry.path());
  for (fs::path const& folder : stale) fs::remove_all(folder);
}

StagedFolder::~StagedFolder() { undo(); }

void StagedFolder::undo() noexcept {
  std::error_code ignored;
  if (!committed_ && descriptor_ >= 0) fs::remove_all(staging_, ignored);
  if (!committed_)
    for (fs::path const& folder : created_) ::rmdir(folder.c_str());  // an empty folder only
  created_.clear();
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
}

void StagedFolder::commit() {
  std::vector<fs::path> names;
  for (fs::directory_entry const& entry : fs::directory_iterator(staging_))
    names.push_back(entry.path().filename());
  fs::remove(output_ / "config.json");
  std::vector<fs::path> old;
  for (fs::directory_entry const& entry : fs::directory_iterator(output_))
    if (is_of_output(entry.path().filename().string())) old.push_back(entry.path());
  for (fs::path const& file : old) fs::remove(file);
  committed_ = true;  // from here on what is in the output is kept
  for (fs::path const& name : names)
    if (name != "config.json") fs::rename(staging_ / name, output_ / name);
  if (::fsync(descriptor_) != 0) refuse(fmt::format("{}: {}", output_.string(), std::strerror(errno)));
  fs::rename(staging_ / "config.json", output_ / "config.json");
  if (::fsync(descriptor_) != 0) refuse(fmt::format("{}: {}", output_.string(), std::strerror(errno)));
  fs::remove_all(staging_);
}

}  // namespace dartquant::program
