// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include <dartquant/io/tensor_file.hpp>

namespace dartquant::detail {

/// A GGUF file as a Hugging Face folder would show it.
struct GgufModel {
  std::string config_text;
  std::optional<std::string> tokenizer_text;  ///< nothing where the file has none that can be read
  std::string tokenizer_error{};              ///< why it cannot be read
  TensorFile tensors;                         ///< under Hugging Face names
};

/// Errors: those of GgufFile, config_json_of, and Error(unsupported) for a tensor that the architecture does
/// not have.
[[nodiscard]] GgufModel open_gguf(std::filesystem::path const& file);

}  // namespace dartquant::detail
