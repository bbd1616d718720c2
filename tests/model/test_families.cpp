// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/pipeline.hpp>
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
