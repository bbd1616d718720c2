// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/fold.hpp>
#include <dartquant/model/pipeline.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

ModelCalibrationOptions const run{.method = Method::ostquant, .seed = 3};

std::vector<double> geometric_means(LayerTransforms const& layer) {
  std::vector<double> means;
  for (auto const* scale : {&layer.attention_scale, &layer.mlp_scale, &layer.down_scale}) {
    double logarithms = 0;
    for (double const each : scale->value().scale()) logarithms += std::log(each);
    means.push_back(std::exp(logarithms / static_cast<double>((*scale)->channels())));
  }
  return means;
}

/// max / min over channels of (RMS of the input) / (norm of the columns that read it), at the up_proj input.
double imbalance(Model const& model, TokenWindows const& tokens, ForwardOptions options) {
  RowMatrix<double> squares = RowMatrix<double>::Zero(1, 32);
  options.observer = [&](Site site, index_t layer, index_t, MatrixView<float const> X) {
    if (site == Site::up_proj_input && layer == 1)
      squares += as_eigen(X).cast<double>().array().square().matrix().colwise().sum();
  };
  static_cast<void>(hidden_states(Cpu(1), model, tokens, options));
  return std::sqrt(squares.maxCoeff() / squares.minCoeff());
}

}  // namespace

TEST_CASE("balanced scales change nothing while nothing is quantized, and fold", "[transforms][scales]") {
  TemporaryFolder const folder;
  Model const model =
      Model::open(write_synthetic(folder / "m", {.tied = true, .attention_bias = true, .mlp_bias = true}));
  TokenWindows const tokens = some_tokens(6, 24, 64);
  ModelCalibration const found = calibrate(Cpu(2), model, tokens, run);
  found.rotations.validate(model.config());
  REQUIRE(found.rotations.layers.size() == 2);
  for (LayerTransforms const& layer : found.rotations.layers) {
    REQUIRE(!layer.online());
    for (double const mean : geometric_means(layer)) CHECK(mean == Approx(1.0).epsilon(1e-9));
  }
  RowMatrix<float> const plain = logits(Cpu(1), model, tokens);
  ForwardOptions const options = forward_options(found, {.r1 = true, .r2 = true, .r4 = true}, {});
  CHECK(relative_difference(logits(Cpu(1), model, tokens, options), plain) < 1e-4);
  static_cast<void>(fold(Cpu(1), model, found.rotations, folder / "folded",
                         {.rotations = {.r1 = true, .r2 = true}, .dtype = Dtype::f32}));
  Model const folded = Model::open(folder / "folded");
  CHECK(relative_difference(logits(Cpu(1), folded, tokens), plain) < 1e-4);
  ModelCalibration const again = calibrate(Cpu(1), model, tokens, run);
  REQUIRE(again.rotations.layers[1].mlp_scale->scale() == found.rotations.layers[1].mlp_scale->scale());
}

TEST_CASE("balanced scales even out a loud channel that no rotation reaches", "[transforms][scales]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const tokens = some_tokens(8, 32, 64);
  ModelCalibration found = calibrate(Cpu(1), model, tokens, {.method = Method::ostquant, .rotations = {}});
  ForwardOptions options = forward_options(found, {}, {});
  options.gains = NormGains::folded;
  ModelCalibration const without = calibrate(Cpu(1), model, tokens, {.method = Method::rtn});
  ForwardOptions plain = forward_options(without, {}, {});
  plain.gains = NormGains::folded;
  CHECK(imbalance(model, tokens, options) < imbalance(model, tokens, plain));
}
