// SPDX-License-Identifier: Apache-2.0
// Writes the files that the fuzzers start from: fuzz_seeds FOLDER makes FOLDER/<parser>/...
#include <array>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <dartquant/io/gguf.hpp>
#include <dartquant/io/npy.hpp>
#include <dartquant/io/safetensors.hpp>
#include <dartquant/model/rotations.hpp>

#include "small_rotations.hpp"

namespace {

namespace fs = std::filesystem;
using namespace dartquant;

/// One tensor of every kind, metadata, a scalar and an empty one.
void write_safetensors(fs::path const& folder) {
  std::vector<TensorInfo> tensors{{"empty", Dtype::i8, {0}}, {"scalar", Dtype::f64, {}}};
  for (int i = 0; i <= static_cast<int>(Dtype::f4); ++i)
    tensors.push_back({std::string(to_string(static_cast<Dtype>(i))), static_cast<Dtype>(i), {2, 4}});
  SafetensorsWriter writer(folder / "all", tensors, {{"format", "pt"}});
  for (TensorInfo const& tensor : tensors)
    writer.append_bytes(tensor.name, std::vector<std::byte>(byte_size(tensor)));
  writer.commit();
  SafetensorsWriter one(folder / "one", {{"w", Dtype::f32, {1}}});
  one.append_bytes("w", std::array<std::byte, 4>{});
  one.commit();
}

void write_npy_files(fs::path const& folder) {
  write_npy(folder / "integers", std::vector<std::int32_t>{1, -2, 3});
  write_npy(folder / "matrix", RowMatrix<float>(RowMatrix<float>::Ones(2, 3)));
}

void write_indices(fs::path const& folder) {
  std::ofstream(folder / "whole")
      << R"({"metadata":{"total_size":32},"weight_map":{"a":"model-a.safetensors",)"
      << R"("a2":"model-a.safetensors","b":"model-b.safetensors","b2":"model-b.safetensors"}})";
  std::ofstream(folder / "escape") << R"({"weight_map":{"a":"..\/model-a.safetensors","b":{}}})";
}

/// Both kinds of quantization_config.
void write_packed(fs::path const& folder) {
  std::ofstream(folder / "native")
      << R"({"quantization_config":{"quant_method":"dartquant","layout":1,"online_r3":true,)"
      << R"("weights":{"bits":4,"group":8,"symmetric":true,"sums":false},)"
      << R"("activations":{"bits":8,"symmetric":false,"clip":1.0,"o_proj_per_head":false},"kv_cache":{"bits":4,"clip":0.9}}})";
  std::ofstream(folder / "compressed")
      << R"({"quantization_config":{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"group_0":)"
      << R"({"targets":["Linear"],"weights":{"num_bits":4,"symmetric":true,"strategy":"group","group_size":32},)"
      << R"("input_activations":{"num_bits":8,"symmetric":true}}},"transform_config":{"config_groups":{"R4":{"type":"hadamard",)"
      << R"("head_dim":4,"apply":[{"targets":["re:.*down_proj$"],"location":"input"}]}}}}})";
}

/// A model of one layer with a tokenizer of either kind.
void write_gguf(fs::path const& file, std::string const& tokenizer) {
  using Texts = std::vector<std::string>;
  std::vector<GgufEntry> entries{{"general.architecture", std::string("llama")},
                                 {"llama.block_count", std::uint32_t{1}},
                                 {"llama.context_length", std::uint32_t{16}},
                                 {"llama.embedding_length", std::uint32_t{8}},
                                 {"llama.feed_forward_length", std::uint32_t{8}},
                                 {"llama.attention.head_count", std::uint32_t{2}},
                                 {"llama.attention.layer_norm_rms_epsilon", 1e-5f},
                                 {"tokenizer.ggml.model", tokenizer},
                                 {"tokenizer.ggml.pre", std::string("gpt-2")},
                                 {"tokenizer.ggml.tokens", Texts{"<s>", "a", "b", "ab"}},
                                 {"tokenizer.ggml.token_type", std::vector<std::int32_t>{3, 1, 1, 1}},
                                 {"tokenizer.ggml.scores", std::vector<float>{0, -2, -2, -1}},
                                 {"tokenizer.ggml.merges", Texts{"a b"}},
                                 {"tokenizer.ggml.bos_token_id", std::uint32_t{0}},
                                 {"tokenizer.ggml.add_bos_token", true}};
  std::vector<TensorInfo> tensors{{"token_embd.weight", Dtype::f16, {4, 8}},
                                  {"output_norm.weight", Dtype::f32, {8}},
                                  {"rope_freqs.weight", Dtype::f32, {2}}};
  for (char const* const norm : {"attn_norm", "ffn_norm"})
    tensors.push_back({std::string("blk.0.") + norm + ".weight", Dtype::f32, {8}});
  for (char const* const map :
       {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"})
    tensors.push_back({std::string("blk.0.") + map + ".weight", Dtype::bf16, {8, 8}});
  if (tokenizer == "gpt2") tensors.erase(tensors.begin() + 2);
  GgufWriter writer(file, entries, tensors);
  for (TensorInfo const& tensor : tensors)
    writer.append_bytes(tensor.name, std::vector<std::byte>(byte_size(tensor)));
  writer.commit();
  GgufWriter blocks(file.string() + "-blocks", {},
                    {{"a", Dtype::q8_0, {1, 32}}, {"b", Dtype::q4_0, {1, 32}}});
  blocks.append_bytes("a", std::array<std::byte, 34>{});
  blocks.append_bytes("b", std::array<std::byte, 18>{});
  blocks.commit();
}

/// config.json files are their own seeds, and so are the tokenizers of the tests.
void copy_files(fs::path const& from, std::string const& extension, fs::path const& folder) {
  for (fs::directory_entry const& entry : fs::recursive_directory_iterator(from))
    if (entry.path().filename().string().ends_with(extension) && entry.file_size() < 100'000)
      fs::copy_file(entry.path(), folder / (std::to_string(entry.file_size()) + ".json"),
                    fs::copy_options::overwrite_existing);
}

}  // namespace

int main(int count, char** arguments) try {
  if (count != 2) return 2;
  fs::path const root = arguments[1];
  for (char const* parser :
       {"safetensors", "npy", "index", "config", "rotations", "packed", "tokenizer", "gguf"})
    fs::create_directories(root / parser);
  write_safetensors(root / "safetensors");
  write_npy_files(root / "npy");
  for (std::string const tokenizer : {"llama", "gpt2"}) write_gguf(root / "gguf" / tokenizer, tokenizer);
  write_indices(root / "index");
  copy_files(DARTQUANT_EXAMPLE_DATA, "config.json", root / "config");
  std::ofstream(root / "config" / "scaled")
      << R"({"architectures":["LlamaForCausalLM"],"hidden_size":8,"intermediate_size":16,"num_hidden_layers":1,)"
      << R"("num_attention_heads":2,"num_key_value_heads":1,"vocab_size":32,"max_position_embeddings":64,)"
      << R"("rms_norm_eps":1e-5,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,)"
      << R"("high_freq_factor":4.0,"original_max_position_embeddings":32},"attention_bias":true,"head_dim":4})";
  copy_files(DARTQUANT_TEST_DATA "/tokenizer", ".json", root / "tokenizer");
  write_packed(root / "packed");
  save_rotations(fuzz::small_rotations(), root / "rotations" / "all");
  return 0;
} catch (std::exception const& error) {
  std::fprintf(stderr, "fuzz_seeds: %s\n", error.what());
  return 1;
}
