// SPDX-License-Identifier: Apache-2.0
#include "model/gguf_model.hpp"

#include <utility>

#include <dartquant/core/error.hpp>
#include <dartquant/io/gguf.hpp>
#include <dartquant/model/architecture.hpp>

#include "io/gguf_tokenizer.hpp"
#include "io/posix.hpp"
#include "model/gguf_config.hpp"
#include "model/gguf_names.hpp"

namespace dartquant::detail {

GgufModel open_gguf(std::filesystem::path const& path) {
  using Kind = Error::Kind;
  GgufFile file(path);
  std::string const source = "[GgufFile] " + path.string();
  if (auto const parts = file.integer("split.count"); parts && *parts > 1)
    fail(Kind::unsupported, source, ": it is one of ", *parts,
         " parts; join them with llama-gguf-split --merge");
  auto const name = file.text("general.architecture");
  if (!name) fail(Kind::format, source, ": the key 'general.architecture' is missing");
  GgufArchitecture const& row = gguf_architecture_named(*name, source);
  std::string config_text = config_json_of(file, row);
  ModelConfig const config = parse_config(config_text, path.string());
  Family const& family = family_of(config.architecture);
  std::vector<std::string> names;
  std::vector<Tensor> tensors;
  names.reserve(file.tensors().size());
  for (Tensor tensor : file.tensors()) {
    if (tensor.name == rope_factors_name) continue;  // the config says the same
    auto const renamed = from_gguf_name(family, tensor.name);
    if (!renamed)
      fail(Kind::unsupported, source, ": tensor '", printable(tensor.name), "' is not part of ", row.name,
           " as it is read here");
    index_t const heads = interleaved_heads(row, config, tensor.name);
    if (heads > 0 && tensor.shape[0] % (2 * heads) != 0)
      fail(Kind::format, source, ": tensor '", printable(tensor.name), "' is ", describe(tensor),
           ", not rows of ", heads, " heads");
    tensor.interleaved_heads = heads;
    tensor.name = names.emplace_back(*renamed);
    tensors.push_back(tensor);
  }
  std::optional<std::string> tokenizer;
  std::string tokenizer_error;
  try {
    tokenizer = tokenizer_json_of(file);
  } catch (Error const& error) {  // the model itself can be used with token ids
    if (error.kind() != Kind::unsupported) throw;
    tokenizer_error = error.what();
  }
  return {std::move(config_text), std::move(tokenizer), std::move(tokenizer_error),
          std::move(file).renamed(tensors)};
}

}  // namespace dartquant::detail
