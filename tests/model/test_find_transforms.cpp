// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/pipeline.hpp>
#include <dartquant/transform/hadamard_matrix.hpp>

#include <algorithm>
#include <cmath>

#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

/// Fewer rows and a narrow block, so that every input has several blocks.
ModelCalibrationOptions run_of(Method method, index_t block = 16) {
  return {.method = method, .seed = 3, .block = block};
}
CaptureOptions const few_rows{.site_rows = 48, .seed = 1};

std::vector<ModelCalibrationOptions> transforming_runs() {
  std::vector<ModelCalibrationOptions> runs;
  for (MethodTraits const& row : methods())
    if (row.transforms() && row.sites != SiteChain::learned_blocks) runs.push_back(run_of(row.method));
  return runs;
}

std::vector<RowMatrix<double>> matrices_of(ModelCalibration const& found) {
  std::vector<RowMatrix<double>> all;
  for (LayerTransforms const& layer : found.rotations.layers) {
    for (auto const* scale :
         {&layer.attention_scale, &layer.value_scale, &layer.mlp_scale, &layer.down_scale})
      if (*scale) all.push_back(Transform((*scale)->channels()).then(**scale).matrix());
    for (auto const* chain :
         {&layer.q_proj_input, &layer.o_proj_input, &layer.up_proj_input, &layer.down_proj_input})
      if (*chain) all.push_back((*chain)->matrix());
  }
  return all;
}

}  // namespace

TEST_CASE("transforms that are found change nothing while nothing is quantized", "[transforms]") {
  TemporaryFolder const folder;
  Model const model =
      Model::open(write_synthetic(folder / "m", {.tied = true, .attention_bias = true, .mlp_bias = true}));
  TokenWindows const tokens = some_tokens(6, 24, 64);
  std::vector<ModelCalibrationOptions> const runs = transforming_runs();
  REQUIRE(runs.size() == 8);
  std::vector<ModelCalibration> const found = calibrate_all(Cpu(2), model, tokens, runs, few_rows);
  std::vector<ModelCalibration> const again = calibrate_all(Cpu(1), model, tokens, runs, few_rows);
  RowMatrix<float> const plain = logits(Cpu(1), model, tokens);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    MethodTraits const& method = traits(runs[i].method);
    INFO(method.name);
    found[i].rotations.validate(model.config());
    REQUIRE(found[i].rotations.layers.size() == 2);
    ForwardOptions const options = forward_options(found[i], {.r1 = true, .r2 = true, .r4 = true}, {});
    ForwardOptions const rounded = forward_options(found[i], {}, {.scheme = Scheme::parse("w4a4")});
    REQUIRE((rounded.quantization.weight_rounding == WeightRounding::learned_clip) == method.learned_clip);
    REQUIRE((options.active == RotationSet{}) == (runs[i].method != Method::quarot_heads));
    CHECK(relative_difference(logits(Cpu(1), model, tokens, options), plain) < 1e-4);
    REQUIRE(matrices_of(found[i]) == matrices_of(again[i]));  // same bytes for any number of threads
    LayerTransforms const& layer = found[i].rotations.layers[1];
    REQUIRE(layer.down_scale.has_value() == method.smoothing.has_value());
    REQUIRE(layer.o_proj_input.has_value() == (method.sites != SiteChain::none));
    bool const everywhere = method.sites != SiteChain::none && runs[i].method != Method::quarot_heads;
    REQUIRE(layer.q_proj_input.has_value() == everywhere);
    REQUIRE(layer.online() == (method.sites != SiteChain::none));
    REQUIRE(found[i].transforms.size() == (everywhere ? 8u : 0u));
  }
}

TEST_CASE("smoothing has the scales of its formula, with the gain in the weights",
          "[transforms][smoothing]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const tokens = some_tokens(4, 24, 64);
  Cpu const cpu(1);
  ModelCalibration const found = calibrate(cpu, model, tokens, run_of(Method::smooth), few_rows);
  ForwardOptions options;
  options.gains = NormGains::kept;  // as the checkpoint has it: the input then carries the gain
  RowMatrix<double> peaks, values;
  options.observer = [&](Site site, index_t layer, index_t, MatrixView<float const> X) {
    if (layer != 1) return;
    RowMatrix<double> const largest = as_eigen(X).cwiseAbs().colwise().maxCoeff().cast<double>();
    if (site == Site::up_proj_input) peaks = largest;
    if (site == Site::o_proj_input) values = largest;
  };
  static_cast<void>(hidden_states(cpu, model, tokens, options));
  auto const read = [&](char const* name) {
    return model.checkpoint().read_matrix<double>(std::string("model.layers.1.") + name + ".weight");
  };
  RowMatrix<double> const gain = read("post_attention_layernorm"), W = read("mlp.up_proj");
  for (index_t j = 0; j < 32; ++j) {
    double const weight = W.col(j).cwiseAbs().maxCoeff();
    double const wanted = std::pow(peaks(0, j), 0.6) / std::pow(weight, 0.4) / std::abs(gain(0, j));
    CHECK(found.rotations.layers[1].mlp_scale->scale()[static_cast<std::size_t>(j)] ==
          Approx(wanted).epsilon(1e-4));
  }
  RowMatrix<double> const O = read("self_attn.o_proj");
  for (index_t j = 0; j < 16; ++j) {  // channel j of the KV heads; query heads 2 h and 2 h + 1 read head h
    double wanted = 0;
    for (index_t const head : {j / 8 * 2, j / 8 * 2 + 1}) {
      index_t const channel = head * 8 + j % 8;
      wanted = std::max(
          wanted, std::pow(values(0, channel), 0.6) / std::pow(O.col(channel).cwiseAbs().maxCoeff(), 0.4));
    }
    CHECK(found.rotations.layers[1].value_scale->scale()[static_cast<std::size_t>(j)] ==
          Approx(wanted).epsilon(1e-4));
  }
}

TEST_CASE("the Hadamard transform across heads is H (x) I where its order is known", "[transforms][heads]") {
  TemporaryFolder const folder;
  Model const four = Model::open(write_synthetic(folder / "4", {}));
  TokenWindows const tokens = some_tokens(1, 8, 64);
  ModelCalibration const found = calibrate(Cpu(1), four, tokens, run_of(Method::quarot_heads), few_rows);
  RowMatrix<double> const H = hadamard_matrix(4) / 2, T = found.rotations.layers[0].o_proj_input->matrix();
  for (index_t i = 0; i < 32; ++i)
    for (index_t j = 0; j < 32; ++j)
      REQUIRE(T(i, j) == Approx(i % 8 == j % 8 ? H(i / 8, j / 8) : 0.0).margin(1e-12));
  REQUIRE(found.notes.empty());
  Model const six = Model::open(write_synthetic(folder / "6", {.heads = 6}));
  ModelCalibration const without = calibrate(Cpu(1), six, tokens, run_of(Method::quarot_heads), few_rows);
  REQUIRE(!without.rotations.layers[0].o_proj_input);
  REQUIRE(without.notes.front().find("order 6") != std::string::npos);
}

TEST_CASE("a block that does not divide is replaced, and said", "[transforms][bad]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {.intermediate = 52}));
  TokenWindows const tokens = some_tokens(2, 8, 64);
  ModelCalibration const found = calibrate(Cpu(1), model, tokens, run_of(Method::duquant, 20), few_rows);
  auto const noted = [&](ModelCalibration const& in, std::string const& text) {
    return std::ranges::any_of(in.notes,
                               [&](std::string const& note) { return note.find(text) != std::string::npos; });
  };
  CHECK(found.transforms[0].block == 16);
  CHECK(noted(found, "blocks of 20 do not fit the 32 channels of the q_proj input; it has blocks of 16"));
  CHECK(found.transforms[3].block == 13);  // 52 = 4 * 13
  CHECK(noted(found, "blocks of 13"));
  CHECK(noted(found, "queries"));
  ModelCalibration const wide =
      calibrate(Cpu(1), model, tokens, run_of(Method::zigzag_hadamard, 128), few_rows);
  CHECK(wide.transforms[3].block == 52);  // a Hadamard order
  CHECK(noted(wide, "one only"));
  REQUIRE_INVALID(calibrate(Cpu(1), model, tokens, run_of(Method::duquant, 0), few_rows), "block 0");
  REQUIRE_INVALID(calibrate(Cpu(1), model, tokens, run_of(Method::duquant), {.site_rows = 0}),
                  "rows per input");
}

TEST_CASE("one token and constant activations give a defined result", "[transforms][bad]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const check = some_tokens(1, 16, 64);
  RowMatrix<float> const plain = logits(Cpu(1), model, check);
  for (TokenWindows const& tokens :
       {TokenWindows(TokenWindows::Constant(1, 1, 5)), TokenWindows(TokenWindows::Constant(4, 12, 5))})
    for (ModelCalibration const& found :
         calibrate_all(Cpu(1), model, tokens, transforming_runs(), few_rows)) {
      INFO(name_of(found.method));
      ForwardOptions const options = forward_options(found, {.r1 = true, .r2 = true}, {});
      CHECK(relative_difference(logits(Cpu(1), model, check, options), plain) < 1e-3);
    }
}

TEST_CASE("DuQuant keeps more of a trained model than smoothing alone", "[transforms][real]") {
  RealModel const real = real_models().front();
  Model const model = Model::open(real.folder);
  Cpu const cpu(2);
  TokenWindows const tokens = real.windows(12);
  std::vector<ModelCalibrationOptions> const runs{run_of(Method::smooth, 32), run_of(Method::duquant, 32)};
  std::vector<ModelCalibration> const found =
      calibrate_all(cpu, model, tokens.topRows(6), runs, {.site_rows = 256});
  Baseline const baseline = baseline_of(cpu, model, tokens.bottomRows(6));
  auto const kl = [&](ModelCalibration const& calibration) {
    return evaluate(cpu, model, baseline.windows,
                    forward_options(calibration, {}, {.scheme = Scheme::parse("w4a4kv4")}), &baseline)
        .kl;
  };
  CHECK(kl(found[1]) < kl(found[0]));
  for (TransformSummary const& summary : found[1].transforms)
    CHECK(summary.block_mean_variance_after < summary.block_mean_variance_before);
}
