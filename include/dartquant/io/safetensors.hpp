// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <dartquant/core/view.hpp>
#include <dartquant/io/tensor.hpp>
#include <dartquant/io/tensor_file.hpp>
#include <dartquant/io/tensor_writer.hpp>

namespace dartquant {

/// A safetensors file, opened, mapped and checked: header length, strict JSON without duplicate keys, known
/// dtypes, shapes that match their bytes, and byte ranges that cover the data exactly, without hole, overlap
/// or rest. Memory beyond the map: at most twice the header and 1 MB. Header at most 100 MB, rank at most 8.
/// Format: https://github.com/huggingface/safetensors
class SafetensorsFile : public TensorFile {
 public:
  /// Throws Error(io) when the file cannot be opened, Error(format) or Error(unsupported) with a sentence
  /// that names the file and the tensor when a check fails.
  explicit SafetensorsFile(std::filesystem::path const& path);

  [[nodiscard]] std::map<std::string, std::string> const& metadata() const noexcept { return metadata_; }

  /// Copies a tensor of a signed or unsigned integer type, of any rank, in row-major order. Error(format) for
  /// a U64 beyond the signed range.
  [[nodiscard]] std::vector<std::int64_t> read_integers(Tensor const& tensor) const;

 private:
  std::map<std::string, std::string> metadata_;
};

/// Writes one safetensors file. The data is ordered as the reference writer does it (wider types first, then
/// by name); the same declarations and values give the same bytes.
class SafetensorsWriter : public TensorWriter {
 public:
  /// Reserves the space and writes the header, padded so that the data begins at a multiple of
  /// `data_alignment` bytes (8: as the reference writer; any multiple of 8). Throws InvalidArgument for a
  /// duplicate or empty name, a bad shape or a type of GGUF, Error(io) as AtomicFile.
  SafetensorsWriter(std::filesystem::path const& path, std::vector<TensorInfo> tensors,
                    std::map<std::string, std::string> const& metadata = {}, index_t data_alignment = 8);

 private:
  [[nodiscard]] TensorFile open(std::filesystem::path const& path) const override;
};

}  // namespace dartquant
