// SPDX-License-Identifier: Apache-2.0
// GPTQ and learned clipping in the model pipeline: rounding that looks at what the layers read.
#include <dartquant/model/fold.hpp>
#include <dartquant/model/pipeline.hpp>
#include <dartquant/quant/gptq.hpp>
#include <dartquant/transform/hadamard.hpp>

#include <limits>
#include <string>
#include <vector>

#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

ForwardOptions rounded(WeightRounding rounding, TokenWindows const& text, int bits = 4) {
  ForwardOptions options;
  options.gains = NormGains::folded;
  options.quantization.scheme.weights = bits;
  options.quantization.weight_rounding = rounding;
  options.hessian_windows = &text;
  return options;
}

FoldOptions written(ForwardOptions const& options) {
  return {.rotations = options.active,
          .dtype = Dtype::f32,
          .weights = options.quantization.weights(),
          .hessian_windows = options.hessian_windows};
}

/// What the first layer's down_proj reads in a forward pass.
RowMatrix<float> down_proj_input(Model const& model, TokenWindows const& text) {
  RowMatrix<float> found;
  ForwardOptions options;
  options.observer = [&](Site site, index_t layer, index_t, MatrixView<float const> X) {
    if (site == Site::down_proj_input && layer == 0) found = as_eigen(X);
  };
  static_cast<void>(hidden_states(Cpu(1), model, text, options));
  return found;
}

double output_error(RowMatrix<float> const& X, RowMatrix<float> const& W, RowMatrix<float> const& Q) {
  return ((W - Q).cast<double>() * X.transpose().cast<double>()).squaredNorm();
}

constexpr char const* down_proj = "model.layers.0.mlp.down_proj.weight";

}  // namespace

TEST_CASE("GPTQ and learned clipping lower the perplexity of rounding to nearest, in memory and written",
          "[rounding][real]") {
  TemporaryFolder const folder;
  Cpu const cpu(2);
  RealModel const tiny = real_models().front();
  Model const model = Model::open(tiny.folder);
  TokenWindows const all = tiny.windows(48), measured = all.topRows(16), text = all.bottomRows(32);
  ForwardOptions const nearest = rounded(WeightRounding::nearest, text, 3),
                       gptq = rounded(WeightRounding::gptq, text, 3),
                       clipped = rounded(WeightRounding::learned_clip, text, 3);
  double const by_nearest = evaluate(cpu, model, measured, nearest).nll,
               by_gptq = evaluate(cpu, model, measured, gptq).nll,
               by_clipping = evaluate(cpu, model, measured, clipped).nll;
  CAPTURE(by_nearest, by_gptq, by_clipping);
  CHECK(by_gptq < by_nearest - 0.02);
  CHECK(by_clipping < by_nearest - 0.02);
  FoldReport const report = fold(cpu, model, {}, folder / "out", written(gptq));
  CHECK(report.notes.empty());
  ForwardOptions plain;
  CHECK(evaluate(cpu, Model::open(folder / "out"), measured, plain).nll == Approx(by_gptq).epsilon(1e-6));
}

TEST_CASE("what is rounded on text does not depend on threads", "[rounding][threads]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const text = some_tokens(6, 16, 64), tokens = some_tokens(2, 8, 64, 3);
  for (auto const rounding : {WeightRounding::gptq, WeightRounding::learned_clip}) {
    ForwardOptions options = rounded(rounding, text);
    options.active.r4 = true;
    options.quantization.weight_symmetry = Symmetry::asymmetric;
    options.quantization.weight_group = 16;
    REQUIRE(hidden_states(Cpu(3), model, tokens, options) == hidden_states(Cpu(1), model, tokens, options));
  }
}

// Sequential rounding means that a written model shows by itself what each map was rounded for.
TEST_CASE("the Hessian is that of the inputs with R4 and with all maps before rounded",
          "[rounding][online]") {
  TemporaryFolder const folder;
  Cpu const cpu(1);
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const text = some_tokens(8, 16, 64);
  ForwardOptions options = rounded(WeightRounding::gptq, text, 3);
  options.active.r4 = true;
  static_cast<void>(fold(cpu, model, {}, folder / "rounded", written(options)));
  static_cast<void>(fold(cpu, model, {}, folder / "exact", {.rotations = options.active}));
  Model const output = Model::open(folder / "rounded");
  RowMatrix<float> const W = Model::open(folder / "exact").checkpoint().read_matrix<float>(down_proj),
                         Q = output.checkpoint().read_matrix<float>(down_proj),
                         X = down_proj_input(output, text);  // R4 runs online by itself
  GptqOptions const how{.quantize = {.bits = 3, .clip_search = ClipSearch::mse},
                        .damping = options.quantization.weight_damping};
  Hessian seen(W.cols()), unrotated(W.cols());
  seen.add(cpu, X);
  REQUIRE(relative_difference(dequantize(cpu, gptq(cpu, W, seen, how).weight), Q) < 1e-6);
  RowMatrix<float> back = X;  // the inputs before R4: orthogonal, so its inverse is its transpose
  RowMatrix<double> const identity = RowMatrix<double>::Identity(W.cols(), W.cols());
  RowMatrix<double> R4 = identity;
  Hadamard(W.cols(), hadamard_block(W.cols(), W.cols())).apply(cpu, MatrixView<double>(R4));
  back = (X.cast<double>() * R4.transpose()).cast<float>();
  unrotated.add(cpu, back);
  RowMatrix<float> const without = dequantize(cpu, gptq(cpu, W, unrotated, how).weight),
                         nearest = dequantize(cpu, quantize(cpu, W, how.quantize));
  REQUIRE(output_error(X, W, Q) < 0.9 * output_error(X, W, without));
  REQUIRE(output_error(X, W, Q) < 0.9 * output_error(X, W, nearest));
}

TEST_CASE("dead, duplicate and too few inputs are survived with a sentence", "[rounding][bad]") {
  TemporaryFolder const folder;
  Cpu const cpu(2);
  SyntheticModel damaged;
  damaged.edit = [](std::string const& name, RowMatrix<float>& W) {
    if (name.find("gate_proj") == name.npos && name.find("up_proj") == name.npos) return;
    W.row(5).setZero();  // channel 5 of the down_proj input is always 0
    W.row(9) = W.row(8);
  };
  Model const model = Model::open(write_synthetic(folder / "m", damaged));
  TokenWindows const text = some_tokens(8, 16, 64), one = some_tokens(1, 3, 64);
  for (auto const rounding : {WeightRounding::gptq, WeightRounding::learned_clip}) {
    ForwardOptions options = rounded(rounding, text);
    options.quantization.weight_damping = 0;
    std::string const name(name_of(rounding));
    std::vector<std::string> const notes = evaluate(cpu, model, some_tokens(2, 8, 64, 3), options).notes;
    REQUIRE(notes.size() == (rounding == WeightRounding::gptq ? 2U : 1U));
    REQUIRE(notes[0] == name +
                            ": 2 channels in 2 of 8 inputs were 0 on the whole text; their weights were "
                            "rounded to nearest");
    if (notes.size() == 2) REQUIRE(notes[1].find("the damping was raised from 0 to ") != std::string::npos);
    options.hessian_windows = &one;
    REQUIRE(evaluate(cpu, model, some_tokens(2, 8, 64, 3), options).notes[0] ==
            name +
                ": 3 tokens of text for up to 47 channels in 8 of 8 inputs: at least 47 are needed to see "
                "every direction, several times as many to fit it");
  }
}

TEST_CASE("rounding on text refuses what is missing or not finite, with the layer's name",
          "[rounding][bad]") {
  TemporaryFolder const folder;
  Cpu const cpu(1);
  TokenWindows const text = some_tokens(2, 8, 64);
  ForwardOptions options = rounded(WeightRounding::gptq, text);
  SyntheticModel damaged;
  float const marked = 1234.5f, nan = std::numeric_limits<float>::quiet_NaN();
  damaged.edit = [&](std::string const& name, RowMatrix<float>& W) {
    if (name.find("layers.1.mlp.up_proj") != name.npos) W(3, 4) = marked;
  };
  fs::path const file = write_synthetic(folder / "nan", damaged) / "model.safetensors";
  auto const text_of = [](float const& value) {
    return std::string(reinterpret_cast<char const*>(&value), 4);
  };
  std::string bytes = read_bytes(file);
  write_bytes(file, bytes.replace(bytes.find(text_of(marked)), 4, text_of(nan)));
  REQUIRE_ERROR(hidden_states(cpu, Model::open(folder / "nan"), text, options), format,
                "model.layers.1.mlp.up_proj.weight");
  damaged.edit = [](std::string const& name, RowMatrix<float>& W) {
    if (name.find("layers.1.mlp.gate_proj") != name.npos || name.find("layers.1.mlp.up_proj") != name.npos)
      W *= 1e30f;
  };
  Model const overflowing = Model::open(write_synthetic(folder / "inf", damaged));
  REQUIRE_INVALID(hidden_states(cpu, overflowing, text, options),
                  "[Hessian::add] layer 1, down_proj input: the input at token");
  options.quantization.weight_damping = -1;
  REQUIRE_INVALID(hidden_states(cpu, overflowing, text, options), "damping -1");
  options.quantization.weight_damping = 0.01;
  options.hessian_windows = nullptr;
  REQUIRE_INVALID(hidden_states(cpu, overflowing, text, options), "set hessian_windows");
  REQUIRE_INVALID(fold(cpu, overflowing, {}, folder / "out", written(options)), "rounding by gptq");
  REQUIRE_INVALID(static_cast<void>(parse_rounding("awq")), "rtn, gptq, lwc");
}
