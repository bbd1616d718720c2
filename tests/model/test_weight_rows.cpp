// SPDX-License-Identifier: Apache-2.0
#include "model/weight_rows.hpp"

#include <dartquant/model/pipeline.hpp>
#include <dartquant/transform/rotation.hpp>

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "model/learn.hpp"
#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

/// Rows of q, k, v, gate and up of every layer with the gains of their norms, at unit RMS.
RowMatrix<float> all_rows(Model const& model) {
  std::vector<RowMatrix<double>> parts;
  index_t rows = 0;
  for (index_t layer = 0; layer < model.config().layers; ++layer) {
    std::string const prefix = "model.layers." + std::to_string(layer) + ".";
    auto const read = [&](std::string const& name) {
      return model.checkpoint().read_matrix<double>(prefix + name + ".weight");
    };
    for (auto const& [name, norm] :
         std::vector<std::pair<std::string, std::string>>{{"self_attn.q_proj", "input_layernorm"},
                                                          {"self_attn.k_proj", "input_layernorm"},
                                                          {"self_attn.v_proj", "input_layernorm"},
                                                          {"mlp.gate_proj", "post_attention_layernorm"},
                                                          {"mlp.up_proj", "post_attention_layernorm"}}) {
      parts.push_back(read(name).array().rowwise() * read(norm).row(0).array());
      rows += parts.back().rows();
    }
  }
  RowMatrix<float> all(rows, model.config().hidden);
  index_t first = 0;
  for (RowMatrix<double> const& part : parts) {
    all.middleRows(first, part.rows()) =
        (part.array().colwise() / part.array().square().rowwise().mean().sqrt()).cast<float>();
    first += part.rows();
  }
  return all;
}

}  // namespace

TEST_CASE("rows of weights are spread over all maps that read the stream", "[calibrate]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  Cpu const cpu(1);
  RowMatrix<float> const all = all_rows(model);
  auto const taken = [&](index_t rows) {
    RowMatrix<float> const X = RowMatrix<float>::Constant(2 * rows, model.config().hidden, 3);
    RowMatrix<float> const both = detail::with_weight_rows(cpu, model, X, 0.5);
    REQUIRE(both.rows() == 3 * rows);
    REQUIRE(both.topRows(2 * rows) == X);
    return RowMatrix<float>(both.bottomRows(rows));
  };
  CHECK((taken(all.rows()) - all).cwiseAbs().maxCoeff() < 1e-5f);
  RowMatrix<float> const few = taken(10), many = taken(3 * all.rows());
  for (index_t i = 0; i < few.rows(); ++i)
    CHECK((few.row(i) - all.row(i * all.rows() / 10)).cwiseAbs().maxCoeff() < 1e-5f);
  for (index_t i = 0; i < many.rows(); ++i)
    CHECK((many.row(i) - all.row(i / 3)).cwiseAbs().maxCoeff() < 1e-5f);
  RowMatrix<float> const X = RowMatrix<float>::Ones(3, model.config().hidden);
  CHECK(detail::with_weight_rows(cpu, model, X, 0).size() == 0);
  CHECK(detail::with_weight_rows(cpu, model, X.topRows(1), 0.5).size() == 0);
}

TEST_CASE("rows of weights of one input are those of its own maps, times R1", "[calibrate]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  Cpu const cpu(1);
  index_t const hidden = model.config().hidden, layer = 1;
  Rotations rotations;
  rotations.r1 = random_hadamard(hidden, 5);
  rotations.layers.resize(static_cast<std::size_t>(model.config().layers));
  // Of a layer: q, k, v, then gate, up.
  index_t const attention = (model.config().heads + 2 * model.config().kv_heads) * model.config().head_dim,
                mlp = 2 * model.config().intermediate;
  RowMatrix<float> const all =
      all_rows(model).middleRows(layer * (attention + mlp), attention + mlp) * rotations.r1.cast<float>();
  for (auto const& [site, first, count] :
       {std::tuple{Site::q_proj_input, index_t{0}, attention}, {Site::up_proj_input, attention, mlp}}) {
    RowMatrix<float> const X = RowMatrix<float>::Constant(count, hidden, 2);
    RowMatrix<float> const both = detail::with_weight_rows_of(cpu, model, rotations, layer, site, X, 1);
    REQUIRE(both.rows() == 2 * count);
    CHECK(both.topRows(count) == X);
    CHECK((both.bottomRows(count) - all.middleRows(first, count)).cwiseAbs().maxCoeff() < 1e-5f);
    CHECK(detail::with_weight_rows_of(cpu, model, rotations, layer, site, X, 0).size() == 0);
  }
}

TEST_CASE("rows of weights that write the stream are turned by R1, those of o_proj by R2 as well",
          "[calibrate]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  ModelConfig const& config = model.config();
  Cpu const cpu(1);
  Rotations rotations;
  rotations.r1 = random_hadamard(config.hidden, 5);
  rotations.layers.resize(static_cast<std::size_t>(config.layers));
  RowMatrix<double> heads = RowMatrix<double>::Zero(config.query_channels(), config.query_channels());
  for (index_t layer = 0; layer < config.layers; ++layer) {
    rotations.r2.emplace_back();
    for (index_t head = 0; head < config.kv_heads; ++head)
      rotations.r2.back().push_back(
          random_hadamard(config.head_dim, static_cast<std::uint64_t>(9 * layer + head)));
  }
  index_t const size = config.head_dim, group = config.heads / config.kv_heads;
  for (index_t head = 0; head < config.heads; ++head)
    heads.block(head * size, head * size, size, size) =
        rotations.r2[1][static_cast<std::size_t>(head / group)];
  auto const expected = [&](char const* name, RowMatrix<double> const& inputs) {
    RowMatrix<double> const W = model.checkpoint().read_matrix<double>(std::string("model.layers.1.") + name);
    RowMatrix<double> const turned = rotations.r1.transpose() * W * inputs;
    return RowMatrix<float>(
        (turned.array().colwise() / turned.array().square().rowwise().mean().sqrt()).cast<float>());
  };
  auto const check = [&](Site site, RowMatrix<float> const& all) {
    RowMatrix<float> const X = RowMatrix<float>::Constant(2 * all.rows(), all.cols(), 2);
    RowMatrix<float> const both = detail::with_weight_rows_of(cpu, model, rotations, 1, site, X, 0.5);
    REQUIRE(both.rows() == 3 * all.rows());
    CHECK(both.topRows(2 * all.rows()) == X);
    CHECK((both.bottomRows(all.rows()) - all).cwiseAbs().maxCoeff() < 1e-5f);
  };
  check(Site::o_proj_input, expected("self_attn.o_proj.weight", heads));
  check(Site::down_proj_input,
        expected("mlp.down_proj.weight",
                 RowMatrix<double>::Identity(config.intermediate, config.intermediate)));
}

TEST_CASE("a run says how many rows of weights it learns on", "[calibrate]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const tokens = some_tokens(6, 24, 64);
  auto const learned = [&](Method method, std::optional<double> share) {
    return calibrate(Cpu(1), model, tokens, {.method = method, .seed = 3, .weight_rows = share}).rotations.r1;
  };
  for (Method const method : {Method::dartquant, Method::centred}) {
    REQUIRE(learned(method, std::nullopt) == learned(method, traits(method).weight_rows));
    REQUIRE(learned(method, 0) != learned(method, 0.5));
  }
  auto const blocks = [&](double share) {
    ModelCalibrationOptions const options{.method = Method::centred_blocks, .seed = 3, .weight_rows = share};
    return calibrate(Cpu(1), model, tokens, options).rotations.layers[0].up_proj_input.value();
  };
  RowMatrix<double> const identity =
      RowMatrix<double>::Identity(model.config().hidden, model.config().hidden);
  auto const turned = [&](Transform const& T) {
    RowMatrix<double> X = identity;
    T.apply(Cpu(1), MatrixView<double>(X));
    return X;
  };
  REQUIRE(turned(blocks(0)) != turned(blocks(0.5)));
  REQUIRE_INVALID(learned(Method::centred, -1), "-1 rows of weights");
}

TEST_CASE("the second pass runs over windows enough to fill its samples twice", "[calibrate]") {
  auto const windows = [](index_t all, index_t seqlen, index_t rows) {
    return detail::second_pass_windows(all, seqlen, {.r2_rows = rows});
  };
  CHECK(windows(128, 2048, 16384) == 16);
  CHECK(windows(8, 24, 16) == 2);
  CHECK(windows(8, 24, 1) == 1);
  CHECK(windows(8, 24, 96) == 8);
  CHECK(windows(8, 24, std::numeric_limits<index_t>::max()) == 8);
}
