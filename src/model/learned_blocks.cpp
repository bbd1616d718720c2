// SPDX-License-Identifier: Apache-2.0
#include "model/learned_blocks.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include <dartquant/calibrate/calibrate.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/transform/block_rotation.hpp>
#include <dartquant/transform/hadamard.hpp>
#include <dartquant/transform/hadamard_matrix.hpp>
#include <dartquant/transform/transform.hpp>

#include "model/find_transforms.hpp"
#include "model/learn.hpp"
#include "model/weight_rows.hpp"
#include "model/weights.hpp"

namespace dartquant::detail {
namespace {

constexpr std::array sampled{Site::key, Site::o_proj_input, Site::down_proj_input};

/// A seed of its own for every input of every layer.
std::uint64_t site_seed(ModelCalibrationOptions const& run, index_t layer, Site site) {
  return Philox(run.seed, 0x424cu)
      .bits(static_cast<std::uint64_t>(layer) * 8 + static_cast<std::uint64_t>(site));
}

/// `chain`, then one rotation per block, each learned on its own channels of `rows` from the identity on. The
/// first `reported` of them, which have been through `chain`, are what is reported on.
Transform with_blocks(Cpu const& cpu, Transform chain, MatrixView<float const> rows, index_t reported,
                      Site site, ModelCalibrationOptions const& run, index_t layer,
                      ModelCalibration& result) {
  index_t const block = block_of(SiteChain::learned_blocks, rows.cols(), run.block);
  index_t const blocks = rows.cols() / block;
  if (block == 1) return chain;
  HeadCalibration found = learner_of(cpu, run).heads(
      rows, blocks, blocks, {.initial = InitialRotation::identity, .seed = site_seed(run, layer, site)});
  std::vector<RowMatrix<double>> rotations;
  for (Calibration& one : found.heads) rotations.push_back(std::move(one.rotation));
  BlockRotation turn(std::move(rotations));
  RowMatrix<float> turned = as_eigen(rows.rows(0, reported));
  float const largest = turned.cwiseAbs().maxCoeff();
  turn.apply(cpu, MatrixView<float>(turned));
  result.transforms.push_back({.site = site,
                               .layer = layer,
                               .block = block,
                               .largest_before = largest,
                               .largest_after = turned.cwiseAbs().maxCoeff()});
  return chain.then(std::move(turn));
}

/// X, and the rows of weights that the run wants below it.
RowMatrix<float> learned_rows(Cpu const& cpu, Model const& model, index_t layer, Site site,
                              RowMatrix<float> X, ModelCalibrationOptions const& run,
                              ModelCalibration const& result) {
  RowMatrix<float> both =
      with_weight_rows_of(cpu, model, result.rotations, layer, site, X, weight_rows_of(run));
  return both.size() != 0 ? both : X;
}

}  // namespace

void learn_input_blocks(Cpu const& cpu, Model const& model, MatrixView<float const> rows,
                        std::vector<index_t> const& starts, ModelCalibrationOptions const& run,
                        ModelCalibration& result) {
  for (std::size_t i = 0; i + 1 < starts.size(); ++i) {
    RowMatrix<float> X = as_eigen(rows.rows(starts[i], starts[i + 1] - starts[i]));
    if (result.rotations.r1.size() != 0) X = apply(cpu, result.rotations.r1, X);
    index_t const layer = static_cast<index_t>(i / 2), own = X.rows();
    LayerTransforms& transforms = result.rotations.layers[i / 2];
    Site const site = i % 2 == 0 ? Site::q_proj_input : Site::up_proj_input;
    RowMatrix<float> const learned = learned_rows(cpu, model, layer, site, std::move(X), run, result);
    auto& transform = i % 2 == 0 ? transforms.q_proj_input : transforms.up_proj_input;
    transform = with_blocks(cpu, Transform(learned.cols()), learned, own, site, run, layer, result);
  }
}

LearnedBlocks::LearnedBlocks(Cpu const& cpu, Model const& model, index_t tokens,
                             CaptureOptions const& capture)
    : cpu_(cpu),
      model_(model),
      tokens_(tokens),
      rows_(std::max<index_t>(1, capture.r2_rows / 4)),
      seed_(capture.seed) {}

bool LearnedBlocks::observe(Site site, index_t layer, index_t first_token, MatrixView<float const> X) {
  if (std::ranges::find(sampled, site) == sampled.end()) return false;
  if (layer != layer_) samples_.clear();
  layer_ = layer;
  auto const sample = samples_.try_emplace(site, ActivationSample(X.cols(), rows_, seed_)).first;
  sample->second.add(X, static_cast<std::uint64_t>(layer * tokens_ + first_token));
  return site == Site::down_proj_input && first_token + X.rows() == tokens_;
}

RowMatrix<float> LearnedBlocks::output_inputs(Rotations const& rotations) const {
  RowMatrix<float> X = samples_.at(Site::o_proj_input).rows();
  if (rotations.r2.empty()) return X;
  ModelConfig const& config = model_.config();
  index_t const size = config.head_dim, group = config.heads / config.kv_heads;
  for (index_t head = 0; head < config.heads; ++head)
    X.middleCols(head * size, size) *=
        rotations.r2[static_cast<std::size_t>(layer_)][static_cast<std::size_t>(head / group)].cast<float>();
  return X;
}

RowMatrix<float> LearnedBlocks::centred_keys() const {
  RowMatrix<float> K = samples_.at(Site::key).rows();
  Eigen::RowVectorXd const mean = K.cast<double>().colwise().mean();
  K.rowwise() -= mean.cast<float>();
  ModelConfig const& config = model_.config();
  return Eigen::Map<RowMatrix<float> const>(K.data(), K.rows() * config.kv_heads, config.head_dim);
}

Transform LearnedBlocks::mixed_blocks(RowMatrix<float> const& X, Site site,
                                      ModelCalibrationOptions const& run, ModelCalibration& result) const {
  Transform const chain = Transform(X.cols()).then(Hadamard(X.cols(), online_block(X.cols())));
  RowMatrix<float> learned = learned_rows(cpu_, model_, layer_, site, X, run, result);
  chain.apply(cpu_, MatrixView<float>(learned));
  cpu_.normalize_rows<float>(learned);
  return with_blocks(cpu_, chain, learned, X.rows(), site, run, layer_, result);
}

void LearnedBlocks::find(ModelCalibrationOptions const& run, ModelCalibration& result) const {
  Rotations& rotations = result.rotations;
  LayerTransforms& layer = rotations.layers[static_cast<std::size_t>(layer_)];
  layer.o_proj_input = mixed_blocks(output_inputs(rotations), Site::o_proj_input, run, result);
  layer.down_proj_input =
      mixed_blocks(samples_.at(Site::down_proj_input).rows(), Site::down_proj_input, run, result);
  if (!hadamard_order(model_.config().head_dim)) return;
  Calibration keys = learner_of(cpu_, run).rotation(
      centred_keys(), {.row_scale = RowScale::unit_rms, .seed = site_seed(run, layer_, Site::key)});
  layer.key_rotation.emplace(std::move(keys.rotation));
}

}  // namespace dartquant::detail
