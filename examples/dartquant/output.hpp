// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <vector>

#include "interrupt.hpp"

namespace dartquant::program {

/// Makes sure, before any long work, that `file` can be written: its folder exists and takes a new file, and
/// it is none of `inputs` and no file of the input folder `model`. An empty name passes. Errors:
/// InvalidArgument (it is an input), Error(io).
void check_output_file(std::string const& file, std::filesystem::path const& model,
                       std::initializer_list<std::string> inputs);

/// An output that is made aside and takes its place only when it is whole and was checked.
class StagedOutput {
 public:
  StagedOutput() = default;
  StagedOutput(StagedOutput const&) = delete;
  StagedOutput& operator=(StagedOutput const&) = delete;
  virtual ~StagedOutput() = default;

  /// Where to write; does not exist yet.
  [[nodiscard]] virtual std::filesystem::path const& path() const = 0;
  /// Puts the output in place.
  virtual void commit() = 0;
};

/// One file, written in a folder of its own beside its place. An earlier output is replaced at once.
class StagedFile final : public StagedOutput {
 public:
  /// Errors: InvalidArgument (`output` is the input), Error(io): it is something else than a GGUF file that
  /// DartQuant wrote, cannot be written, or its disk has less than `bytes` free.
  StagedFile(std::filesystem::path const& output, std::filesystem::path const& input, std::uint64_t bytes);
  ~StagedFile() override;

  [[nodiscard]] std::filesystem::path const& path() const override { return staged_; }
  void commit() override;

 private:
  TemporaryFiles guard_;
  std::filesystem::path output_, staging_, staged_;
};

/// A checkpoint folder that is filled aside and takes its place only when it is whole and was checked. The
/// work happens in a folder of its own inside `output`; without a commit that folder goes, and so does
/// `output` where it did not exist before. Locks `output` against a second writer.
class StagedFolder final : public StagedOutput {
 public:
  /// Errors: InvalidArgument (`output` is the input), Error(io): it holds something else than an earlier
  /// output, cannot be written, or has less than `bytes` free.
  StagedFolder(std::filesystem::path const& output, std::filesystem::path const& input, std::uint64_t bytes);
  ~StagedFolder() override;

  [[nodiscard]] std::filesystem::path const& path() const override { return staging_; }

  /// Moves the files to `output`: config.json of an earlier output goes first and the new one comes last, so
  /// that at no time a reader takes a mixture for a checkpoint. Files that are not of an output stay.
  void commit() override;

 private:
  void lock();
  void undo() noexcept;

  TemporaryFiles guard_;
  std::filesystem::path output_, staging_;
  std::vector<std::filesystem::path> created_;  ///< folders that did not exist before, innermost first
  int descriptor_ = -1;
  bool committed_ = false;
};

}  // namespace dartquant::program
