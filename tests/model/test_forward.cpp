// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/forward.hpp>
#include <dartquant/transform/hadamard.hpp>

#include <cmath>
#include <limits>
#include <span>

#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

TEST_CASE("logits agree with the reference of each real model", "[forward][real]") {
  Cpu const cpu(2);
  for (RealModel const& real : real_models()) {
    INFO(real.name);
    Model const model = Model::open(real.folder);
    SafetensorsFile const file(real.logits);
    RowMatrix<float> const wanted = file.read_matrix<float>(*file.find("logits"));
    TokenWindows const window = windows_of(read_npy_integers(real.ids), wanted.rows(), 1);
    CHECK(relative_difference(logits(cpu, model, window), wanted) < 1e-4);
    CHECK(relative_difference(logits(cpu, model, window, {.gains = NormGains::folded}), wanted) < 1e-4);
  }
}

TEST_CASE("the other real models are there", "[forward][real]") {
  if (have_shared_models()) REQUIRE(real_models().size() == 3);
}

TEST_CASE("a window does not see other windows, nor what comes later", "[forward]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {.attention_bias = true, .mlp_bias = true}));
  Cpu const cpu(1);
  TokenWindows const all = some_tokens(3, 20, 64);
  RowMatrix<float> const together = logits(cpu, model, all);
  RowMatrix<float> const alone = logits(cpu, model, all.middleRows(1, 1));
  REQUIRE(relative_difference(together.middleRows(20, 20), alone) < 1e-6);
  RowMatrix<float> const prefix = logits(cpu, model, all.topLeftCorner(1, 7));
  REQUIRE(relative_difference(together.topRows(7), prefix) < 1e-5);
}

TEST_CASE("grouped heads equal the same heads written out", "[forward]") {
  // A model with 4 KV heads whose k and v rows repeat those of a model with 2.
  TemporaryFolder const folder;
  SyntheticModel const shape{};
  write_synthetic(folder / "grouped", shape);
  Checkpoint const grouped(folder / "grouped");
  SyntheticModel wide = shape;
  wide.kv_heads = 4;
  CheckpointWriter writer(folder / "wide", tensors_of(wide));
  for (TensorInfo const& info : tensors_of(wide)) {
    RowMatrix<float> values = grouped.read_matrix<float>(info.name);
    if (info.name.find("k_proj") != std::string::npos || info.name.find("v_proj") != std::string::npos) {
      RowMatrix<float> repeated(32, 32);
      for (index_t head = 0; head < 4; ++head)
        repeated.middleRows(head * 8, 8) = values.middleRows(head / 2 * 8, 8);
      values = repeated;
    }
    writer.append(info.name, MatrixView<float const>(values));
  }
  writer.commit();
  write_bytes(folder / "wide/config.json", config_of(wide));
  Cpu const cpu(1);
  TokenWindows const tokens = some_tokens(2, 16, 64);
  REQUIRE(relative_difference(logits(cpu, Model::open(folder / "grouped"), tokens),
                              logits(cpu, Model::open(folder / "wide"), tokens)) < 1e-6);
}

TEST_CASE("R3 and R4 change nothing while nothing is quantized", "[forward][online]") {
  TemporaryFolder const folder;
  Cpu const cpu(2);
  // 12 = 12 * 1 and 48 are Hadamard orders; 22 and 70 are not and fall back to blocks of 2.
  for (auto const& [head_dim, intermediate] : {std::pair<index_t, index_t>{8, 48}, {12, 44}, {22, 70}}) {
    Model const model =
        Model::open(write_synthetic(folder / std::to_string(head_dim),
                                    {.intermediate = intermediate, .head_dim = head_dim, .mlp_bias = true}));
    TokenWindows const tokens = some_tokens(2, 16, 64);
    RowMatrix<float> const plain = logits(cpu, model, tokens);
    ForwardOptions options;
    options.active = {.r3 = true, .r4 = true};
    REQUIRE(relative_difference(logits(cpu, model, tokens, options), plain) < 1e-5);
    OnlineRotations const online = online_rotations(model, options);
    REQUIRE(online.notes.size() == (head_dim == 22 ? 2u : 0u));
    REQUIRE(online.r3_block == (head_dim == 22 ? 2 : head_dim));
    REQUIRE(online.r4_block == (head_dim == 22 ? 2 : intermediate));
    if (head_dim == 22) REQUIRE(online.notes[1].find("70") != std::string::npos);
  }
}

TEST_CASE("R1 and R2 folded on the fly change nothing", "[forward]") {
  TemporaryFolder const folder;
  Cpu const cpu(2);
  for (bool const tied : {false, true}) {
    Model const model = Model::open(write_synthetic(
        folder / (tied ? "tied" : "untied"), {.tied = tied, .attention_bias = true, .mlp_bias = true}));
    Rotations rotations{haar_rotation(32, 1), {}};
    for (index_t layer = 0; layer < 2; ++layer)
      rotations.r2.push_back({haar_rotation(8, 2), haar_rotation(8, 3 + static_cast<std::uint64_t>(layer))});
    TokenWindows const tokens = some_tokens(2, 16, 64);
    RowMatrix<float> const plain = logits(cpu, model, tokens);
    ForwardOptions options;
    options.rotations = &rotations;
    for (RotationSet const set : {RotationSet{.r1 = true}, RotationSet{.r2 = true},
                                  RotationSet{.r1 = true, .r2 = true, .r3 = true, .r4 = true}}) {
      options.active = set;
      INFO(set.name());
      REQUIRE(relative_difference(logits(cpu, model, tokens, options), plain) < 1e-5);
    }
  }
}

TEST_CASE("the bytes of the logits do not depend on threads", "[forward][threads]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {.positions = 256}));
  TokenWindows const tokens = some_tokens(9, 250, 64);
  ForwardOptions options;
  options.gains = NormGains::folded;
  options.active = {.r3 = true, .r4 = true};
  options.quantization.scheme = Scheme::parse("w4a4kv4");
  RowMatrix<float> const one = logits(Cpu(1), model, tokens, options);
  for (int const threads : {2, 4, 4}) REQUIRE(logits(Cpu(threads), model, tokens, options) == one);
}

TEST_CASE("observers see every token of every site once, in order", "[forward]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {.positions = 256}));
  TokenWindows const tokens = some_tokens(20, 200, 64);  // more than one group
  std::map<std::pair<index_t, int>, index_t> seen;
  ForwardOptions options;
  options.gains = NormGains::folded;
  options.observer = [&](Site site, index_t layer, index_t first, MatrixView<float const> X) {
    index_t& next = seen[{layer, static_cast<int>(site)}];
    REQUIRE(first == next);
    next += X.rows();
    if (site != Site::q_proj_input && site != Site::up_proj_input) return;
    REQUIRE(X.cols() == 32);
    for (index_t row = 0; row < X.rows(); ++row)  // normalised without gain
      REQUIRE(as_eigen(X.row(row)).squaredNorm() / 32 == Approx(1).epsilon(1e-3));
  };
  index_t steps = 0;
  options.progress = [&](std::string_view stage, index_t done, index_t total) {
    REQUIRE(stage == "layers");
    REQUIRE(done == ++steps);
    REQUIRE(total == 2);
  };
  static_cast<void>(hidden_states(Cpu(2), model, tokens, options));
  REQUIRE(seen.size() == 2 * site_count);
  for (auto const& [key, count] : seen) REQUIRE(count == 4000);
  REQUIRE(steps == 2);
}

TEST_CASE("quantization acts where it is asked for, and more bits hurt less", "[forward][quantize]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  Cpu const cpu(1);
  TokenWindows const tokens = some_tokens(4, 32, 64);
  RowMatrix<float> const plain = logits(cpu, model, tokens);
  auto const error = [&](std::string_view scheme, Quantization quantization = {}) {
    quantization.scheme = Scheme::parse(scheme);
    ForwardOptions options;
    options.quantization = quantization;
    return static_cast<double>((logits(cpu, model, tokens, options) - plain).norm() / plain.norm());
  };
  REQUIRE(error("w16a16kv16") == 0);
  for (auto const& [coarse, fine] :
       {std::pair{"w3a16", "w8a16"}, {"w16a3", "w16a8"}, {"w16a16kv2", "w16a16kv8"}}) {
    INFO(coarse);
    REQUIRE(error(fine) > 0);
    REQUIRE(error(fine) < 0.1 * error(coarse));
  }
  REQUIRE(error("w16a4", {.activation_clip = 0.9}) != error("w16a4"));
  REQUIRE(error("w16a4", {.activation_symmetry = Symmetry::symmetric}) != error("w16a4"));
  REQUIRE(error("w16a4", {.o_proj_input = Quantization::OutputInput::per_head}) != error("w16a4"));
  REQUIRE(error("w4a16", {.weight_group = 8}) < error("w4a16"));
  REQUIRE(error("w4a16", {.weight_clip = ClipSearch::none}) != error("w4a16"));
}

TEST_CASE("the longest and the shortest window run", "[forward]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {.positions = 130}));
  Cpu const cpu(1);
  TokenWindows const tokens = some_tokens(2, 130, 64);  // more than one block of attention rows
  RowMatrix<float> const all = logits(cpu, model, tokens);
  REQUIRE(all.allFinite());
  RowMatrix<float> const first = logits(cpu, model, tokens.topLeftCorner(1, 1));
  REQUIRE(relative_difference(first, all.topRows(1)) < 1e-5);
}

TEST_CASE("windows, schemes and rotation sets are parsed strictly", "[forward][bad]") {
  std::vector<std::int32_t> const ids(100, 5);
  REQUIRE(windows_of(ids, 30).rows() == 3);
  REQUIRE(windows_of(ids, 30, 2).rows() == 2);
  REQUIRE(windows_of(ids, 100).rows() == 1);
  REQUIRE_INVALID(windows_of(ids, 101), "the text has 100 tokens, but one window needs 101");
  REQUIRE_INVALID(windows_of(ids, 1), "seqlen 1");
  REQUIRE(Scheme::parse("w4a4kv4") == Scheme{4, 4, 4});
  REQUIRE(Scheme::parse("w16a8") == Scheme{16, 8, 16});
  REQUIRE(Scheme{4, 4, 16}.name() == "w4a4kv16");
  for (char const* bad :
       {"", "w4", "a4w4", "w4a4kv", "w9a4", "w4a4kv1", "w04a4", "w4a4 ", "W4A4", "w4a4kv4x", "w444a4"})
    REQUIRE_INVALID(Scheme::parse(bad), "wNaN");
  REQUIRE(RotationSet::parse("r4,r1") == RotationSet{.r1 = true, .r4 = true});
  REQUIRE(RotationSet::parse("none").name() == "none");
  REQUIRE(RotationSet::parse("r1,r2,r3,r4").name() == "r1,r2,r3,r4");
  for (char const* bad : {"", "r5", "r1,", "r1 r2", "R1"})
    REQUIRE_INVALID(RotationSet::parse(bad), "r1,r2,r3,r4");
  REQUIRE_INVALID(RotationSet::parse("r1,r1"), "twice");
}

TEST_CASE("input that cannot be run is refused in one sentence", "[forward][bad]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  Cpu const cpu(1);
  TokenWindows tokens = some_tokens(2, 8, 64);
  tokens(1, 3) = 64;
  REQUIRE_INVALID(hidden_states(cpu, model, tokens), "token id 64 at position 3 of window 1");
  tokens(1, 3) = -1;
  REQUIRE_INVALID(hidden_states(cpu, model, tokens), "token id -1");
  REQUIRE_INVALID(hidden_states(cpu, model, some_tokens(1, 65, 64)), "64 positions");
  REQUIRE_INVALID(hidden_states(cpu, model, TokenWindows(0, 8)), "0 windows");
  ForwardOptions options;
  options.active.r1 = true;
  REQUIRE_INVALID(hidden_states(cpu, model, some_tokens(1, 8, 64), options), "no rotations were given");
  Rotations rotations{haar_rotation(16, 1), {}};
  options.rotations = &rotations;
  REQUIRE_INVALID(hidden_states(cpu, model, some_tokens(1, 8, 64), options), "R1 is 16 x 16");
  rotations.r1 = 1.1 * haar_rotation(32, 1);
  REQUIRE_ERROR(hidden_states(cpu, model, some_tokens(1, 8, 64), options), numerics, "R1");
  rotations = {haar_rotation(32, 1), {{haar_rotation(8, 1)}}};
  REQUIRE_INVALID(hidden_states(cpu, model, some_tokens(1, 8, 64), options), "R2 of 1 layers");
}

TEST_CASE("a weight that is not finite is named", "[forward][bad]") {
  TemporaryFolder const folder;
  for (std::string const wanted : {"model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"}) {
    fs::path const path = folder / wanted;
    CheckpointWriter writer(path, tensors_of({}));
    for (TensorInfo const& info : tensors_of({})) {
      RowMatrix<float> values = synthetic_values({}, info, 1);
      if (info.name == wanted) values(5, 7) = std::numeric_limits<float>::quiet_NaN();
      writer.append_bytes(info.name,
                          std::as_bytes(std::span(values.data(), static_cast<std::size_t>(values.size()))));
    }
    writer.commit();
    write_bytes(path / "config.json", config_of({}));
    REQUIRE_ERROR(hidden_states(Cpu(1), Model::open(path), TokenWindows::Constant(1, 8, 5)), format, wanted);
  }
}
