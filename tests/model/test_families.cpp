// SPDX-License-Identifier: Apache-2.0
#include <dartquant/core/compiled_kernels.hpp>
#include <dartquant/model/pipeline.hpp>
#include <dartquant/model/quantized_folder.hpp>
#include <dartquant/transform/rotation.hpp>

#include <string>
#include <vector>

#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

// Tiny random models of every family with the logits that transformers gives: tests/data/families/make.py.
namespace {

struct Sample {
  Model model;
  TokenWindows ids;
  RowMatrix<float> logits;
};

fs::path folder_of(std::string const& name) { return fs::path(DARTQUANT_TEST_DATA) / "families" / name; }

Sample sample_of(std::string const& name) {
  SafetensorsFile const file(folder_of(name) / "reference.safetensors");
  std::vector<std::int64_t> const ids = file.read_integers(*file.find("input_ids"));
  TokenWindows window(1, static_cast<index_t>(ids.size()));
  for (std::size_t i = 0; i < ids.size(); ++i) window.data()[i] = static_cast<std::int32_t>(ids[i]);
  return {Model::open(folder_of(name)), window, file.read_matrix<float>(*file.find("logits"))};
}

std::vector<std::string> const names{"llama",  "mistral", "qwen2",     "qwen3",     "phi3",
                                     "phi4",   "mixtral", "qwen2_moe", "qwen3_moe", "deepseek",
                                     "gemma2", "gemma3",  "opt"};

bool has_r1(Model const& model) {
  return rotation_support(model.family()).r1.how == RotationSupport::How::folded;
}

/// Random R1 where the family takes it, and R2.
Rotations rotations_of(Cpu const& cpu, Sample const& sample) {
  ModelCalibrationOptions options;
  options.method = Method::quarot;
  options.seed = 3;
  Rotations found = calibrate(cpu, sample.model, sample.ids, options).rotations;
  CHECK((found.r1.size() != 0) == has_r1(sample.model));
  return found;
}

}  // namespace

TEST_CASE("logits of every family are those of transformers", "[families]") {
  Cpu const cpu(2);
  for (std::string const& name : names) {
    INFO(name);
    Sample const sample = sample_of(name);
    CHECK(relative_difference(logits(cpu, sample.model, sample.ids), sample.logits) < 1e-4);
    CHECK(relative_difference(logits(cpu, sample.model, sample.ids, {.gains = NormGains::folded}),
                              sample.logits) < 1e-4);
  }
}

TEST_CASE("rotations of every family change nothing, in memory and in a folder", "[families][fold]") {
  Cpu const cpu(2);
  TemporaryFolder const scratch;
  for (std::string const& name : names) {
    INFO(name);
    Sample const sample = sample_of(name);
    Rotations const rotations = rotations_of(cpu, sample);
    ForwardOptions options;
    options.rotations = &rotations;
    for (RotationSet const set :
         {RotationSet{.r1 = has_r1(sample.model)}, RotationSet{.r2 = true}, RotationSet{.r3 = true},
          RotationSet{.r4 = true}, RotationSet{has_r1(sample.model), true, true, true}}) {
      INFO(set.name());
      options.active = set;
      CHECK(relative_difference(logits(cpu, sample.model, sample.ids, options), sample.logits) < 1e-4);
    }
    FoldOptions fold_options;
    fold_options.dtype = Dtype::f32;
    fold_options.rotations = {.r1 = has_r1(sample.model), .r2 = true, .r4 = true};
    static_cast<void>(fold(cpu, sample.model, rotations, scratch / name, fold_options));
    Model const folded = Model::open(scratch / name);
    CHECK(folded.needs_r4());
    CHECK_FALSE(folded.config().tied_embeddings);
    CHECK(relative_difference(logits(cpu, folded, sample.ids), sample.logits) < 1e-4);
  }
}

TEST_CASE("every family quantizes: on the fly, in a folder, and on text", "[families][quantize]") {
  Cpu const cpu(2);
  TemporaryFolder const scratch;
  for (std::string const& name : names) {
    INFO(name);
    Sample const sample = sample_of(name);
    TokenWindows const text = some_tokens(4, 24, 96);
    for (WeightRounding const rounding : {WeightRounding::nearest, WeightRounding::gptq}) {
      FoldOptions options;
      options.dtype = Dtype::f32;
      options.rotations = {};
      options.weights = {.bits = 4, .rounding = rounding};
      options.hessian_windows = &text;
      fs::path const folder = scratch / (name + std::string(name_of(rounding)));
      static_cast<void>(fold(cpu, sample.model, {}, folder, options));
      ForwardOptions forward;
      forward.gains = NormGains::folded;
      forward.quantization.scheme = {.weights = 4};
      forward.quantization.weight_rounding = rounding;
      forward.hessian_windows = &text;
      RowMatrix<float> const in_memory = logits(cpu, sample.model, sample.ids, forward);
      CHECK(relative_difference(logits(cpu, Model::open(folder), sample.ids), in_memory) < 1e-4);
      double const change = relative_difference(in_memory, sample.logits);
      CHECK(change > 1e-3);
      CHECK(change < 1.5);
    }
    ForwardOptions all;
    all.quantization.scheme = {.weights = 8, .activations = 8, .kv = 8};
    CHECK(relative_difference(logits(cpu, sample.model, sample.ids, all), sample.logits) < 0.3);
  }
}

TEST_CASE("the bytes of every family do not depend on threads", "[families][threads]") {
  for (std::string const& name : names) {
    INFO(name);
    Sample const sample = sample_of(name);
    CHECK(logits(Cpu(1), sample.model, sample.ids) == logits(Cpu(3), sample.model, sample.ids));
  }
}

TEST_CASE("packed folders of every family compute what the same rounding computes", "[families][folder]") {
  Cpu const cpu = Cpu(2).with_kernels(compiled_kernels());
  TemporaryFolder const scratch;
  for (std::string const& name : names)
    for (FolderFormat const format : {FolderFormat::native, FolderFormat::compressed_tensors}) {
      INFO(name << " " << name_of(format));
      Sample const sample = sample_of(name);
      Rotations const rotations = rotations_of(cpu, sample);
      QuantizedFolderOptions options;
      options.format = format;
      options.dtype = Dtype::f32;
      options.rotations = {.r1 = has_r1(sample.model), .r2 = true};
      options.quantization.scheme = {.weights = 4};
      options.quantization.weight_group = 8;
      fs::path const folder = scratch / (name + std::string(name_of(format)));
      static_cast<void>(write_quantized(cpu, sample.model, rotations, folder, options));
      ForwardOptions forward;
      forward.gains = NormGains::folded;
      forward.rotations = &rotations;
      forward.active = options.rotations;
      forward.quantization = options.quantization;
      RowMatrix<float> const in_memory = logits(cpu, sample.model, sample.ids, forward);
      CHECK(relative_difference(in_memory, sample.logits) > 1e-3);
      CHECK(relative_difference(logits(cpu, Model::open(folder, Weights::any), sample.ids), in_memory) <
            1e-4);
    }
}

namespace {

/// A copy of a sample's folder with a text of its config.json replaced.
Model changed_sample(fs::path const& to, std::string const& name,
                     std::vector<std::pair<std::string, std::string>> const& changes) {
  fs::copy(folder_of(name), to);
  std::string config = read_bytes(to / "config.json");
  for (auto const& [from, by] : changes) {
    std::size_t const at = config.find(from);
    REQUIRE(at != std::string::npos);
    config.replace(at, from.size(), by);
  }
  write_bytes(to / "config.json", config);
  return Model::open(to);
}

FoldReport write_gguf(Cpu const& cpu, Model const& model, Rotations const& rotations, fs::path const& file) {
  return fold(cpu, model, rotations, file,
              {.format = FoldFormat::gguf,
               .rotations = {.r1 = rotations.r1.size() != 0, .r2 = !rotations.r2.empty()},
               .dtype = Dtype::f32});
}

}  // namespace

TEST_CASE("every family that llama.cpp runs keeps its logits in a GGUF file", "[families][gguf]") {
  using Changes = std::vector<std::pair<std::string, std::string>>;
  Cpu const cpu(2);
  TemporaryFolder const scratch;
  std::pair<std::string, std::string> const scalar{"\"query_pre_attn_scalar\": 10",
                                                   "\"query_pre_attn_scalar\": 12"},
      no_window{"\"sliding_window\": 8", "\"sliding_window\": null"};
  for (auto const& [name, changes] : std::vector<std::pair<std::string, Changes>>{
           {"llama", {}},
           {"mistral", {no_window}},
           {"qwen2", {no_window}},
           {"qwen3", {}},
           {"phi3", {no_window}},
           {"phi4", {}},
           {"mixtral", {}},
           {"qwen3_moe", {}},
           {"deepseek", {}},
           {"gemma2", {scalar}},
           {"gemma3", {scalar, {"\"full_attention\"", "\"sliding_attention\""}}}}) {
    INFO(name);
    Sample const sample = sample_of(name);
    Model const model = changed_sample(scratch / name, name, changes);
    Rotations const rotations = rotations_of(cpu, sample);
    fs::path const file = scratch / (name + ".gguf");
    FoldReport const report = write_gguf(cpu, model, rotations, file);
    CHECK(report.notes.size() == 1);  // no tokenizer
    Model const read = Model::open(file);
    CHECK(read.config().tied_embeddings == (name == "gemma2"));
    RowMatrix<float> const expected = logits(cpu, model, sample.ids);
    CHECK(relative_difference(logits(cpu, read, sample.ids), expected) < 1e-4);
    static_cast<void>(fold(cpu, read, {}, scratch / (name + " again"), {.rotations = {}}));
    CHECK(relative_difference(logits(cpu, Model::open(scratch / (name + " again")), sample.ids), expected) <
          1e-4);
  }
}

TEST_CASE("what llama.cpp computes in another way is refused as GGUF, or said", "[families][gguf]") {
  Cpu const cpu(1);
  TemporaryFolder const scratch;
  auto const write = [&](std::string const& name) {
    return write_gguf(cpu, Model::open(folder_of(name)), {}, scratch / (name + ".gguf"));
  };
  REQUIRE_ERROR(write("opt"), unsupported, "OPTForCausalLM is not written as GGUF");
  REQUIRE_ERROR(write("gemma2"), unsupported, "query_pre_attn_scalar must be 12");
  REQUIRE_ERROR(write("gemma3"), unsupported, "all layers but every sixth must have one sliding window");
  REQUIRE_ERROR(write("qwen2_moe"), unsupported, "every layer must have experts");
  REQUIRE_ERROR(write_gguf(cpu,
                           changed_sample(scratch / "moe", "qwen3_moe",
                                          {{"\"norm_topk_prob\": true", "\"norm_topk_prob\": false"}}),
                           {}, scratch / "moe.gguf"),
                unsupported, "norm_topk_prob must be true");
  CHECK(write("mistral").notes.front().find("beyond 8 tokens it attends to more") != std::string::npos);
  CHECK_FALSE(fs::exists(scratch / "opt.gguf"));
}
