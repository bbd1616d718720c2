// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/random.hpp>
#include <dartquant/io/checkpoint.hpp>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

namespace dartquant::test {

/// A small random Llama: any shape, with a few residual channels that carry outliers, as in large models.
struct SyntheticModel {
  std::string architecture = "LlamaForCausalLM";
  index_t hidden = 32, intermediate = 48, layers = 2, heads = 4, kv_heads = 2, head_dim = 8, vocabulary = 64,
          positions = 64;
  bool tied = false, attention_bias = false, mlp_bias = false, equal_layers = false;
  Dtype dtype = Dtype::f32;
  std::uint64_t shard_bytes = 5'000'000'000, seed = 1;
  std::string more_config{};  ///< further members of config.json, such as `, "rope_scaling": {...}`
  std::function<void(std::string const& name, RowMatrix<float>& values)> edit{};  ///< of every tensor
};

inline std::string config_of(SyntheticModel const& model) {
  auto const flag = [](bool value) { return value ? "true" : "false"; };
  auto const number = [](index_t value) { return std::to_string(value); };
  std::string const dtype = model.dtype == Dtype::f16    ? "float16"
                            : model.dtype == Dtype::bf16 ? "bfloat16"
                                                         : "float32";
  std::string text = "{\"architectures\": [\"";
  text += model.architecture +
          "\"], \"model_type\": \"llama\", \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-05";
  text += ", \"rope_theta\": 10000.0, \"hidden_size\": " + number(model.hidden);
  text += ", \"intermediate_size\": " + number(model.intermediate);
  text += ", \"num_hidden_layers\": " + number(model.layers);
  text += ", \"num_attention_heads\": " + number(model.heads);
  text +=
      ", \"num_key_value_heads\": " + number(model.kv_heads) + ", \"head_dim\": " + number(model.head_dim);
  text += ", \"vocab_size\": " + number(model.vocabulary);
  text += ", \"max_position_embeddings\": " + number(model.positions);
  text += std::string(", \"tie_word_embeddings\": ") + flag(model.tied);
  text += std::string(", \"attention_bias\": ") + flag(model.attention_bias);
  text += std::string(", \"mlp_bias\": ") + flag(model.mlp_bias) + ", \"torch_dtype\": \"" + dtype + "\"";
  return text + model.more_config + "}\n";
}

/// Names and shapes, written down a second time on purpose: the tests do not trust the library's own list.
inline std::vector<TensorInfo> tensors_of(SyntheticModel const& m) {
  index_t const q = m.heads * m.head_dim, kv = m.kv_heads * m.head_dim;
  std::vector<TensorInfo> tensors{{"model.embed_tokens.weight", m.dtype, {m.vocabulary, m.hidden}}};
  for (index_t layer = 0; layer < m.layers; ++layer) {
    std::string const prefix = "model.layers." + std::to_string(layer) + ".";
    auto const linear = [&](std::string const& name, index_t out, index_t in, bool bias) {
      tensors.push_back({prefix + name + ".weight", m.dtype, {out, in}});
      if (bias) tensors.push_back({prefix + name + ".bias", m.dtype, {out}});
    };
    tensors.push_back({prefix + "input_layernorm.weight", m.dtype, {m.hidden}});
    linear("self_attn.q_proj", q, m.hidden, m.attention_bias);
    linear("self_attn.k_proj", kv, m.hidden, m.attention_bias);
    linear("self_attn.v_proj", kv, m.hidden, m.attention_bias);
    linear("self_attn.o_proj", m.hidden, q, m.attention_bias);
    tensors.push_back({prefix + "post_attention_layernorm.weight", m.dtype, {m.hidden}});
    linear("mlp.gate_proj", m.intermediate, m.hidden, m.mlp_bias);
    linear("mlp.up_proj", m.intermediate, m.hidden, m.mlp_bias);
    linear("mlp.down_proj", m.hidden, m.intermediate, m.mlp_bias);
  }
  tensors.push_back({"model.norm.weight", m.dtype, {m.hidden}});
  if (!m.tied) tensors.push_back({"lm_head.weight", m.dtype, {m.vocabulary, m.hidden}});
  return tensors;
}

/// Gaussian weights of unit gain, gains about 1, small biases; three embedding channels are 6 times larger.
inline RowMatrix<float> synthetic_values(SyntheticModel const& model, TensorInfo const& info,
                                         std::uint64_t stream) {
  Philox const random(model.seed, stream);
  index_t const rows = info.shape.size() == 2 ? info.shape[0] : 1, cols = info.shape.back();
  bool const norm = info.name.find("norm") != std::string::npos, bias = info.name.ends_with("bias");
  double const scale = norm   ? 0.3
                       : bias ? 0.1
                       : info.name.find("embed") != std::string::npos
                           ? 1.0
                           : 1.0 / std::sqrt(static_cast<double>(cols));
  RowMatrix<float> values(rows, cols);
  for (index_t i = 0; i < values.size(); ++i)
    values.data()[i] =
        static_cast<float>((norm ? 1.0 : 0.0) + scale * random.normal(static_cast<std::uint64_t>(i)));
  if (info.name.find("embed") != std::string::npos)
    for (index_t const channel : {index_t{1}, cols / 2, cols - 2}) values.col(channel) *= 6.0f;
  return values;
}

/// Writes config.json and the weights; returns the folder.
inline std::filesystem::path write_synthetic(std::filesystem::path const& folder,
                                             SyntheticModel const& model) {
  CheckpointWriter::Options options;
  options.shard_bytes = model.shard_bytes;
  std::vector<TensorInfo> const tensors = tensors_of(model);
  CheckpointWriter writer(folder, tensors, options);
  std::uint64_t stream = 0;
  std::size_t const per_layer =
      (tensors.size() - (model.tied ? 2 : 3)) / static_cast<std::size_t>(std::max<index_t>(1, model.layers));
  for (TensorInfo const& info : tensors) {
    bool const layer = info.name.starts_with("model.layers.");
    std::uint64_t const used = model.equal_layers && layer ? 1 + (stream - 1) % per_layer : stream;
    RowMatrix<float> values = synthetic_values(model, info, used);
    if (model.edit) model.edit(info.name, values);
    writer.append(info.name, MatrixView<float const>(values));
    ++stream;
  }
  writer.commit();
  std::ofstream(folder / "config.json") << config_of(model);
  return folder;
}

}  // namespace dartquant::test
