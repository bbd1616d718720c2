// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/fold.hpp>
#include <dartquant/model/forward.hpp>
#include <dartquant/transform/rotation.hpp>

#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

DiagonalScale random_scale(index_t channels, std::uint64_t seed) {
  std::vector<double> scale;
  for (index_t i = 0; i < channels; ++i)
    scale.push_back(std::exp(0.7 * Philox(seed).normal(static_cast<std::uint64_t>(i))));
  return DiagonalScale(std::move(scale));
}

std::vector<double> random_shift(index_t channels, std::uint64_t seed) {
  std::vector<double> shift;
  for (index_t i = 0; i < channels; ++i) shift.push_back(Philox(seed).normal(static_cast<std::uint64_t>(i)));
  return shift;
}

Permutation reversed(index_t channels) {
  std::vector<index_t> source;
  for (index_t i = channels; i-- > 0;) source.push_back(i);
  return Permutation(std::move(source));
}

/// One step of every kind; `channels` is a multiple of 16.
Transform random_chain(index_t channels, std::uint64_t seed) {
  std::vector<RowMatrix<double>> blocks;
  for (index_t i = 0; i < channels / 8; ++i)
    blocks.push_back(haar_rotation(8, seed + 10 + static_cast<std::uint64_t>(i)));
  return Transform(channels)
      .then(random_scale(channels, seed))
      .then(BlockRotation(channels, haar_rotation(16, seed)))
      .then(reversed(channels))
      .then(BlockRotation(std::move(blocks)))
      .then(Hadamard(channels, 4))
      .then(DenseRotation(haar_rotation(channels, seed + 1)));
}

/// Every part of every layer of a model of 32 channels, 4 heads of 8 on 2 KV heads, 48 intermediate channels.
std::vector<LayerTransforms> every_part(std::uint64_t seed = 1) {
  std::vector<LayerTransforms> layers(2);
  for (LayerTransforms& layer : layers) {
    layer = {random_scale(32, seed), random_scale(16, seed + 1), random_scale(32, seed + 2),
             random_scale(48, seed + 3)};
    layer.q_proj_input = random_chain(32, seed);
    layer.o_proj_input = random_chain(32, seed + 4);
    layer.up_proj_input = random_chain(32, seed + 5);
    layer.down_proj_input = random_chain(48, seed + 6);
    layer.attention_shift = random_shift(32, seed + 8);
    layer.mlp_shift = random_shift(32, seed + 9);
    layer.key_shift = random_shift(16, seed + 10);
    layer.key_rotation = DenseRotation(haar_rotation(8, seed + 7));
    seed += 100;
  }
  return layers;
}

Rotations every_rotation() {
  Rotations rotations{haar_rotation(32, 1), {}, every_part()};
  for (index_t layer = 0; layer < 2; ++layer)
    rotations.r2.push_back({haar_rotation(8, 2), haar_rotation(8, 3 + static_cast<std::uint64_t>(layer))});
  return rotations;
}

template <class Part>
RowMatrix<double> matrix_of(std::optional<Part> const& part) {
  if constexpr (requires { part->rotation(); }) return part->rotation();
  else return Transform(part->channels()).then(*part).matrix();
}

}  // namespace

TEST_CASE("transforms of a layer change nothing while nothing is quantized", "[forward][layers]") {
  TemporaryFolder const folder;
  Cpu const cpu(2);
  for (bool const tied : {false, true}) {
    Model const model = Model::open(write_synthetic(
        folder / (tied ? "tied" : "untied"), {.tied = tied, .attention_bias = true, .mlp_bias = true}));
    TokenWindows const tokens = some_tokens(2, 16, 64);
    RowMatrix<float> const plain = logits(cpu, model, tokens);
    Rotations const rotations = every_rotation();
    ForwardOptions options;
    options.rotations = &rotations;
    for (char const* const set : {"none", "r1", "r2,r3", "r1,r2,r3,r4"}) {
      options.active = RotationSet::parse(set);
      INFO(set);
      CHECK(relative_difference(logits(cpu, model, tokens, options), plain) < 1e-4);
    }
  }
}

TEST_CASE("each scale and transform of a layer is exact alone", "[forward][layers]") {
  TemporaryFolder const folder;
  Cpu const cpu(1);
  Model const model = Model::open(write_synthetic(folder / "m", {.attention_bias = true, .mlp_bias = true}));
  TokenWindows const tokens = some_tokens(1, 16, 64);
  RowMatrix<float> const plain = logits(cpu, model, tokens);
  std::vector<LayerTransforms> const all = every_part();
  auto const check = [&](char const* name, auto... part) {
    Rotations rotations;
    rotations.layers.resize(2);
    for (std::size_t i = 0; i < 2; ++i) ((rotations.layers[i].*part = all[i].*part), ...);
    ForwardOptions options;
    options.rotations = &rotations;
    options.active = {.r4 = true};
    INFO(name);
    CHECK(relative_difference(logits(cpu, model, tokens, options), plain) < 1e-5);
  };
  check("attention_scale", &LayerTransforms::attention_scale);
  check("value_scale", &LayerTransforms::value_scale);
  check("mlp_scale", &LayerTransforms::mlp_scale);
  check("down_scale", &LayerTransforms::down_scale);
  check("q_proj_input", &LayerTransforms::q_proj_input);
  check("o_proj_input", &LayerTransforms::o_proj_input);
  check("up_proj_input", &LayerTransforms::up_proj_input);
  check("down_proj_input", &LayerTransforms::down_proj_input);
  check("key_rotation", &LayerTransforms::key_rotation);
  check("attention_shift", &LayerTransforms::attention_shift);
  check("mlp_shift", &LayerTransforms::mlp_shift);
  check("key_shift", &LayerTransforms::key_shift);
}

TEST_CASE("a shift is exact whatever the scores of the keys", "[forward][layers]") {
  TemporaryFolder const folder;
  Cpu const cpu(1);
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const tokens = some_tokens(2, 16, 64);
  Rotations rotations;
  rotations.layers.resize(2);
  ForwardOptions options;
  options.rotations = &rotations;
  RowMatrix<float> const plain = logits(cpu, model, tokens);
  rotations.layers[0].key_shift.assign(16, 20.0);  // far more than the keys themselves
  CHECK(relative_difference(logits(cpu, model, tokens, options), plain) < 1e-3);
  // A query head reads the KV head's own shift: one per head, not one per channel of a head.
  rotations.layers[0].key_shift = random_shift(16, 3);
  options.active = {.r3 = true};
  options.quantization.scheme.kv = 8;
  CHECK(relative_difference(logits(cpu, model, tokens, options), plain) < 0.05);
}

TEST_CASE("observers see what a layer's transforms make of its inputs", "[forward][layers]") {
  TemporaryFolder const folder;
  Cpu const cpu(1);
  Model const model = Model::open(write_synthetic(folder / "m", {.layers = 1}));
  TokenWindows const tokens = some_tokens(1, 12, 64);
  using Seen = std::map<Site, RowMatrix<double>>;
  auto const observe = [&](Rotations const& rotations, RotationSet active) {
    Seen seen;
    ForwardOptions options;
    options.gains = NormGains::folded;
    options.rotations = &rotations;
    options.active = active;
    options.observer = [&](Site site, index_t, index_t, MatrixView<float const> X) {
      seen[site] = as_eigen(X).cast<double>();
    };
    static_cast<void>(hidden_states(cpu, model, tokens, options));
    return seen;
  };
  Seen const plain = observe({}, {});
  LayerTransforms const layer = every_part().front();
  Rotations rotations;
  rotations.layers = {layer};
  Seen const seen = observe(rotations, {.r3 = true, .r4 = true});  // its own take the place of both

  auto const about = [&](Site site, std::vector<double> const& shift) {
    RowMatrix<double> X = plain.at(site);
    for (index_t i = 0; i < X.cols(); ++i) X.col(i).array() -= shift[static_cast<std::size_t>(i)];
    return X;
  };
  auto const close = [&](Site site, RowMatrix<double> const& wanted) {
    INFO(name_of(site));
    CHECK((seen.at(site) - wanted).cwiseAbs().maxCoeff() < 1e-4 * wanted.cwiseAbs().maxCoeff());
  };
  close(Site::q_proj_input, about(Site::q_proj_input, layer.attention_shift) *
                                matrix_of(layer.attention_scale) * layer.q_proj_input->matrix());
  close(Site::up_proj_input, about(Site::up_proj_input, layer.mlp_shift) * matrix_of(layer.mlp_scale) *
                                 layer.up_proj_input->matrix());
  close(Site::down_proj_input,
        plain.at(Site::down_proj_input) * matrix_of(layer.down_scale) * layer.down_proj_input->matrix());
  close(Site::value, plain.at(Site::value) * matrix_of(layer.value_scale));
  RowMatrix<double> const values = matrix_of(layer.value_scale), R = layer.key_rotation->rotation();
  RowMatrix<double> shared = RowMatrix<double>::Zero(32, 32), keys = RowMatrix<double>::Zero(16, 16);
  for (index_t head = 0; head < 4; ++head)  // query heads 0 and 1 read KV head 0, 2 and 3 read 1
    shared.block(head * 8, head * 8, 8, 8) = values.block(head / 2 * 8, head / 2 * 8, 8, 8);
  for (index_t head = 0; head < 2; ++head) keys.block(head * 8, head * 8, 8, 8) = R;
  close(Site::o_proj_input, plain.at(Site::o_proj_input) * shared * layer.o_proj_input->matrix());
  // The keys are made from the same inputs: their shift is that of the plain ones.
  close(Site::key, about(Site::key, layer.key_shift) * keys);
}

TEST_CASE("an online Hadamard transform of the down_proj input is R4", "[forward][layers]") {
  TemporaryFolder const folder;
  Cpu const cpu(1);
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const tokens = some_tokens(2, 16, 64);
  ForwardOptions options;
  options.quantization.scheme = Scheme::parse("w4a4kv4");
  options.gains = NormGains::folded;
  options.active = {.r4 = true};
  RowMatrix<float> const wanted = logits(cpu, model, tokens, options);
  Rotations rotations;
  rotations.layers.resize(2);
  for (LayerTransforms& layer : rotations.layers) layer.down_proj_input = Transform(48).then(Hadamard(48));
  options.rotations = &rotations;
  for (bool const r4 : {true, false}) {
    options.active = {.r4 = r4};
    REQUIRE(logits(cpu, model, tokens, options) == wanted);
  }
}

TEST_CASE("integer products run with a layer's transforms", "[forward][layers][integers]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {.attention_bias = true}));
  TokenWindows const tokens = some_tokens(2, 16, 64);
  Rotations const rotations = every_rotation();
  ForwardOptions options;
  options.rotations = &rotations;
  options.active = {.r1 = true, .r2 = true};
  options.quantization.scheme = Scheme::parse("w4a8kv8");
  RowMatrix<float> const fake = logits(Cpu(1), model, tokens, options);
  options.quantization.arithmetic = Arithmetic::integer;
  RowMatrix<float> const integers = logits(Cpu(1), model, tokens, options);
  REQUIRE(relative_difference(integers, fake) < 0.02);  // a level on a rounding edge may differ
  REQUIRE(logits(Cpu(3), model, tokens, options) == integers);
}

TEST_CASE("scales fold into a checkpoint; what runs online does not", "[fold][layers]") {
  TemporaryFolder const folder;
  Cpu const cpu(1);
  Model const model =
      Model::open(write_synthetic(folder / "m", {.tied = true, .attention_bias = true, .mlp_bias = true}));
  TokenWindows const tokens = some_tokens(2, 16, 64);
  Rotations rotations = every_rotation();
  REQUIRE_INVALID(fold(cpu, model, rotations, folder / "out", {}), "[fold] layer 0 transforms an input");
  REQUIRE(!fs::exists(folder / "out/config.json"));
  for (LayerTransforms& layer : rotations.layers)
    layer = {layer.attention_scale, layer.value_scale, layer.mlp_scale, layer.down_scale};
  static_cast<void>(fold(cpu, model, rotations, folder / "out", {}));
  Model const folded = Model::open(folder / "out");
  CHECK(relative_difference(logits(cpu, folded, tokens), logits(cpu, model, tokens)) < 1e-4);
  for (std::size_t i = 0; i < 2; ++i) rotations.layers[i].mlp_shift = random_shift(32, i);
  FoldReport const shifted = fold(cpu, model, rotations, folder / "shifted", {});
  REQUIRE(shifted.notes.size() == 1);
  CHECK(logits(cpu, Model::open(folder / "shifted"), tokens) == logits(cpu, folded, tokens));
  REQUIRE(load_rotations(folder / "shifted/rotations.safetensors", model.config()).layers[1].mlp_shift ==
          rotations.layers[1].mlp_shift);
  Rotations const kept = load_rotations(folder / "out/rotations.safetensors", model.config());
  REQUIRE(kept.layers[1].down_scale->scale() == rotations.layers[1].down_scale->scale());

  static_cast<void>(fold(cpu, model, {}, folder / "r4", {.rotations = {.r4 = true}}));
  ForwardOptions options;
  options.rotations = &rotations;
  REQUIRE_INVALID(logits(cpu, Model::open(folder / "r4"), tokens, options),
                  "layer 0 changes the input of down_proj");
}

TEST_CASE("transforms come back from their file as they were", "[layers][rotations]") {
  TemporaryFolder const folder;
  ModelConfig const config = parse_config(config_of({}));
  Rotations rotations = every_rotation();
  rotations.layers[1].q_proj_input = Transform(32);  // no steps: absent
  rotations.layers[1].key_rotation.reset();
  save_rotations(rotations, folder / "r", {{"method", "test"}});
  Rotations const loaded = load_rotations(folder / "r", config);
  REQUIRE(loaded.layers.size() == 2);
  for (std::size_t i = 0; i < 2; ++i) {
    LayerTransforms const &a = loaded.layers[i], &b = rotations.layers[i];
    REQUIRE(a.attention_scale->scale() == b.attention_scale->scale());
    REQUIRE(a.value_scale->scale() == b.value_scale->scale());
    REQUIRE(a.mlp_scale->scale() == b.mlp_scale->scale());
    REQUIRE(a.down_scale->scale() == b.down_scale->scale());
    REQUIRE(a.attention_shift == b.attention_shift);
    REQUIRE(a.mlp_shift == b.mlp_shift);
    REQUIRE(a.key_shift == b.key_shift);
    REQUIRE(a.down_proj_input->steps().size() == 6);
    REQUIRE(std::get<BlockRotation>(a.down_proj_input->steps()[1]).rotations().size() == 1);
    REQUIRE(std::get<BlockRotation>(a.down_proj_input->steps()[3]).rotations().size() == 6);
    REQUIRE(std::get<Hadamard>(a.down_proj_input->steps()[4]).block() == 4);
    REQUIRE(a.o_proj_input->matrix() == b.o_proj_input->matrix());
    REQUIRE(a.up_proj_input->matrix() == b.up_proj_input->matrix());
    REQUIRE(a.down_proj_input->matrix() == b.down_proj_input->matrix());
  }
  REQUIRE(loaded.layers[0].key_rotation->rotation() == rotations.layers[0].key_rotation->rotation());
  REQUIRE(!loaded.layers[1].q_proj_input);
  REQUIRE(!loaded.layers[1].key_rotation);
  save_rotations({rotations.r1, {}}, folder / "plain");
  REQUIRE(load_rotations(folder / "plain", config).layers.empty());
  REQUIRE_ERROR(load_rotations(folder / "r", parse_config(config_of({.layers = 1}))), format, "tensors");
  REQUIRE_ERROR(load_rotations(folder / "r", parse_config(config_of({.intermediate = 64}))), format,
                "layers.0.down_scale");
}

TEST_CASE("a malformed file of transforms is refused with the tensor's name", "[layers][rotations]") {
  TemporaryFolder const folder;
  ModelConfig const config = parse_config(config_of({}));
  auto const refuse = [&](TensorInfo info, std::vector<double> const& values, char const* word) {
    {
      SafetensorsWriter writer(folder / "bad", {info});
      std::vector<std::int64_t> const integers(values.begin(), values.end());
      if (info.dtype == Dtype::i64) writer.append_bytes(info.name, std::as_bytes(std::span(integers)));
      else
        for (std::size_t i = 0; i < values.size(); i += static_cast<std::size_t>(info.shape.back()))
          writer.append(info.name, MatrixView<double const>(values.data() + i, 1, info.shape.back()));
      writer.commit();
    }
    INFO(info.name);
    REQUIRE_ERROR(load_rotations(folder / "bad", config), format, info.name);
    REQUIRE_ERROR(load_rotations(folder / "bad", config), format, word);
  };
  std::vector<double> scale(32, 1.0), twice(32);
  scale[5] = 0;
  for (std::size_t i = 0; i < 32; ++i) twice[i] = static_cast<double>(i / 2);
  refuse({"model.layers.0.attention_scale", Dtype::f64, {32}}, scale, "channel 5");
  refuse({"model.layers.1.value_scale", Dtype::f64, {32}}, scale, "F64 of 16");
  refuse({"model.layers.1.key_shift", Dtype::f64, {32}}, scale, "F64 of 16");
  refuse({"model.layers.0.q_proj_input.0.scale", Dtype::f64, {32}}, scale, "positive");
  refuse({"model.layers.0.q_proj_input.0.permutation", Dtype::i64, {32}}, twice, "twice");
  refuse({"model.layers.0.q_proj_input.0.permutation", Dtype::f64, {32}}, scale, "I64 of 32");
  refuse({"model.layers.0.down_proj_input.0.hadamard", Dtype::i64, {1}}, {5}, "does not divide");
  refuse({"model.layers.0.down_proj_input.0.block_rotation", Dtype::f64, {1, 5, 5}},
         std::vector<double>(25, 1.0), "dividing 48");
  refuse({"model.layers.0.down_proj_input.0.block_rotation", Dtype::f64, {1, 2, 2}}, {1, 1, 0, 1},
         "orthogonality");
  refuse({"model.layers.0.down_proj_input.0.block_rotation", Dtype::f64, {2, 2, 2}},
         std::vector<double>(8, 1.0), "48 / block");
  refuse({"model.layers.0.key_rotation", Dtype::f64, {8, 8}}, std::vector<double>(64, 1.0), "ratio");
  std::int64_t const block = 2;
  SafetensorsWriter writer(folder / "gap", {{"model.layers.0.q_proj_input.1.hadamard", Dtype::i64, {1}}});
  writer.append_bytes("model.layers.0.q_proj_input.1.hadamard", std::as_bytes(std::span(&block, 1)));
  writer.commit();
  REQUIRE_ERROR(load_rotations(folder / "gap", config), format, "tensors");  // step 0 is missing
}

TEST_CASE("transforms of another size are refused with layer and part", "[layers][rotations]") {
  ModelConfig const config = parse_config(config_of({}));
  Rotations rotations;
  rotations.layers.resize(1);
  REQUIRE_INVALID(rotations.validate(config), "transforms of 1 layers");
  rotations.layers.resize(2);
  rotations.layers[1].value_scale = random_scale(32, 1);
  REQUIRE_INVALID(rotations.validate(config), "value_scale of layer 1 is for 32");
  rotations.layers[1] = {.o_proj_input = Transform(16)};
  REQUIRE_INVALID(rotations.validate(config), "o_proj_input of layer 1 is for 16");
  rotations.layers[1] = {.key_rotation = DenseRotation(haar_rotation(4, 1))};
  REQUIRE_INVALID(rotations.validate(config), "key_rotation of layer 1 is for 4");
  rotations.layers[1] = {.mlp_shift = random_shift(16, 1)};
  REQUIRE_INVALID(rotations.validate(config), "mlp_shift of layer 1 is for 16");
  rotations.layers[1] = {.key_shift = random_shift(16, 1)};
  rotations.layers[1].key_shift[7] = std::nan("");
  REQUIRE_INVALID(rotations.validate(config), "key_shift of layer 1 is not finite in channel 7");
}
