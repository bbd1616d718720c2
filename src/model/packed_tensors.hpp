// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <variant>
#include <vector>

#include <dartquant/model/quantized_folder.hpp>
#include <dartquant/quant/int_matrix.hpp>

// The tensors that stand in the place of a weight [out, in] in a folder of packed weights, one pair of files
// per format.
namespace dartquant::detail {

using Levels = std::variant<Int4Matrix, Int8Matrix>;

/// A weight [out, in] of a folder, of one linear map or of those that share a tensor: its name without the
/// last part ("...q_proj.").
struct PackedMap {
  std::string name;
  index_t out = 0, in = 0;
};

/// Errors: Error(format) naming the tensor.
[[noreturn]] void refuse_packed(Checkpoint const& checkpoint, std::string const& tensor,
                                std::string const& why);

namespace compressed_tensors {
/// Errors: InvalidArgument.
void validate(QuantizedFolderOptions const& options);
[[nodiscard]] std::vector<TensorInfo> tensors(PackedMap const& map, FolderQuantization const& folder,
                                              Dtype scales);
void write(Cpu const& cpu, PackedMap const& map, Levels const& levels, Dtype scales,
           TensorSink& writer);
[[nodiscard]] Levels read(Cpu const& cpu, PackedMap const& map, FolderQuantization const& folder,
                          Checkpoint const& checkpoint);
/// The JSON text of quantization_config, and back; `kept` are the modules besides lm_head that stay in
/// floats. Errors of parse: Error(format), Error(unsupported).
[[nodiscard]] std::string config_text(FolderQuantization const& folder, std::vector<std::string> kept);
[[nodiscard]] FolderQuantization parse(std::string const& text, ModelConfig const& config,
                                       std::string const& source);
}  // namespace compressed_tensors

namespace native {
void validate(QuantizedFolderOptions const& options);
[[nodiscard]] std::vector<TensorInfo> tensors(PackedMap const& map, FolderQuantization const& folder);
void write(Cpu const& cpu, PackedMap const& map, Levels const& levels, FolderQuantization const& folder,
           TensorSink& writer);
[[nodiscard]] Levels read(Cpu const& cpu, PackedMap const& map, FolderQuantization const& folder,
                          Checkpoint const& checkpoint);
[[nodiscard]] std::string config_text(FolderQuantization const& folder);
/// Without the transforms, which are in a file of their own.
[[nodiscard]] FolderQuantization parse(std::string const& text, std::string const& source);
}  // namespace native

}  // namespace dartquant::detail
