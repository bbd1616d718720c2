// SPDX-License-Identifier: Apache-2.0
#include "model/find_transforms.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include <dartquant/core/random.hpp>
#include <dartquant/transform/duquant.hpp>

#include "model/layer_parts.hpp"

namespace dartquant::detail {
namespace {

/// The inputs that a layer's linear maps read, and the one map whose weights DuQuant smooths them with.
struct SearchedInput {
  Site site;
  std::optional<Transform> LayerTransforms::*transform;
  std::optional<DiagonalScale> LayerTransforms::*scale;
  Linear reader;
};
constexpr std::array searched_inputs{SearchedInput{Site::q_proj_input, &LayerTransforms::q_proj_input,
                                                   &LayerTransforms::attention_scale, Linear::q_proj},
                                     SearchedInput{Site::o_proj_input, &LayerTransforms::o_proj_input,
                                                   &LayerTransforms::value_scale, Linear::o_proj},
                                     SearchedInput{Site::up_proj_input, &LayerTransforms::up_proj_input,
                                                   &LayerTransforms::mlp_scale, Linear::up_proj},
                                     SearchedInput{Site::down_proj_input, &LayerTransforms::down_proj_input,
                                                   &LayerTransforms::down_scale, Linear::down_proj}};

index_t channels_of(Site site, ModelConfig const& config) {
  if (site == Site::o_proj_input) return config.query_channels();
  return site == Site::down_proj_input ? config.intermediate : config.hidden;
}

bool searches(SiteChain chain) { return chain != SiteChain::none && chain != SiteChain::heads_hadamard; }

DuQuantOptions chain_options(SiteChain chain) {
  if (chain == SiteChain::duquant_released) return duquant_as_released();
  if (chain == SiteChain::zigzag_hadamard) return zigzag_hadamard();
  DuQuantOptions options = duquant();
  if (chain == SiteChain::rotation) options.permutation_times = 0;
  return options;
}

/// H_heads (x) I: mixes the same channel of all heads. With R2 = H_head_dim on the values, QuaRot's transform
/// of the o_proj input.
Transform heads_hadamard(ModelConfig const& config) {
  std::vector<index_t> source;  // channel-major: the heads of a channel side by side
  for (index_t channel = 0; channel < config.head_dim; ++channel)
    for (index_t head = 0; head < config.heads; ++head) source.push_back(head * config.head_dim + channel);
  Permutation const gather(std::move(source));
  return Transform(config.query_channels())
      .then(gather)
      .then(Hadamard(config.query_channels(), config.heads))
      .then(gather.inverse());
}

TransformSummary summary_of(Site site, index_t layer, index_t block, DuQuantResult const& found) {
  TransformSummary summary{.site = site, .layer = layer, .block = block};
  summary.largest_before = found.stages.front().largest;
  summary.largest_after = found.stages.back().largest;
  for (std::size_t i = 1; i < found.stages.size(); ++i) {
    if (found.stages[i].kind != DuQuantStage::Kind::permutation) continue;
    summary.block_mean_variance_before = found.stages[i - 1].block_mean_variance;
    summary.block_mean_variance_after = found.stages[i].block_mean_variance;
  }
  return summary;
}

}  // namespace

index_t block_of(SiteChain chain, index_t channels, index_t limit) {
  index_t block = std::min(limit, channels);
  bool const hadamard = chain == SiteChain::zigzag_hadamard;
  while (channels % block != 0 || (hadamard && !hadamard_order(block))) --block;
  return block;
}

std::vector<std::string> transform_notes(MethodTraits const& method, ModelConfig const& config,
                                         index_t block) {
  std::vector<std::string> notes;
  if (method.sites == SiteChain::heads_hadamard && !hadamard_order(config.heads))
    notes.push_back(sentence(method.name, ": no Hadamard matrix of order ", config.heads,
                             " is known, so the heads are not mixed"));
  if (!searches(method.sites)) return notes;
  for (SearchedInput const& input : searched_inputs) {
    index_t const channels = channels_of(input.site, config), own = block_of(method.sites, channels, block);
    if (own != block)
      notes.push_back(sentence(method.name, ": blocks of ", block, " do not fit the ", channels,
                               " channels of the ", name_of(input.site), "; it has blocks of ", own,
                               own == channels && method.sites != SiteChain::learned_blocks
                                   ? ", one only, so that a permutation changes nothing"
                                   : ""));
  }
  if (config.mixture.experts != 0)
    notes.push_back(sentence(method.name, ": the inputs of down_proj of experts are left as they are"));
  if (method.sites == SiteChain::learned_blocks) return notes;
  notes.push_back(sentence(method.name,
                           ": queries stay in full precision here, keys and values are rounded "
                           "without a transform; DuQuant's code rounds all three"));
  return notes;
}

LayerTransformSearch::LayerTransformSearch(Cpu const& cpu, Model const& model, index_t tokens,
                                           CaptureOptions const& capture)
    : cpu_(cpu),
      model_(model),
      tokens_(tokens),
      capture_(capture),
      weights_(cpu, model, nullptr, {}, NormGains::folded) {}

bool LayerTransformSearch::observe(Site site, index_t layer, index_t first_token, MatrixView<float const> X) {
  bool const sparse =
      model_.config().sparse(layer);  // every expert has an own input of down_proj: left alone
  if (std::ranges::none_of(searched_inputs, [&](SearchedInput const& input) { return input.site == site; }) ||
      (sparse && site == Site::down_proj_input))
    return false;
  if (layer != layer_) inputs_.clear();
  layer_ = layer;
  auto [input, is_new] =
      inputs_.try_emplace(site, Input{ActivationSample(X.cols(), capture_.site_rows, capture_.seed),
                                      std::vector<double>(static_cast<std::size_t>(X.cols()), 0.0)});
  input->second.sample.add(X, static_cast<std::uint64_t>(layer * tokens_ + first_token));
  raise_channel_peaks(cpu_, X, input->second.peaks);
  return site == (sparse ? Site::up_proj_input : Site::down_proj_input) && first_token + X.rows() == tokens_;
}

std::vector<double> LayerTransformSearch::weight_peaks(Linear linear) const {
  std::vector<double> peaks;
  for (LayerLinear const& map : weights_.linears(layer_)) {  // of all experts
    if (map.linear != linear) continue;
    peaks.resize(static_cast<std::size_t>(map.inputs), 0.0);
    RowMatrix<double> const W = weights_.weight(layer_, map);
    raise_channel_peaks(cpu_, MatrixView<double const>(W), peaks);
  }
  return peaks;
}

LayerTransforms LayerTransformSearch::smoothing(double alpha) const {
  ModelConfig const& config = model_.config();
  LayerTransforms scales;
  for (SearchedInput const& input : searched_inputs) {
    if (!inputs_.contains(input.site)) continue;
    DiagonalScale scale =
        smoothing_scale(inputs_.at(input.site).peaks, weight_peaks(input.reader), {.alpha = alpha});
    if (input.site == Site::o_proj_input)
      scale = share_head_scales(scale, config.heads, config.kv_heads).values;
    scales.*input.scale = std::move(scale);
  }
  return scales;
}

RowMatrix<double> LayerTransformSearch::smoothed(Site site, std::optional<DiagonalScale> const& scale) const {
  RowMatrix<double> X = inputs_.at(site).sample.rows().cast<double>();
  if (!scale) return X;
  if (site == Site::o_proj_input) query_head_scale(*scale, model_.config()).apply(cpu_, X);
  else scale->apply(cpu_, X);
  return X;
}

void LayerTransformSearch::find(ModelCalibrationOptions const& run, ModelCalibration& result) const {
  MethodTraits const& method = traits(run.method);
  ModelConfig const& config = model_.config();
  LayerTransforms layer = method.smoothing ? smoothing(*method.smoothing) : LayerTransforms{};
  if (method.sites == SiteChain::heads_hadamard && hadamard_order(config.heads))
    layer.o_proj_input = heads_hadamard(config);
  for (std::size_t i = 0; i < searched_inputs.size() && searches(method.sites); ++i) {
    if (!inputs_.contains(searched_inputs[i].site)) continue;
    RowMatrix<double> const X = smoothed(searched_inputs[i].site, layer.*searched_inputs[i].scale);
    DuQuantOptions options = chain_options(method.sites);
    options.block = block_of(method.sites, X.cols(), run.block);
    options.seed =
        Philox(run.seed, 0x4451u).bits(static_cast<std::uint64_t>(layer_) * searched_inputs.size() + i);
    DuQuantResult found = duquant_transform(cpu_, MatrixView<double const>(X), options);
    result.transforms.push_back(summary_of(searched_inputs[i].site, layer_, options.block, found));
    layer.*searched_inputs[i].transform = std::move(found.transform);
  }
  result.rotations.layers.push_back(std::move(layer));
}

}  // namespace dartquant::detail
