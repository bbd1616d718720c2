// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/architecture.hpp>

#include <algorithm>
#include <set>

#include <dartquant/core/error.hpp>
#include <dartquant/io/gguf.hpp>

#include "io/json.hpp"
#include "io/read_file.hpp"
#include "model/gguf_model.hpp"
#include "model/layout.hpp"
#include "model/quantized_weights.hpp"

namespace dartquant {
namespace {

using detail::fail;
using Kind = Error::Kind;

/// The block of Llama and everything shaped like it: separate q, k, v, gate and up, two RMSNorms, SwiGLU.
constexpr std::array<LinearRule, linear_count> llama_block(BiasRule attention, BiasRule output,
                                                           BiasRule mlp) {
  constexpr std::string_view attention_norm = "input_layernorm", mlp_norm = "post_attention_layernorm";
  using enum Extent;
  return {{
      {Linear::q_proj, "self_attn.q_proj", query_channels, hidden, attention_norm, Acts::r1, Acts::none,
       attention},
      {Linear::k_proj, "self_attn.k_proj", kv_channels, hidden, attention_norm, Acts::r1, Acts::none,
       attention},
      {Linear::v_proj, "self_attn.v_proj", kv_channels, hidden, attention_norm, Acts::r1, Acts::r2,
       attention},
      {Linear::o_proj, "self_attn.o_proj", hidden, query_channels, "", Acts::r2, Acts::r1, output},
      {Linear::gate_proj, "mlp.gate_proj", intermediate, hidden, mlp_norm, Acts::r1, Acts::none, mlp},
      {Linear::up_proj, "mlp.up_proj", intermediate, hidden, mlp_norm, Acts::r1, Acts::none, mlp},
      {Linear::down_proj, "mlp.down_proj", hidden, intermediate, "", Acts::r4, Acts::r1, mlp},
  }};
}

constexpr Family llama_family(std::string_view architecture, BiasRule attention, BiasRule output,
                              BiasRule mlp) {
  return {architecture,
          "model.embed_tokens.weight",
          "model.layers.",
          "model.norm.weight",
          "lm_head.weight",
          "input_layernorm",
          "post_attention_layernorm",
          NormKind::rms,
          llama_block(attention, output, mlp)};
}

constexpr std::array known_families = {
    llama_family("LlamaForCausalLM", BiasRule::attention_bias, BiasRule::attention_bias, BiasRule::mlp_bias),
    llama_family("MistralForCausalLM", BiasRule::never, BiasRule::never, BiasRule::never),
};

void check_tensor(Checkpoint const& checkpoint, TensorInfo const& wanted) {
  Tensor const& found = checkpoint.tensor(wanted.name);
  if (!std::equal(found.shape.begin(), found.shape.end(), wanted.shape.begin(), wanted.shape.end())) {
    std::string shape;
    for (index_t const size : wanted.shape)
      shape.append(shape.empty() ? "" : ", ").append(std::to_string(size));
    fail(Kind::format, checkpoint.folder().string(), ": tensor '", wanted.name, "' is ", describe(found),
         ", but config.json asks for [", shape, "]");
  }
  bool const blocks = found.dtype == Dtype::q8_0 || found.dtype == Dtype::q4_0;  // only GGUF has them
  if (found.dtype != Dtype::f32 && found.dtype != Dtype::f16 && found.dtype != Dtype::bf16 && !blocks)
    fail(Kind::unsupported, checkpoint.folder().string(), ": tensor '", wanted.name, "' is ", describe(found),
         "; only F32, F16 and BF16 weights can be read");
}

/// A tensor that the config does not ask for would be left out of the arithmetic in silence: only those known
/// to be without effect may be there.
void check_no_others(Checkpoint const& checkpoint, Family const& family,
                     std::vector<TensorInfo> const& wanted) {
  std::set<std::string_view> known{family.head};  // a tied model may store the matrix twice
  for (TensorInfo const& tensor : wanted) known.insert(tensor.name);
  for (std::string const& name : checkpoint.names())
    if (!known.contains(name) && !name.ends_with("rotary_emb.inv_freq"))
      fail(Kind::unsupported, checkpoint.folder().string(), ": tensor '", name, "' is not part of ",
           family.architecture, " as config.json describes it; is a key such as attention_bias missing?");
}

/// The manifest that `fold` leaves says whether R4 has to run online.
bool manifest_needs_r4(std::filesystem::path const& folder) {
  std::filesystem::path const file = folder / detail::manifest_name;
  if (!std::filesystem::exists(file)) return false;
  detail::Json const manifest = detail::read_json(file);
  bool needed = false;
  for (detail::Json const& name : detail::array_member(manifest, "online_rotations", file.string()))
    needed = needed || detail::to_text(name, "online_rotations", file.string()) == "r4";
  return needed;
}

}  // namespace

std::span<Family const> families() { return known_families; }

Family const& family_of(std::string_view architecture) {
  std::string known;
  for (Family const& family : known_families) {
    if (family.architecture == architecture) return family;
    known.append(known.empty() ? "" : ", ").append(family.architecture);
  }
  fail(Kind::unsupported, "[family_of] architecture '", architecture, "' is not known here (known: ", known,
       ")");
}

namespace detail {

index_t extent_of(ModelConfig const& config, Extent extent) {
  switch (extent) {
    case Extent::hidden:
      return config.hidden;
    case Extent::intermediate:
      return config.intermediate;
    case Extent::query_channels:
      return config.query_channels();
    case Extent::kv_channels:
      return config.kv_channels();
  }
  return 0;
}

bool has_bias(ModelConfig const& config, LinearRule const& rule) {
  return (rule.bias == BiasRule::attention_bias && config.attention_bias) ||
         (rule.bias == BiasRule::mlp_bias && config.mlp_bias);
}

std::string tensor_name(Family const& family, index_t layer, std::string_view part, std::string_view suffix) {
  return sentence(family.layer_prefix, layer, '.', part, suffix);
}

}  // namespace detail

std::vector<TensorInfo> expected_tensors(Family const& family, ModelConfig const& config) {
  std::vector<TensorInfo> tensors;
  auto const add = [&](std::string name, std::vector<index_t> shape) {
    tensors.push_back({std::move(name), config.dtype, std::move(shape)});
  };
  add(std::string(family.embedding), {config.vocabulary, config.hidden});
  for (index_t layer = 0; layer < config.layers; ++layer) {
    for (std::string_view const norm : {family.attention_norm, family.mlp_norm})
      add(detail::tensor_name(family, layer, norm, ".weight"), {config.hidden});
    for (LinearRule const& rule : family.linears) {
      index_t const outputs = detail::extent_of(config, rule.outputs);
      add(detail::tensor_name(family, layer, rule.name, ".weight"),
          {outputs, detail::extent_of(config, rule.inputs)});
      if (detail::has_bias(config, rule))
        add(detail::tensor_name(family, layer, rule.name, ".bias"), {outputs});
    }
  }
  add(std::string(family.final_norm), {config.hidden});
  if (!config.tied_embeddings) add(std::string(family.head), {config.vocabulary, config.hidden});
  return tensors;
}

Model Model::open(std::filesystem::path const& folder, Weights allowed) {
  Model model;
  model.folder_ = folder;
  std::error_code error;
  bool const gguf = std::filesystem::is_regular_file(folder, error) && is_gguf(folder);
  std::filesystem::path const file = gguf ? folder : folder / "config.json";
  if (gguf) {
    detail::GgufModel read = detail::open_gguf(folder);
    model.config_text_ = std::move(read.config_text);
    model.tokenizer_text_ = std::move(read.tokenizer_text);
    model.tokenizer_error_ = std::move(read.tokenizer_error);
    model.checkpoint_ = std::make_shared<Checkpoint const>(std::move(read.tensors));
  } else {
    model.config_text_ = detail::read_file(file, std::size_t{1} << 24);
  }
  std::string text = model.config_text_;
  std::string const quantization =
      allowed == Weights::any ? detail::take_quantization(text, file.string()) : std::string();
  model.config_ = parse_config(text, file.string());
  model.family_ = &family_of(model.config_.architecture);
  if (!gguf) model.checkpoint_ = std::make_shared<Checkpoint const>(folder);
  if (!quantization.empty()) {
    model.quantized_ = std::make_shared<FolderQuantization const>(
        detail::read_quantization(folder, quantization, model.config_));
    detail::check_packed_tensors(model);
    return model;
  }
  std::vector<TensorInfo> const wanted = expected_tensors(*model.family_, model.config_);
  for (TensorInfo const& tensor : wanted) check_tensor(*model.checkpoint_, tensor);
  check_no_others(*model.checkpoint_, *model.family_, wanted);
  model.needs_r4_ = !gguf && manifest_needs_r4(folder);
  return model;
}

bool Model::has_tokenizer() const {
  return tokenizer_text_.has_value() ||
         (tokenizer_error_.empty() && std::filesystem::exists(folder_ / "tokenizer.json"));
}

std::optional<std::string> Model::tokenizer_text() const {
  if (!tokenizer_error_.empty()) throw Error(Kind::unsupported, tokenizer_error_);
  std::filesystem::path const file = folder_ / "tokenizer.json";
  if (tokenizer_text_ || !std::filesystem::exists(file)) return tokenizer_text_;
  return detail::read_file(file, std::size_t{1} << 28);
}

}  // namespace dartquant
