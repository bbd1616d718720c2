// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>

#include <dartquant/io/gguf.hpp>
#include <dartquant/io/tensor_writer.hpp>
#include <dartquant/model/fold.hpp>

namespace dartquant::detail {

/// What follows the name of a GGUF file in that of its manifest.
inline constexpr char const* gguf_manifest_suffix = ".dartquant.json";

/// The GGUF file that `fold` writes. Nothing has its final name before `finish`.
class GgufOutput {
 public:
  /// All references must outlive this; notes go to `report`. Errors: Error(io) unless `output` may be
  /// written: not the input, and missing or an earlier output; Error(unsupported) for an architecture without
  /// a row in gguf_architectures, or a checkpoint that needs R4.
  GgufOutput(Model const& model, Rotations const& rotations, std::filesystem::path const& output,
             FoldOptions const& options, int threads, FoldReport& report);
  ~GgufOutput();

  /// Takes the tensors of the untied model under their Hugging Face names; the rows of a head together.
  [[nodiscard]] TensorSink& tensors();
  /// Verifies the file, gives it its name, writes the manifest beside it and fills the files and bytes of
  /// `report`.
  void finish(std::string const& manifest, FoldReport& report);

 private:
  class RenamingSink;
  int threads_;
  std::unique_ptr<GgufWriter> writer_;
  std::unique_ptr<RenamingSink> sink_;
};

}  // namespace dartquant::detail
