// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/architecture.hpp>

#include <string>

#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  std::size_t const place = text.find(from);
  REQUIRE(place != std::string::npos);
  return text.replace(place, from.size(), to);
}

/// The synthetic config with one key changed, or (empty value) removed.
ModelConfig parse_with(std::string_view from, std::string_view to) {
  return parse_config(replaced(config_of({}), from, to));
}

}  // namespace

TEST_CASE("config.json gives every number that the arithmetic needs", "[config]") {
  ModelConfig const config =
      parse_config(config_of({.tied = true, .attention_bias = true, .dtype = Dtype::bf16}));
  REQUIRE(config.architecture == "LlamaForCausalLM");
  REQUIRE(config.hidden == 32);
  REQUIRE(config.intermediate == 48);
  REQUIRE(config.layers == 2);
  REQUIRE(config.heads == 4);
  REQUIRE(config.kv_heads == 2);
  REQUIRE(config.head_dim == 8);
  REQUIRE(config.vocabulary == 64);
  REQUIRE(config.positions == 64);
  REQUIRE(config.norm_epsilon == 1e-5);
  REQUIRE(config.rope_theta == 10000.0);
  REQUIRE(config.tied_embeddings);
  REQUIRE(config.attention_bias);
  REQUIRE_FALSE(config.mlp_bias);
  REQUIRE(config.dtype == Dtype::bf16);
}

TEST_CASE("absent keys take the defaults of the format", "[config]") {
  ModelConfig const config = parse_with(", \"num_key_value_heads\": 2, \"head_dim\": 8", "");
  REQUIRE(config.kv_heads == 4);
  REQUIRE(config.head_dim == 8);
  REQUIRE(parse_with(", \"torch_dtype\": \"float32\"", "").dtype == Dtype::f32);
  REQUIRE(parse_with("torch_dtype\": \"float32\"", "dtype\": \"float16\"").dtype == Dtype::f16);
}

TEST_CASE("a sliding window limits the positions", "[config]") {
  REQUIRE(parse_config(
              config_of({.architecture = "MistralForCausalLM", .more_config = ", \"sliding_window\": 16"}))
              .positions == 16);
  REQUIRE(parse_config(
              config_of({.architecture = "MistralForCausalLM", .more_config = ", \"sliding_window\": null"}))
              .positions == 64);
}

TEST_CASE("rope_scaling is read in its old and its new place", "[config]") {
  ModelConfig const linear =
      parse_config(config_of({.more_config = ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}"}));
  REQUIRE(linear.rope_scaling.kind == RopeScaling::Kind::linear);
  REQUIRE(linear.rope_scaling.factor == 2.0);
  ModelConfig const llama3 = parse_config(config_of(
      {.more_config =
           ", \"rope_parameters\": {\"rope_theta\": 5e5, \"rope_type\": \"llama3\", \"factor\": 8.0, "
           "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
           "\"original_max_position_embeddings\": 8192}"}));
  REQUIRE(llama3.rope_scaling.kind == RopeScaling::Kind::llama3);
  REQUIRE(llama3.rope_theta == 5e5);
  REQUIRE(llama3.rope_scaling.original_positions == 8192);
  REQUIRE_ERROR(
      parse_config(config_of({.more_config = ", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2.0}"})),
      unsupported, "yarn");
}

TEST_CASE("a config that cannot be run is refused in one sentence", "[config][bad]") {
  REQUIRE_ERROR(parse_config(config_of({.architecture = "GPT2LMHeadModel"})), unsupported,
                "known: LlamaForCausalLM, MistralForCausalLM");
  REQUIRE_ERROR(parse_with(", \"hidden_size\": 32", ""), format, "hidden_size");
  REQUIRE_ERROR(parse_with("\"hidden_size\": 32", "\"hidden_size\": -32"), format, "hidden_size");
  REQUIRE_ERROR(parse_with("\"hidden_size\": 32", "\"hidden_size\": \"32\""), format, "hidden_size");
  REQUIRE_ERROR(parse_with("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"), format, "3");
  REQUIRE_ERROR(parse_with("\"head_dim\": 8", "\"head_dim\": 7"), format, "head_dim 7 is odd");
  REQUIRE_ERROR(parse_with("silu", "gelu"), unsupported, "gelu");
  REQUIRE_ERROR(parse_with("float32", "float8"), unsupported, "float8");
  REQUIRE_ERROR(parse_with("1e-05", "0"), format, "rms_norm_eps");
  REQUIRE_ERROR(parse_with("]", ", \"x\"]"), format, "architectures");
  REQUIRE_ERROR(parse_config("{"), format, "config.json");
  REQUIRE_ERROR(parse_config(""), format, "config.json");
  REQUIRE_ERROR(parse_config("[]"), format, "config.json");
  REQUIRE_ERROR(parse_config(std::string(1000, '[')), format, "config.json");
  REQUIRE_ERROR(parse_config(config_of({.more_config = ", \"hidden_size\": 64"})), format, "twice");
  REQUIRE_ERROR(parse_config(config_of({.more_config = ", \"x\": \"\xFF\""})), format, "config.json");
  // A few bytes of config must not make a list of a billion tensors, nor sizes whose products wrap.
  REQUIRE_ERROR(parse_config(config_of({.layers = 1'000'000'000})), format, "num_hidden_layers");
  REQUIRE_ERROR(parse_config(config_of({.hidden = index_t{1} << 40})), format, "hidden_size");
  REQUIRE_ERROR(parse_config(config_of({.vocabulary = index_t{1} << 33})), format, "vocab_size");
  REQUIRE_ERROR(parse_with("\"hidden_size\": 32", "\"hidden_size\": 1e1"), format, "hidden_size");
  REQUIRE_ERROR(parse_with("\"hidden_size\": 32", "\"hidden_size\": 99999999999999999999"), format,
                "hidden_size");
  REQUIRE_ERROR(parse_with("1e-05", "1e999"), format, "config.json");
  REQUIRE_ERROR(parse_config(config_of({.more_config = ", \"quantization_config\": {\"bits\": 4}"})),
                unsupported, "quantization_config");
  REQUIRE_ERROR(parse_config(config_of({.more_config = ", \"partial_rotary_factor\": 0.5"})), unsupported,
                "0.5");
}

TEST_CASE("parameters are counted with biases and ties", "[config]") {
  for (bool const tied : {false, true}) {
    SyntheticModel const model{.tied = tied, .attention_bias = true, .mlp_bias = true};
    index_t values = 0;
    for (TensorInfo const& info : tensors_of(model))
      values += info.shape[0] * (info.shape.size() == 2 ? info.shape[1] : 1);
    REQUIRE(parse_config(config_of(model)).parameters() == values);
  }
}

TEST_CASE("the row of a family names every tensor of a checkpoint", "[architecture]") {
  SyntheticModel const model{.attention_bias = true, .mlp_bias = true};
  ModelConfig const config = parse_config(config_of(model));
  std::map<std::string, std::vector<index_t>> wanted, found;
  for (TensorInfo const& info : tensors_of(model)) wanted[info.name] = info.shape;
  for (TensorInfo const& info : expected_tensors(family_of(config.architecture), config))
    found[info.name] = info.shape;
  REQUIRE(wanted == found);
  for (Family const& family : families())
    for (std::size_t i = 0; i < linear_count; ++i)
      REQUIRE(family.linears[i].linear == static_cast<Linear>(i));
}

TEST_CASE("a model whose tensors do not fit its config is refused", "[architecture][bad]") {
  TemporaryFolder const folder;
  write_synthetic(folder / "good", {});
  REQUIRE(Model::open(folder / "good").config().hidden == 32);
  REQUIRE_FALSE(Model::open(folder / "good").needs_r4());
  auto const with_config = [&](std::string const& text) {
    write_bytes(folder / "good/config.json", text);
    return Model::open(folder / "good");
  };
  REQUIRE_ERROR(
      with_config(replaced(config_of({}), "\"intermediate_size\": 48", "\"intermediate_size\": 40")), format,
      "config.json asks for [40, 32]");
  REQUIRE_ERROR(with_config(config_of({.layers = 3})), format, "model.layers.2.");
  REQUIRE_ERROR(with_config(config_of({.layers = 1})), unsupported, "model.layers.1.");
  REQUIRE_ERROR(with_config(config_of({.attention_bias = true})), format, "bias");
  write_synthetic(folder / "biased", {.attention_bias = true});
  write_bytes(folder / "biased/config.json", config_of({}));
  REQUIRE_ERROR(Model::open(folder / "biased"), unsupported, "attention_bias");
  write_synthetic(folder / "integers", {.dtype = Dtype::f64});
  REQUIRE_ERROR(Model::open(folder / "integers"), unsupported, "F64");
  REQUIRE_ERROR(Model::open(folder / "nothing"), io, "nothing");
}
