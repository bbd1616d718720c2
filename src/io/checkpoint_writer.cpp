// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <cerrno>

#include <algorithm>
#include <cstdio>

#include <dartquant/core/error.hpp>
#include <dartquant/io/atomic_file.hpp>
#include <dartquant/io/checkpoint.hpp>

#include "io/json.hpp"
#include "io/posix.hpp"

namespace dartquant {

namespace fs = std::filesystem;
using detail::fail;
using detail::printable;
using detail::require;
using Kind = Error::Kind;

namespace {

constexpr char const* index_name = "model.safetensors.index.json";

/// Tensors fill the shards in the order given; one that is larger than the limit gets a shard of its own.
std::vector<std::vector<TensorInfo>> split(std::vector<TensorInfo>&& tensors, std::uint64_t shard_bytes) {
  std::vector<std::vector<TensorInfo>> shards(1);
  std::uint64_t filled = 0;
  for (TensorInfo& info : tensors) {
    std::uint64_t const size = byte_size(info);
    if (!shards.back().empty() && (size > shard_bytes || filled > shard_bytes - size)) {
      shards.emplace_back();
      filled = 0;
    }
    filled += size;  // cannot wrap: `filled` is 0 or the sum is at most shard_bytes
    shards.back().push_back(std::move(info));
  }
  return shards;
}

std::string shard_name(std::size_t shard, std::size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", shard + 1, count);
  return name;
}

/// A reader would take files of an older checkpoint that stay in the folder for a part of the new one.
void refuse_other_checkpoint(fs::path const& folder, std::vector<std::string> const& files) {
  for (fs::directory_entry const& entry : fs::directory_iterator(folder)) {
    std::string const name = entry.path().filename().string();
    bool const weights = name.starts_with("model") && name.ends_with(".safetensors");
    bool const replaced =
        name == index_name ? files.size() > 1 : std::find(files.begin(), files.end(), name) != files.end();
    if ((weights || name == index_name) && !replaced)
      fail(Kind::io, "[CheckpointWriter] ", folder.string(), ": it holds '", printable(name),
           "' of a checkpoint that is split in another way; choose an empty folder");
  }
}

}  // namespace

void CheckpointWriter::Options::validate() const {
  require(shard_bytes > 0, "[CheckpointWriter] shard_bytes is 0: at least 1 is needed");
  require(data_alignment >= 8 && data_alignment % 8 == 0 && data_alignment <= 4096,
          "[CheckpointWriter] data_alignment ", data_alignment, ": a multiple of 8 up to 4096 is needed");
  require(threads >= 1, "[CheckpointWriter] ", threads, " threads: at least one is needed");
}

/// Creates and locks the folder; takes it away again if it was new and stays empty.
class CheckpointWriter::OutputFolder {
 public:
  explicit OutputFolder(fs::path const& folder) : path_(folder) {
    std::error_code error;
    created_ = !fs::exists(folder, error);
    create_output_folder(folder);
    lock_ = detail::Descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (lock_.get() >= 0 && ::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
      fail(Kind::io, "[CheckpointWriter] ", folder.string(),
           ": another process is writing a checkpoint here");
  }
  OutputFolder(OutputFolder const&) = delete;
  OutputFolder& operator=(OutputFolder const&) = delete;
  ~OutputFolder() {
    if (created_) ::rmdir(path_.c_str());  // fails, as it should, when something is inside
  }
  [[nodiscard]] fs::path const& path() const { return path_; }

 private:
  fs::path path_;
  detail::Descriptor lock_;
  bool created_ = false;
};

CheckpointWriter::CheckpointWriter(fs::path const& folder, std::vector<TensorInfo> tensors,
                                   Options const& options)
    : threads_(options.threads) {
  options.validate();
  std::vector<std::vector<TensorInfo>> shards = split(std::move(tensors), options.shard_bytes);
  for (std::size_t shard = 0; shard < shards.size(); ++shard) {
    files_.push_back(shard_name(shard, shards.size()));
    for (TensorInfo const& info : shards[shard]) {
      require(shard_of_.emplace(info.name, shard).second, "[CheckpointWriter] the tensor '",
              printable(info.name), "' is declared twice");
      total_size_ += byte_size(info);
    }
  }
  folder_ = std::make_unique<OutputFolder>(folder);
  refuse_other_checkpoint(folder, files_);
  shards_.reserve(shards.size());
  for (std::size_t shard = 0; shard < shards.size(); ++shard) {
    shards_.emplace_back(folder / files_[shard], std::move(shards[shard]), options.metadata,
                         options.data_alignment);
    if (options.threads > 1) shards_.back().read_back_meanwhile();
  }
}

CheckpointWriter::~CheckpointWriter() {
  shards_.clear();  // their temporaries go before the folder may
}

SafetensorsWriter& CheckpointWriter::writer(std::string_view name) {
  auto const shard = shard_of_.find(name);
  require(shard != shard_of_.end(), "[CheckpointWriter] the tensor '", printable(name), "' was not declared");
  return shards_[shard->second];
}

void CheckpointWriter::append(std::string_view name, MatrixView<float const> values) {
  writer(name).append(name, values);
}
void CheckpointWriter::append(std::string_view name, MatrixView<double const> values) {
  writer(name).append(name, values);
}
void CheckpointWriter::append_bytes(std::string_view name, std::span<std::byte const> bytes) {
  writer(name).append_bytes(name, bytes);
}
void CheckpointWriter::write_rows(std::string_view name, index_t first, MatrixView<float const> values) {
  writer(name).write_rows(name, first, values);
}
void CheckpointWriter::write_rows(std::string_view name, index_t first, MatrixView<double const> values) {
  writer(name).write_rows(name, first, values);
}

void CheckpointWriter::commit() {
  for (SafetensorsWriter& shard : shards_) shard.verify(threads_);
  if (shards_.size() == 1) return shards_[0].commit();

  detail::Json weight_map = detail::Json::object();
  for (auto const& [name, shard] : shard_of_) weight_map[name] = files_[shard];
  std::string const text =
      detail::Json{{"metadata", {{"total_size", total_size_}}}, {"weight_map", std::move(weight_map)}}.dump(
          2) +
      "\n";
  fs::path const path = folder_->path() / index_name;
  AtomicFile index(path, text.size());
  index.write(text);
  index.sync();

  // From here on only renames are left. Without its index an older checkpoint is incomplete, never a mixture
  // of old and new shards.
  std::error_code error;
  fs::remove(path, error);
  if (error)
    fail(Kind::io, "[CheckpointWriter] ", path.string(),
         ": cannot be replaced: ", detail::reason(error.value()));
  for (SafetensorsWriter& shard : shards_) shard.commit();
  index.commit();
}

}  // namespace dartquant
