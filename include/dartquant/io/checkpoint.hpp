// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dartquant/io/safetensors.hpp>

namespace dartquant {

/// The weights of a model under their Hugging Face names: `model.safetensors` of a folder, or
/// `model.safetensors.index.json` and its shards, or a file of another format whose reader names its tensors
/// so. Everything is mapped; a tensor's pages are read when it is touched and given back by `release`.
class Checkpoint {
 public:
  /// Opens and checks all files of the folder: shard names are plain names inside the folder, every tensor is
  /// in the shard that the index names and in no other. A missing `total_size` is accepted. Throws Error(io)
  /// for a missing folder or shard, Error(format) with the shard and tensor otherwise.
  explicit Checkpoint(std::filesystem::path const& folder);
  /// The tensors of one open file; `folder()` is its path.
  explicit Checkpoint(TensorFile file);

  [[nodiscard]] std::filesystem::path const& folder() const noexcept { return folder_; }
  /// All names, sorted.
  [[nodiscard]] std::vector<std::string> names() const;
  [[nodiscard]] bool contains(std::string_view name) const noexcept;
  /// Error(format) naming folder and tensor when it is missing. The views live as long as this object.
  [[nodiscard]] Tensor const& tensor(std::string_view name) const;
  /// As TensorFile::read_matrix.
  template <class T>
  [[nodiscard]] RowMatrix<T> read_matrix(std::string_view name,
                                         NonFinite non_finite = NonFinite::refuse) const;
  /// Gives the pages of one tensor back to the system; it stays readable.
  void release(std::string_view name) const;
  /// The files, in the order of their names.
  [[nodiscard]] std::span<TensorFile const> files() const noexcept { return files_; }

 private:
  struct Place {
    std::size_t file;
    Tensor const* tensor;
  };
  [[nodiscard]] Place const& place(std::string_view name) const;
  void open_shards(std::filesystem::path const& index);

  std::filesystem::path folder_;
  std::vector<TensorFile> files_;
  std::map<std::string, Place, std::less<>> places_;
};

/// Writes a checkpoint folder. All tensors are declared first and the space for all is reserved at once, then
/// values arrive in any order and in pieces; nothing carries its final name before `commit`.
class CheckpointWriter : public TensorSink {
 public:
  struct Options {
    std::uint64_t shard_bytes =
        5'000'000'000;  ///< limit of one file's data; a larger tensor gets its own file
    std::map<std::string, std::string> metadata{{"format", "pt"}};
    index_t data_alignment = 8;  ///< the data of a file begins at a multiple of it: a multiple of 8
    int threads = 1;             ///< that read back what was written
    void validate() const;
  };

  /// Creates the folder where missing (and removes it again when nothing was committed) and locks it against
  /// a second writer. Tensors fill the shards in the order given. Throws InvalidArgument for bad
  /// declarations, Error(io) when the folder cannot be written, when it holds a checkpoint split in another
  /// way (its files would be mistaken for ours), or when the disk is too small.
  CheckpointWriter(std::filesystem::path const& folder, std::vector<TensorInfo> tensors,
                   Options const& options);
  CheckpointWriter(std::filesystem::path const& folder, std::vector<TensorInfo> tensors)
      : CheckpointWriter(folder, std::move(tensors), Options{}) {}
  ~CheckpointWriter() override;

  void append(std::string_view name, MatrixView<float const> values) override;
  void append(std::string_view name, MatrixView<double const> values) override;
  void append_bytes(std::string_view name, std::span<std::byte const> bytes) override;
  void write_rows(std::string_view name, index_t first, MatrixView<float const> values) override;
  void write_rows(std::string_view name, index_t first, MatrixView<double const> values) override;

  /// Reads every file again and compares checksums, then gives the files their names, the index last. Until
  /// all files passed, an existing checkpoint in the folder is untouched.
  void commit();

 private:
  class OutputFolder;
  SafetensorsWriter& writer(std::string_view name);

  std::unique_ptr<OutputFolder> folder_;
  std::vector<std::string> files_;  // one name per shard
  std::vector<SafetensorsWriter> shards_;
  std::map<std::string, std::size_t, std::less<>> shard_of_;
  std::uint64_t total_size_ = 0;
  int threads_ = 1;
};

}  // namespace dartquant
