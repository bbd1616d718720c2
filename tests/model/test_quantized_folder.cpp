// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/quantized_folder.hpp>

#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <dartquant/core/compiled_kernels.hpp>
#include <dartquant/transform/rotation.hpp>

#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

Rotations some_rotations(ModelConfig const& config) {
  Rotations rotations;
  rotations.r1 = random_hadamard(config.hidden, 3);
  for (index_t layer = 0; layer < config.layers; ++layer)
    rotations.r2.emplace_back(static_cast<std::size_t>(config.kv_heads), random_hadamard(config.head_dim, 5));
  return rotations;
}

/// A model, its folder of packed weights, and how the same weights are rounded in memory.
struct Written {
  TemporaryFolder folder;
  Cpu cpu = Cpu(2).with_kernels(compiled_kernels());
  Model model;
  Rotations rotations, held;
  QuantizedFolderOptions options;
  TokenWindows text, windows = some_tokens(2, 24, 64);

  explicit Written(QuantizedFolderOptions chosen, SyntheticModel const& synthetic = {},
                   void (*change)(Rotations&) = nullptr)
      : model(Model::open(write_synthetic(folder / "in", synthetic))),
        rotations(some_rotations(model.config())),
        options(std::move(chosen)),
        text(some_tokens(4, 32, 64, 11)) {
    if (change != nullptr) change(rotations);
    options.hessian_windows = &text;
    held = rotations_in_folder(rotations, model.config(), options);
    static_cast<void>(write_quantized(cpu, model, rotations, out(), options));
  }
  [[nodiscard]] fs::path out() const { return folder / "out"; }
  [[nodiscard]] Model open() const { return Model::open(out(), Weights::any); }
  [[nodiscard]] ForwardOptions in_memory() const {
    ForwardOptions forward;
    forward.gains = NormGains::folded;
    forward.rotations = &held;
    forward.active = {.r1 = options.rotations.r1, .r2 = options.rotations.r2};
    forward.hessian_windows = &text;
    forward.quantization = options.quantization;
    forward.quantization.scheme = {.weights = options.quantization.scheme.weights};
    return forward;
  }
  [[nodiscard]] double difference() const {
    return relative_difference(logits(cpu, open(), windows), logits(cpu, model, windows, in_memory()));
  }
};

QuantizedFolderOptions packed(FolderFormat format, std::string const& scheme, index_t group = 0) {
  QuantizedFolderOptions options;
  options.format = format;
  options.quantization.scheme = Scheme::parse(scheme);
  options.quantization.weight_group = group;
  if (format == FolderFormat::compressed_tensors)
    options.quantization.activation_symmetry = Symmetry::symmetric;
  return options;
}

constexpr FolderFormat native = FolderFormat::native, compressed = FolderFormat::compressed_tensors;

void replace_in(fs::path const& file, std::string const& from, std::string const& to) {
  std::string text = read_bytes(file);
  auto const at = text.find(from);
  REQUIRE(at != std::string::npos);
  write_bytes(file, text.replace(at, from.size(), to));
}

}  // namespace

TEST_CASE("packed folders compute what the same rounding in memory computes", "[folder]") {
  for (auto const& [format, scheme, group] : {std::tuple{native, "w4a16", 0},
                                              {native, "w4a8kv8", 16},
                                              {native, "w3a4kv4", 0},
                                              {compressed, "w4a16", 16},
                                              {compressed, "w4a8", 0},
                                              {compressed, "w8a8", 0},
                                              {compressed, "w4a4", 16}}) {
    CAPTURE(name_of(format), scheme, group);
    QuantizedFolderOptions options = packed(format, scheme, group);
    options.rotations.r4 = true;
    Written const written(options, {.tied = true, .attention_bias = true, .mlp_bias = true});
    CHECK(written.difference() < 1e-5);
    FolderQuantization const& says = *written.open().quantized();
    CHECK(says.quantization.scheme.weights == options.quantization.scheme.weights);
    CHECK(says.quantization.scheme.activations == options.quantization.scheme.activations);
    CHECK(says.online.r4);
  }
}

TEST_CASE("packed folders hold GPTQ's levels, zero points and, natively, shifts and transforms", "[folder]") {
  auto const shift = [](Rotations& rotations) {
    rotations.layers.resize(2);
    for (LayerTransforms& layer : rotations.layers) {
      layer.attention_shift.assign(32, 0.25);
      layer.key_shift.assign(16, -0.5);
      layer.attention_scale = DiagonalScale(std::vector<double>(32, 2.0));
      layer.up_proj_input = Transform(32).then(Hadamard(32, 8));
    }
  };
  QuantizedFolderOptions options = packed(native, "w4a8", 16);
  options.quantization.weight_rounding = WeightRounding::gptq;
  options.quantization.weight_symmetry = Symmetry::asymmetric;
  CHECK(Written(options, {}, shift).difference() < 1e-5);
  options = packed(compressed, "w4a8", 16);
  options.quantization.weight_rounding = WeightRounding::gptq;
  options.quantization.weight_symmetry = Symmetry::asymmetric;
  CHECK(Written(options).difference() < 1e-5);
  REQUIRE_INVALID(Written(options, {}, shift), "layer 0 transforms an input");
}

TEST_CASE("integer products take a native folder's levels as they are", "[folder][integers]") {
  QuantizedFolderOptions options = packed(native, "w4a8", 16);
  options.rotations.r4 = true;
  Written const written(options);
  Model const model = written.open();
  ForwardOptions run;
  run.quantization = model.quantized()->quantization;
  RowMatrix<float> const fake = logits(written.cpu, model, written.windows, run);
  run.quantization.arithmetic = Arithmetic::integer;
  CHECK(relative_difference(logits(written.cpu, model, written.windows, run), fake) < 1e-4);
  ForwardOptions original = written.in_memory();
  original.quantization = options.quantization;
  CHECK(relative_difference(logits(written.cpu, written.model, written.windows, original), fake) < 1e-5);
}

TEST_CASE("packed weights of the native format lie where kernels can multiply from the map", "[folder]") {
  Written const written(packed(native, "w4a16"), {.shard_bytes = 5'000'000'000});
  QuantizedFolderOptions options = written.options;
  options.shard_bytes = 4096;
  static_cast<void>(
      write_quantized(written.cpu, written.model, written.rotations, written.folder / "shards", options));
  for (char const* folder : {"out", "shards"}) {
    Checkpoint const checkpoint(written.folder / folder);
    for (std::string const& name : checkpoint.names())
      if (name.ends_with("weight_int4"))
        CHECK(reinterpret_cast<std::uintptr_t>(checkpoint.tensor(name).bytes.data()) % 64 == 0);
  }
  CHECK(relative_difference(
            logits(written.cpu, Model::open(written.folder / "shards", Weights::any), written.windows),
            logits(written.cpu, written.open(), written.windows)) == 0);
}

TEST_CASE("the values of a compressed-tensors folder are levels times scales", "[folder]") {
  Written const written(packed(compressed, "w4a16", 16));
  SafetensorsFile const file(written.out() / "model.safetensors");
  std::string const name = "model.layers.1.mlp.down_proj.";
  auto const words = file.read_integers(*file.find(name + "weight_packed"));
  auto const shape = file.read_integers(*file.find(name + "weight_shape"));
  RowMatrix<float> const scale = file.read_matrix<float>(*file.find(name + "weight_scale"));
  REQUIRE(shape == std::vector<std::int64_t>{32, 48});
  REQUIRE(scale.cols() == 3);
  // The same rounding, written as values.
  FoldOptions fold_options{.rotations = written.options.rotations,
                           .weights = written.options.quantization.weights()};
  static_cast<void>(
      fold(written.cpu, written.model, written.rotations, written.folder / "values", fold_options));
  SafetensorsFile const values(written.folder / "values/model.safetensors");
  RowMatrix<float> const W = values.read_matrix<float>(*values.find(name + "weight"));
  for (index_t i = 0; i < 32; ++i)
    for (index_t j = 0; j < 48; ++j) {
      auto const word = static_cast<std::uint32_t>(words[static_cast<std::size_t>(i * 6 + j / 8)]);
      int const level = static_cast<int>(word >> (4 * (j % 8)) & 15) - 8;
      REQUIRE(static_cast<float>(level) * scale(i, j / 16) == W(i, j));
    }
}

TEST_CASE("packed folders have the same bytes for any number of threads", "[folder][threads]") {
  Written const written(packed(native, "w4a8", 16));
  for (auto const& [threads, name] : {std::pair{1, "one"}, {4, "four"}}) {
    static_cast<void>(write_quantized(Cpu(threads).with_kernels(compiled_kernels()), written.model,
                                      written.rotations, written.folder / name, written.options));
    for (char const* file : {"model.safetensors", "config.json", "dartquant.json"})
      CHECK(read_bytes(written.folder / name / file) == read_bytes(written.out() / file));
  }
}

TEST_CASE("packed weights are refused where full precision is needed", "[folder][bad]") {
  Written const written(packed(native, "w4a16"));
  REQUIRE_ERROR(Model::open(written.out()), unsupported, "already quantized");
  Model const model = written.open();
  ForwardOptions rotated;
  rotated.rotations = &written.rotations;
  rotated.active = {.r1 = true};
  REQUIRE_INVALID(logits(written.cpu, model, written.windows, rotated), "holds packed weights");
  ForwardOptions again;
  again.quantization.scheme.weights = 4;
  again.quantization.weight_rounding = WeightRounding::gptq;
  again.hessian_windows = &written.windows;
  REQUIRE_INVALID(logits(written.cpu, model, written.windows, again), "not rounded again");
}

TEST_CASE("what a format cannot hold is refused before anything is written", "[folder][bad]") {
  auto const refused = [](QuantizedFolderOptions options) { Written const written(std::move(options)); };
  REQUIRE_INVALID(refused(packed(compressed, "w3a16")), "weights of 3 bits");
  REQUIRE_INVALID(refused(packed(native, "w8a8")), "weights of 8 bits");
  REQUIRE_INVALID(refused(packed(native, "w4a16", 12)), "groups of 12");
  REQUIRE_INVALID(refused(packed(native, "w16a8")), "nothing to pack");
  REQUIRE_INVALID(refused(packed(compressed, "w4a8kv8")), "KV cache of 8 bits");
  QuantizedFolderOptions options = packed(compressed, "w4a8");
  options.quantization.activation_symmetry = Symmetry::asymmetric;
  REQUIRE_INVALID(refused(options), "symmetric activations");
  REQUIRE_INVALID(refused(packed(compressed, "w4a16", 32)), "groups of 32 in the 48 inputs of model.layers.0.mlp.down_proj");
  options = packed(compressed, "w4a16");
  options.rotations.r3 = true;
  REQUIRE_INVALID(refused(options), "R3 has no place");
  options = packed(compressed, "w4a16");
  options.rotations.r4 = true;
  options.r4_block = 12;
  REQUIRE_INVALID(refused(options), "powers of two");
}

TEST_CASE("a damaged packed folder is one sentence that names the tensor", "[folder][bad]") {
  auto const damaged = [](FolderFormat format, std::string const& file, std::string const& from,
                          std::string const& to) {
    Written const written(packed(format, "w4a8", 16));
    replace_in(written.out() / file, from, to);
    Model const model = written.open();
    static_cast<void>(logits(written.cpu, model, written.windows));
  };
  REQUIRE_ERROR(damaged(native, "config.json", "\"group\": 16", "\"group\": 32"), format, "weight_int4");
  REQUIRE_ERROR(damaged(native, "config.json", "\"group\": 16", "\"group\": -1"), format, "group");
  REQUIRE_ERROR(damaged(native, "config.json", "\"layout\": 1", "\"layout\": 2"), unsupported, "layout 2");
  REQUIRE_ERROR(damaged(native, "config.json", "\"dartquant\"", "\"awq\""), unsupported, "'awq'");
  REQUIRE_ERROR(damaged(native, "config.json", "\"clip\": 1.0", "\"clip\": 1e9"), format, "'clip'");
  REQUIRE_ERROR(damaged(native, "model.safetensors", "DQW4", "DQW5"), format, "weight_int4");
  REQUIRE_ERROR(damaged(compressed, "config.json", "\"group_size\": 16", "\"group_size\": 48"), format,
                "weight_scale");
  REQUIRE_ERROR(damaged(compressed, "config.json", "pack-quantized", "marlin-24"), unsupported, "marlin-24");
  REQUIRE_ERROR(damaged(compressed, "model.safetensors", "o_proj.weight_scale", "o_proj.weight_scald"),
                format, "o_proj.weight_scale");
  Written const written(packed(compressed, "w4a8", 16));
  std::string bytes = read_bytes(written.out() / "model.safetensors");
  std::size_t at = 0;
  {
    SafetensorsFile const file(written.out() / "model.safetensors");
    std::byte const* const first = file.tensors().front().bytes.data();
    std::size_t data = 0;
    for (Tensor const& tensor : file.tensors()) data += tensor.bytes.size();
    at = bytes.size() - data +
         static_cast<std::size_t>(file.find("model.layers.0.mlp.up_proj.weight_scale")->bytes.data() - first);
  }
  bytes.replace(at, 4, std::string("\0\0\xC0\x7F", 4));  // a NaN
  write_bytes(written.out() / "model.safetensors", bytes);
  REQUIRE_ERROR(logits(written.cpu, written.open(), written.windows), format, "up_proj.weight_scale");
}
