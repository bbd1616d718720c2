// SPDX-License-Identifier: Apache-2.0
#include "model/gguf_model.hpp"

#include <array>
#include <deque>
#include <utility>

#include <dartquant/core/error.hpp>
#include <dartquant/io/gguf.hpp>
#include <dartquant/model/architecture.hpp>

#include "io/gguf_tokenizer.hpp"
#include "io/posix.hpp"
#include "model/gguf_config.hpp"
#include "model/gguf_names.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

/// Tensors of the file as the model has them.
class ModelView {
 public:
  ModelView(GgufFile const& file, ModelConfig const& config, GgufArchitecture const& row,
            std::string const& source)
      : config_(config),
        row_(row),
        family_(family_of(config.architecture)),
        names_(family_),
        source_(source) {
    tensors_.reserve(file.tensors().size());
  }

  void add(Tensor const& stored) {
    for (std::string_view const factors : {rope_factors_name, short_factors_name, long_factors_name})
      if (stored.name == factors) return;  // the config says the same
    bool const merged = GgufNames::holds_experts(stored.name);
    index_t const parts = merged ? config_.mixture.experts : 1;
    if (merged && (stored.shape.size() != 3 || stored.shape[0] != parts))
      refuse(stored, sentence("is ", describe(stored), ", not matrices of ", parts, " experts"));
    std::vector<std::string> found = names_.from_gguf(stored.name, parts);
    if (found.empty())
      fail(Kind::unsupported, source_, ": tensor '", printable(stored.name), "' is not part of ", row_.name,
           " as it is read here");
    std::size_t const bytes = stored.bytes.size() / found.size();
    for (std::size_t part = 0; part < found.size(); ++part) {
      Tensor tensor = stored;
      tensor.bytes = stored.bytes.subspan(part * bytes, bytes);
      if (merged) tensor.shape = stored.shape.subspan(1);
      add(tensor, std::move(found[part]));
    }
  }

  [[nodiscard]] std::vector<Tensor> const& tensors() const { return tensors_; }

 private:
  [[noreturn]] void refuse(Tensor const& tensor, std::string const& why) const {
    fail(Kind::format, source_, ": tensor '", printable(tensor.name), "' ", why);
  }

  void add(Tensor tensor, std::string name) {
    tensor.interleaved_heads = interleaved_heads(row_, config_, tensor.name);
    tensor.added = added_value(family_, tensor.name);
    if (tensor.interleaved_heads > 0 &&
        (tensor.shape.empty() || tensor.shape[0] % (2 * tensor.interleaved_heads) != 0))
      refuse(tensor, sentence("is ", describe(tensor), ", not rows of ", tensor.interleaved_heads, " heads"));
    if (GgufNames::is_shared_gate(tensor.name) && tensor.shape.size() == 1)
      tensor.shape = shapes_.emplace_back(std::array{index_t{1}, tensor.shape[0]});
    tensor.name = kept_names_.emplace_back(std::move(name));
    tensors_.push_back(tensor);
  }

  ModelConfig const& config_;
  GgufArchitecture const& row_;
  Family const& family_;
  GgufNames names_;
  std::string const& source_;
  std::deque<std::string> kept_names_;  ///< their places do not change
  std::deque<std::array<index_t, 2>> shapes_;
  std::vector<Tensor> tensors_;
};

}  // namespace

GgufModel open_gguf(std::filesystem::path const& path) {
  GgufFile file(path);
  std::string const source = "[GgufFile] " + path.string();
  if (auto const parts = file.integer("split.count"); parts && *parts > 1)
    fail(Kind::unsupported, source, ": it is one of ", *parts,
         " parts; join them with llama-gguf-split --merge");
  auto const name = file.text("general.architecture");
  if (!name) fail(Kind::format, source, ": the key 'general.architecture' is missing");
  bool const experts = file.integer(sentence(*name, ".expert_count")).value_or(0) > 0;
  GgufArchitecture const& row = gguf_architecture_named(*name, experts, source);
  std::string config_text = config_json_of(file, row);
  ModelConfig const config = parse_config(config_text, path.string());
  ModelView view(file, config, row, source);
  for (Tensor const& tensor : file.tensors()) view.add(tensor);
  std::optional<std::string> tokenizer;
  std::string tokenizer_error;
  try {
    tokenizer = tokenizer_json_of(file);
  } catch (Error const& error) {  // the model itself can be used with token ids
    if (error.kind() != Kind::unsupported) throw;
    tokenizer_error = error.what();
  }
  return {std::move(config_text), std::move(tokenizer), std::move(tokenizer_error),
          std::move(file).renamed(view.tensors())};
}

}  // namespace dartquant::detail
