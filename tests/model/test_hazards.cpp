// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/pipeline.hpp>
#include <dartquant/transform/rotation.hpp>

#include <nlohmann/json.hpp>

#include <fstream>
#include <string>
#include <vector>

#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

// What goes wrong when rotations are folded into models that are not quite Llama, one test for each.
namespace {

fs::path family(std::string const& name) { return fs::path(DARTQUANT_TEST_DATA) / "families" / name; }

TokenWindows tokens() { return some_tokens(2, 24, 96); }

/// The model with all that can be folded, in F32.
Model folded(Cpu const& cpu, Model const& model, fs::path const& folder,
             RotationSet set = {.r1 = true, .r2 = true}) {
  Rotations rotations;
  if (set.r1 || set.r2)
    rotations =
        calibrate(cpu, model, tokens(), {.method = Method::quarot, .rotations = set, .seed = 5}).rotations;
  FoldOptions options;
  options.rotations = set;
  options.dtype = Dtype::f32;
  static_cast<void>(fold(cpu, model, rotations, folder, options));
  return Model::open(folder);
}

double change(Cpu const& cpu, Model const& a, Model const& b) {
  return relative_difference(logits(cpu, b, tokens()), logits(cpu, a, tokens()));
}

RowMatrix<double> read(Model const& model, std::string const& name) {
  return model.checkpoint().read_matrix<double>(name);
}

nlohmann::json config_of_folder(fs::path const& folder) {
  return nlohmann::json::parse(std::ifstream(folder / "config.json"));
}

/// A copy of a family's folder with some keys of its config.json changed.
fs::path changed(std::string const& name, fs::path const& to, nlohmann::json const& keys) {
  fs::copy(family(name), to);
  nlohmann::json config = config_of_folder(to);
  config.update(keys);
  std::ofstream(to / "config.json") << config.dump();
  return to;
}

}  // namespace

TEST_CASE("tied embeddings are untied before the final gain is folded", "[hazard]") {
  Cpu const cpu(2);
  TemporaryFolder const scratch;
  Model const model = Model::open(family("qwen2"));
  REQUIRE(model.config().tied_embeddings);
  Model const out = folded(cpu, model, scratch / "out");
  CHECK(config_of_folder(scratch / "out")["tie_word_embeddings"] == false);
  CHECK_FALSE(read(out, "lm_head.weight").isApprox(read(out, "model.embed_tokens.weight"), 1e-3));
  CHECK(change(cpu, model, out) < 1e-4);
}

TEST_CASE("no norm before a linear map keeps a gain, the final one included", "[hazard]") {
  TemporaryFolder const scratch;
  Model const out = folded(Cpu(2), Model::open(family("mistral")), scratch / "out");
  for (std::string const name : {"model.norm.weight", "model.layers.0.input_layernorm.weight",
                                 "model.layers.1.post_attention_layernorm.weight"})
    CHECK((read(out, name).array() == 1).all());
}

TEST_CASE("norms after the attention and the MLP refuse R1 with the reason", "[hazard]") {
  Cpu const cpu(2);
  TemporaryFolder const scratch;
  for (std::string const name : {"gemma2", "gemma3"}) {
    Model const model = Model::open(family(name));
    Rotations const rotations{haar_rotation(model.config().hidden, 1), {}};
    REQUIRE_INVALID(fold(cpu, model, rotations, scratch / "out", {.rotations = {.r1 = true}}),
                    "post_attention_layernorm multiplies");
    ForwardOptions options;
    options.rotations = &rotations;
    options.active.r1 = true;
    REQUIRE_INVALID(logits(cpu, model, tokens(), options), "R1 cannot act in Gemma");
    ModelCalibration const found = calibrate(cpu, model, tokens(), {.method = Method::quarot});
    CHECK(found.rotations.r1.size() == 0);
    CHECK(found.rotations.r2.size() == 2);
    CHECK(found.notes.front().find("there is no R1") != std::string::npos);
    CHECK(change(cpu, model, folded(cpu, model, scratch / name, {.r2 = true, .r4 = true})) < 1e-4);
  }
}

TEST_CASE("a gain 1 + w is folded to a stored 0", "[hazard]") {
  TemporaryFolder const scratch;
  Model const model = Model::open(family("gemma3"));
  Model const out = folded(Cpu(2), model, scratch / "out", {.r2 = true});
  CHECK((read(out, "model.layers.0.input_layernorm.weight").array() == 0).all());
  CHECK((read(out, "model.norm.weight").array() == 0).all());
  for (std::string const kept :
       {"post_attention_layernorm", "post_feedforward_layernorm", "self_attn.q_norm"})
    CHECK(read(out, "model.layers.0." + kept + ".weight") ==
          read(model, "model.layers.0." + kept + ".weight"));
}

TEST_CASE("the bias of v turns with R2, those of o and down with R1", "[hazard]") {
  Cpu const cpu(2);
  TemporaryFolder const scratch;
  for (std::string const name : {"qwen2", "opt"}) {  // v; v, o and down
    Model const model = Model::open(family(name));
    CHECK(change(cpu, model, folded(cpu, model, scratch / (name + "1"), {.r1 = true})) < 1e-4);
    Model const out = folded(cpu, model, scratch / (name + "2"), {.r2 = true});
    CHECK(change(cpu, model, out) < 1e-4);
    std::string const v = std::string(model.family().layer_prefix) + "0.self_attn.v_proj.bias";
    CHECK_FALSE(read(out, v).isApprox(read(model, v), 1e-3));
  }
}

TEST_CASE("fused q, k, v and gate, up are split, rotated each for itself, and written fused", "[hazard]") {
  Cpu const cpu(2);
  TemporaryFolder const scratch;
  Model const model = Model::open(family("phi3"));
  Model const out = folded(cpu, model, scratch / "out");
  CHECK(out.checkpoint().contains("model.layers.0.self_attn.qkv_proj.weight"));
  CHECK_FALSE(out.checkpoint().contains("model.layers.0.self_attn.v_proj.weight"));
  CHECK(change(cpu, model, out) < 1e-4);
  // R2 turns the rows of v, which are the last ones, and no others.
  Model const turned = folded(cpu, model, scratch / "r2", {.r2 = true}),
              plain = folded(cpu, model, scratch / "none", {});
  std::string const qkv = "model.layers.0.self_attn.qkv_proj.weight";
  index_t const queries_and_keys = model.config().query_channels() + model.config().kv_channels();
  CHECK(read(turned, qkv).topRows(queries_and_keys) == read(plain, qkv).topRows(queries_and_keys));
  CHECK_FALSE(read(turned, qkv).isApprox(read(plain, qkv), 1e-3));
}

TEST_CASE("one R2 per KV head serves all query heads that share it", "[hazard]") {
  Cpu const cpu(2);
  TemporaryFolder const scratch;
  Model const model = Model::open(family("mistral"));
  REQUIRE(model.config().heads == 2 * model.config().kv_heads);
  CHECK(change(cpu, model, folded(cpu, model, scratch / "out", {.r2 = true})) < 1e-4);
}

TEST_CASE("head_dim is not hidden / heads", "[hazard]") {
  Cpu const cpu(2);
  TemporaryFolder const scratch;
  Model const model = Model::open(family("qwen3"));
  REQUIRE(model.config().head_dim * model.config().heads != model.config().hidden);
  CHECK(change(cpu, model, folded(cpu, model, scratch / "out")) < 1e-4);
}

TEST_CASE("the router of a mixture turns with R1, and stays in full precision", "[hazard]") {
  Cpu const cpu(2);
  TemporaryFolder const scratch;
  for (auto const& [name, router] : {std::pair<std::string, std::string>{"mixtral", "block_sparse_moe.gate"},
                                     {"qwen2_moe", "mlp.gate"},
                                     {"deepseek", "mlp.gate"}}) {
    INFO(name);
    Model const model = Model::open(family(name));
    Model const out = folded(cpu, model, scratch / name);
    std::string const tensor = "model.layers.1." + router + ".weight";
    CHECK_FALSE(read(out, tensor).isApprox(read(model, tensor), 1e-3));
    CHECK(change(cpu, model, out) < 1e-4);
    FoldOptions options;
    options.dtype = Dtype::f32;
    options.rotations = {};
    options.weights.bits = 2;
    static_cast<void>(fold(cpu, model, {}, scratch / (name + "2"), options));
    options.weights.bits = 16;
    static_cast<void>(fold(cpu, model, {}, scratch / (name + "16"), options));
    CHECK(read(Model::open(scratch / (name + "2")), tensor) ==
          read(Model::open(scratch / (name + "16")), tensor));
  }
}

TEST_CASE("experts without tokens are reported and rounded all the same", "[hazard]") {
  Cpu const cpu(2);
  Model const model = Model::open(family("qwen3_moe"));
  TokenWindows const text = TokenWindows::Constant(1, 2, 7);  // 2 tokens choose 2 of 4 experts each
  ForwardOptions options;
  options.gains = NormGains::folded;
  options.quantization.scheme = {.weights = 4};
  options.quantization.weight_rounding = WeightRounding::gptq;
  options.hessian_windows = &text;
  Evaluation const found = evaluate(cpu, model, text, options);
  std::string notes;
  for (std::string const& note : found.notes) notes += note + "\n";
  INFO(notes);
  CHECK(notes.find("inputs of experts were given no token of the text") != std::string::npos);
  CHECK(notes.find("were given no token of this text") != std::string::npos);
  CHECK(std::isfinite(found.nll));
}

TEST_CASE("the mean of embeddings stays with RMSNorm and goes with LayerNorm", "[hazard]") {
  Cpu const cpu(2);
  TemporaryFolder const scratch;
  Model const rms = folded(cpu, Model::open(family("mistral")), scratch / "mistral"),
              layer = folded(cpu, Model::open(family("opt")), scratch / "opt");
  auto const largest_mean = [](Model const& model) {
    return read(model, std::string(model.family().embedding)).rowwise().mean().cwiseAbs().maxCoeff();
  };
  CHECK(largest_mean(rms) > 1e-2);
  CHECK(largest_mean(layer) < 1e-6);
}

TEST_CASE("R1 of a model with LayerNorm keeps the direction of equal channels", "[hazard]") {
  Cpu const cpu(2);
  TemporaryFolder const scratch;
  Model const model = Model::open(family("opt"));
  RowMatrix<double> const R =
      calibrate(cpu, model, tokens(), {.method = Method::dartquant, .rotations = {.r1 = true}}).rotations.r1;
  CHECK((R.rowwise().sum().array() - 1).abs().maxCoeff() < 1e-9);
  CHECK(orthogonality_ratio(R) < 30);
  Rotations const other{haar_rotation(32, 1), {}};
  REQUIRE_INVALID(fold(cpu, model, other, scratch / "out", {.rotations = {.r1 = true}}), "equal channels");
  ForwardOptions options;  // in memory any rotation will do
  options.rotations = &other;
  options.active.r1 = true;
  CHECK(relative_difference(logits(cpu, model, tokens(), options), logits(cpu, model, tokens())) < 1e-4);
}

TEST_CASE("folding is done in double and rounded once", "[hazard]") {
  Cpu const cpu(2);
  TemporaryFolder const scratch;
  Model const model = Model::open(family("llama"));  // BF16 weights
  Rotations const rotations = calibrate(cpu, model, tokens(), {.method = Method::quarot}).rotations;
  for (Dtype const dtype : {Dtype::f32, Dtype::bf16})
    static_cast<void>(fold(cpu, model, rotations, scratch / std::string(to_string(dtype)), {.dtype = dtype}));
  Model const exact = Model::open(scratch / "F32"), rounded = Model::open(scratch / "BF16");
  std::string const name = "model.layers.1.mlp.down_proj.weight";
  RowMatrix<double> const a = read(exact, name), b = read(rounded, name);
  CHECK(((a - b).array().abs() <= a.array().abs() / 255).all());  // half a unit of 8 bits
  CHECK(change(cpu, model, rounded) < 0.05);
}

TEST_CASE("lm_head is not quantized", "[hazard]") {
  Cpu const cpu(2);
  TemporaryFolder const scratch;
  Model const model = Model::open(family("mistral"));
  FoldOptions options;
  options.dtype = Dtype::f32;
  static_cast<void>(fold(cpu, model, {}, scratch / "16", options));
  options.weights.bits = 2;
  static_cast<void>(fold(cpu, model, {}, scratch / "2", options));
  CHECK(read(Model::open(scratch / "2"), "lm_head.weight") ==
        read(Model::open(scratch / "16"), "lm_head.weight"));
}

TEST_CASE("layers that no forward pass runs are refused, not left out", "[hazard]") {
  TemporaryFolder const scratch;  // such as the layers for multi-token prediction behind the last one
  REQUIRE_ERROR(Model::open(changed("qwen3_moe", scratch / "mtp", {{"num_hidden_layers", 1}})), unsupported,
                "model.layers.1.");
}

TEST_CASE("what a family has and is not supported is one sentence", "[hazard][bad]") {
  TemporaryFolder const scratch;
  auto const open = [&](std::string const& name, nlohmann::json const& keys) {
    static int count = 0;
    return Model::open(changed(name, scratch / std::to_string(count++), keys));
  };
  REQUIRE_ERROR(open("opt", {{"do_layer_norm_before", false}}), unsupported, "do_layer_norm_before");
  REQUIRE_ERROR(open("opt", {{"word_embed_proj_dim", 16}}), unsupported, "word_embed_proj_dim 16");
  REQUIRE_ERROR(open("opt", {{"activation_function", "gelu"}}), unsupported, "gelu");
  REQUIRE_ERROR(open("gemma3", {{"use_bidirectional_attention", true}}), unsupported,
                "use_bidirectional_attention");
  REQUIRE_ERROR(open("gemma3", {{"layer_types", {"sliding_attention"}}}), format, "layer_types");
  REQUIRE_ERROR(open("gemma3", {{"layer_types", {"sliding_attention", "linear_attention"}}}), unsupported,
                "linear_attention");
  REQUIRE_ERROR(open("deepseek", {{"scoring_func", "sigmoid"}}), unsupported, "sigmoid");
  REQUIRE_ERROR(open("mixtral", {{"num_experts_per_tok", 5}}), format, "num_experts_per_tok");
  REQUIRE_ERROR(open("mixtral", {{"num_local_experts", 1 << 20}}), unsupported, "experts");
  REQUIRE_ERROR(open("mixtral", {{"num_local_experts", 3}}), format, "block_sparse_moe.gate.weight");
  REQUIRE_ERROR(open("deepseek", {{"n_shared_experts", -1}}), format, "n_shared_experts");
  nlohmann::json rope = config_of_folder(family("phi4"))["rope_parameters"];
  rope["long_factor"] = {1.0, 2.0};
  REQUIRE_ERROR(open("phi4", {{"rope_parameters", rope}}), format, "long_factor");
  rope["partial_rotary_factor"] = 1.5;
  REQUIRE_ERROR(open("phi4", {{"rope_parameters", rope}}), format, "partial_rotary_factor");
  REQUIRE_ERROR(open("llama", {{"rope_parameters", {{"rope_type", "yarn"}, {"factor", 2.0}}}}), unsupported,
                "yarn");
}
