// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/fold.hpp>
#include <dartquant/model/pipeline.hpp>
#include <dartquant/model/quantization_errors.hpp>

#include <array>
#include <filesystem>

#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

constexpr RotationSet every{.r1 = true, .r2 = true, .r3 = true, .r4 = true};
CaptureOptions const few_rows{.r1_rows = 600, .r2_rows = 800, .seed = 1};

ModelCalibrationOptions run_of(index_t block) {
  return {.method = Method::centred_blocks, .seed = 3, .block = block};
}

std::vector<RowMatrix<double>> matrices_of(ModelCalibration const& found) {
  std::vector<RowMatrix<double>> all{found.rotations.r1};
  for (LayerTransforms const& layer : found.rotations.layers) {
    for (auto const* chain :
         {&layer.q_proj_input, &layer.o_proj_input, &layer.up_proj_input, &layer.down_proj_input})
      all.push_back(chain->value().matrix());
    all.push_back(layer.key_rotation.value().rotation());
  }
  return all;
}

}  // namespace

TEST_CASE("learned blocks change nothing while nothing is quantized", "[transforms][blocks]") {
  TemporaryFolder const folder;
  Model const model = Model::open(
      write_synthetic(folder / "m", {.intermediate = 52, .attention_bias = true, .mlp_bias = true}));
  TokenWindows const tokens = some_tokens(6, 24, 64);
  ModelCalibration const found = calibrate(Cpu(2), model, tokens, run_of(16), few_rows);
  found.rotations.validate(model.config());
  REQUIRE(found.rotations.layers.size() == 2);
  REQUIRE(found.rotations.layers[1].online());
  REQUIRE(found.transforms.size() == 2 * 4);
  for (TransformSummary const& one : found.transforms)
    REQUIRE(one.block == (one.site == Site::down_proj_input ? 13 : 16));  // 52 = 4 * 13
  RowMatrix<float> const plain = logits(Cpu(1), model, tokens);
  ForwardOptions const options = forward_options(found, every, {});
  CHECK(relative_difference(logits(Cpu(1), model, tokens, options), plain) < 1e-4);
  for (int const threads : {1, 3}) {
    ModelCalibration const again = calibrate(Cpu(threads), model, tokens, run_of(16), few_rows);
    REQUIRE(matrices_of(again) == matrices_of(found));
  }
}

TEST_CASE("learned blocks are kept in rotation files, and no checkpoint holds them", "[transforms][blocks]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const tokens = some_tokens(4, 24, 64);
  ModelCalibration found = calibrate(Cpu(1), model, tokens, run_of(128), few_rows);
  save_rotations(found.rotations, folder / "r.safetensors");
  std::vector<RowMatrix<double>> const before = matrices_of(found);
  found.rotations = load_rotations(folder / "r.safetensors", model.config());
  REQUIRE(matrices_of(found) == before);
  REQUIRE_THROWS_AS(fold(Cpu(1), model, without_shifts(found.rotations), folder / "out", {}),
                    InvalidArgument);
  REQUIRE(!std::filesystem::exists(folder / "out"));
}

TEST_CASE("one token and one window are enough to learn blocks from", "[transforms][blocks][bad]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const one = some_tokens(1, 1, 64);
  ModelCalibration const found = calibrate(Cpu(1), model, one, run_of(16), few_rows);
  found.rotations.validate(model.config());
  ModelCalibration const one_row =
      calibrate(Cpu(1), model, some_tokens(1, 8, 64), run_of(16), {.r1_rows = 1, .r2_rows = 1});
  one_row.rotations.validate(model.config());
}

TEST_CASE("learned blocks lower the errors of tiny-llama's inputs below those of centred",
          "[transforms][blocks][real]") {
  RealModel const real = real_models()[0];
  Model const model = Model::open(real.folder);
  Cpu const cpu(2);
  TokenWindows const windows = real.windows(16);
  std::vector<ModelCalibrationOptions> const runs{{.method = Method::centred},
                                                  {.method = Method::centred_blocks}};
  std::vector<ModelCalibration> const found = calibrate_all(cpu, model, windows, runs);
  Quantization const quantization{.scheme = Scheme::parse("w16a4kv4")};
  std::array<std::array<double, site_count>, 2> errors{};
  for (std::size_t i = 0; i < runs.size(); ++i) {
    QuantizationErrors const of =
        quantization_errors(cpu, model, windows.topRows(2), forward_options(found[i], every, quantization));
    for (SiteError const& one : of.sites) errors[i][static_cast<std::size_t>(one.site)] += one.relative;
  }
  for (Site const site :
       {Site::q_proj_input, Site::key, Site::o_proj_input, Site::up_proj_input, Site::down_proj_input}) {
    INFO(name_of(site));
    CHECK(errors[1][static_cast<std::size_t>(site)] < errors[0][static_cast<std::size_t>(site)]);
  }
}
