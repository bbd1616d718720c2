// SPDX-License-Identifier: Apache-2.0
#include "model/rounded_layers.hpp"

#include <algorithm>
#include <utility>

#include <dartquant/core/error.hpp>
#include <dartquant/quant/gptq.hpp>
#include <dartquant/quant/learned_clip.hpp>
#include <dartquant/quant/packed.hpp>
#include <dartquant/quant/quantize.hpp>

#include "model/quantized_weights.hpp"

namespace dartquant::detail {
namespace {

/// Hessians of experts that are collected in one pass over the text.
constexpr std::size_t hessian_bytes = std::size_t{1} << 30;

/// The places of the quantized maps that read one input.
std::vector<std::size_t> readers_of(LayerWeights const& layer, Site site, index_t block) {
  std::vector<std::size_t> readers;
  for (std::size_t i = 0; i < layer.linears.size(); ++i) {
    LayerLinear const& linear = layer.linears[i];
    if (linear.quantized() && linear.block == block && input_of(linear.linear) == site) readers.push_back(i);
  }
  return readers;
}

/// The pass over the text: all in full precision. R3 would cancel.
ForwardOptions on_text(ForwardOptions const& options) {
  ForwardOptions pass;
  pass.gains = options.gains;
  pass.rotations = options.rotations;
  pass.active = options.active;
  pass.active.r3 = false;
  return pass;
}

}  // namespace

void HessianNotes::add(Hessian const& hessian, double damping) {
  index_t live = 0;
  for (index_t j = 0; j < hessian.channels(); ++j) live += hessian.sum()(j, j) > 0 ? 1 : 0;
  index_t const dead = hessian.channels() - live;
  ++inputs_;
  dead_inputs_ += dead > 0 ? 1 : 0;
  dead_channels_ += dead;
  raised_inputs_ += damping > least_damping_ ? 1 : 0;
  most_damping_ = std::max(most_damping_, damping);
  if (hessian.tokens() >= live) return;
  tokens_ = short_inputs_ == 0 ? hessian.tokens() : std::min(tokens_, hessian.tokens());
  ++short_inputs_;
  most_channels_ = std::max(most_channels_, live);
}

std::vector<std::string> HessianNotes::sentences(WeightQuantization const& weights) const {
  std::vector<std::string> notes;
  std::string const name(name_of(weights.rounding));
  if (short_inputs_ > 0)
    notes.push_back(sentence(name, ": ", tokens_, " tokens of text for up to ", most_channels_,
                             " channels in ", short_inputs_, " of ", inputs_, " inputs: at least ",
                             most_channels_,
                             " are needed to see every direction, several times as many to "
                             "fit it"));
  if (dead_channels_ > 0)
    notes.push_back(sentence(name, ": ", dead_channels_, " channels in ", dead_inputs_, " of ", inputs_,
                             " inputs were 0 on the whole text; their weights were rounded to nearest"));
  if (raised_inputs_ > 0)
    notes.push_back(sentence(name, ": the damping was raised from ", least_damping_, " to ", most_damping_,
                             " at most in ", raised_inputs_, " of ", inputs_,
                             " inputs: with less their Hessians are singular"));
  if (unseen_ > 0)
    notes.push_back(sentence(name, ": ", unseen_,
                             " inputs of experts were given no token of the text; their "
                             "weights were rounded to nearest"));
  return notes;
}

RoundedLayers::RoundedLayers(Cpu const& cpu, FoldedWeights const& folded, WeightQuantization const& weights,
                             ForwardOptions const& options, LevelSink sink)
    : cpu_(cpu),
      folded_(folded),
      weights_(weights),
      options_(options),
      sink_(std::move(sink)),
      notes_(weights.damping) {
  require_text(weights, options.hessian_windows);
  require(folded.model().quantized() == nullptr || !weights.needs_text(), "[RoundedLayers] ",
          folded.model().folder().string(), " holds packed weights: they are not rounded again");
  if (!weights.needs_text()) return;
  text_.emplace(cpu, folded, *options.hessian_windows, on_text(options));
}

LayerWeights RoundedLayers::next() {
  if (folded_.model().quantized() != nullptr) return unpacked();
  bool const levels_only = sink_ && !integer() && !weights_.needs_text();
  LayerWeights layer = load_layer(folded_, layer_, !levels_only);
  if (levels_only) hand_on_levels(layer);
  else if (weights_.needs_text()) round_on_text(layer);
  else if (weights_.active()) round_to_nearest(layer);
  ++layer_;
  return layer;
}

LayerWeights RoundedLayers::unpacked() {
  LayerWeights layer = load_packed_layer(cpu_, folded_.model(), layer_);
  for (std::size_t map = 0; map < layer.maps.size(); ++map) {
    if (!layer.linears[map].quantized()) continue;
    Levels const levels = read_levels(cpu_, folded_.model(), layer.linears[map]);
    if (integer() && std::holds_alternative<Int4Matrix>(levels))
      pack_levels(map, std::get<Int4Matrix>(levels), layer);
    else
      layer.maps[map].weight =
          std::visit([&](auto const& matrix) { return dequantize(cpu_, matrix); }, levels);
  }
  release_pages(folded_.model().checkpoint());
  ++layer_;
  return layer;
}

void RoundedLayers::hand_on_levels(LayerWeights const& layer) {
  for (std::size_t i = 0; i < layer.linears.size(); ++i) {
    LayerLinear const& linear = layer.linears[i];
    if (!linear.quantized()) continue;
    if (weights_.bits <= 4) sink_(i, levels_to_nearest<4>(linear));
    else sink_(i, levels_to_nearest<8>(linear));
  }
}

template <int StorageBits>
IntMatrix<StorageBits> RoundedLayers::levels_to_nearest(LayerLinear const& linear) const {
  QuantizeOptions const options = quantize_options(weights_);
  IntMatrix<StorageBits> levels(linear.outputs, linear.inputs, options);
  folded_.each_block(layer_, linear, [&](index_t first, MatrixView<double const> rows) {
    RowMatrix<float> const W = as_eigen(rows).template cast<float>();
    if constexpr (StorageBits == 4) copy_rows(quantize(cpu_, W, options), 0, levels, first, W.rows());
    else copy_rows(quantize_int8(cpu_, W, options), 0, levels, first, W.rows());
  });
  return levels;
}

void RoundedLayers::round_to_nearest(LayerWeights& layer) {
  for (std::size_t i = 0; i < layer.maps.size(); ++i)
    if (layer.linears[i].quantized()) round_to_nearest(i, layer);
}

void RoundedLayers::round_to_nearest(std::size_t map, LayerWeights& layer) {
  QuantizeOptions const options = quantize_options(weights_);
  RowMatrix<float>& W = layer.maps[map].weight;
  if (integer()) pack_levels(map, quantize(cpu_, W, options), layer);
  else if (sink_ && weights_.bits <= 4) keep(map, quantize(cpu_, W, options), layer);
  else if (sink_) keep(map, quantize_int8(cpu_, W, options), layer);
  else fake_quantize(cpu_, MatrixView<float>(W), options);
}

void RoundedLayers::round_on_text(LayerWeights& layer) {
  levels_.assign(layer.maps.size(), {});
  index_t const blocks = blocks_of(folded_.model().config(), layer_);
  round_site(Site::q_proj_input, 1, layer);
  round_site(Site::o_proj_input, 1, layer);
  text_->add_attention(layer, layer_);
  round_site(Site::up_proj_input, blocks, layer);
  round_site(Site::down_proj_input, blocks, layer);
  text_->add_feed_forward(layer, layer_);
  if (!integer()) return;
  for (std::size_t i = 0; i < levels_.size(); ++i)
    if (levels_[i].rows() != 0) pack_levels(i, std::exchange(levels_[i], {}), layer);
    else if (layer.linears[i].quantized()) round_to_nearest(i, layer);
}

void RoundedLayers::round_site(Site site, index_t blocks, LayerWeights& layer) {
  for (index_t first = 0; first < blocks;) {
    std::vector<Hessian> hessians;
    std::size_t bytes = 0;
    for (index_t block = first; block < blocks && (block == first || bytes < hessian_bytes); ++block) {
      index_t const channels = layer.linears[readers_of(layer, site, block).front()].inputs;
      std::string const expert = blocks > 1 ? sentence(", expert ", block) : "";
      hessians.emplace_back(channels, sentence("layer ", layer_, ", ", name_of(site), expert));
      bytes += static_cast<std::size_t>(channels * channels) * sizeof(double);
    }
    auto const count = static_cast<index_t>(hessians.size());
    text_->observe_until(site, layer, layer_, [&](Site seen, index_t block, MatrixView<float const> X) {
      if (seen == site && block >= first && block < first + count)
        hessians[static_cast<std::size_t>(block - first)].add(cpu_, X);
    });
    for (index_t i = 0; i < count; ++i) {
      Hessian const& hessian = hessians[static_cast<std::size_t>(i)];
      std::vector<std::size_t> const readers = readers_of(layer, site, first + i);
      if (hessian.tokens() == 0) round_unseen(readers, layer);
      else if (weights_.bits <= 4) round_readers<4>(hessian, readers, layer);
      else round_readers<8>(hessian, readers, layer);
    }
    first += count;
  }
}

void RoundedLayers::round_unseen(std::span<std::size_t const> readers, LayerWeights& layer) {
  notes_.add_unseen();
  if (integer()) return;  // packed with the others, from the exact weights
  for (std::size_t const map : readers) round_to_nearest(map, layer);
}

template <int StorageBits>
void RoundedLayers::round_readers(Hessian const& hessian, std::span<std::size_t const> readers,
                                  LayerWeights& layer) {
  std::vector<MatrixView<float const>> weights;
  for (std::size_t const map : readers) weights.emplace_back(layer.maps[map].weight);
  QuantizeOptions quantize = quantize_options(weights_);
  double damping = weights_.damping;
  if (weights_.rounding == WeightRounding::gptq) {
    auto results = gptq_all<StorageBits>(
        cpu_, weights, hessian, {.quantize = quantize, .damping = weights_.damping, .order = weights_.order});
    damping = results.front().report.damping;
    for (std::size_t i = 0; i < readers.size(); ++i) keep(readers[i], std::move(results[i].weight), layer);
  } else {
    quantize.clip_search = ClipSearch::none;
    for (std::size_t i = 0; i < readers.size(); ++i)
      keep(readers[i], learned_clip<StorageBits>(cpu_, weights[i], hessian, {.quantize = quantize}).weight,
           layer);
  }
  notes_.add(hessian, damping);
}

template <int StorageBits>
void RoundedLayers::keep(std::size_t map, IntMatrix<StorageBits> levels, LayerWeights& layer) {
  dequantize(cpu_, levels, MatrixView<float>(layer.maps[map].weight));
  if constexpr (StorageBits == 4)
    if (integer()) {
      levels_[map] = std::move(levels);
      return;
    }
  if (sink_) sink_(map, std::move(levels));
}

/// In 4 bits, with scales that fit those of the input, of which there is one per head or token.
void RoundedLayers::pack_levels(std::size_t map, Int4Matrix const& levels, LayerWeights& layer) const {
  bool const heads = options_.quantization.o_proj_input == Quantization::OutputInput::per_head &&
                     layer.linears[map].linear == Linear::o_proj;
  index_t const input_group = heads ? folded_.model().config().head_dim : levels.cols();
  auto const group = product_group(levels.cols(), input_group, levels.block().cols);
  require(group.has_value(), "[hidden_states] scales of ", input_group,
          " channels of the o_proj input and of ", levels.block().cols,
          " of its weights: for integer products both must be multiples of 8, one dividing "
          "the other");
  bool const sums = options_.quantization.scheme.activations > 4;
  layer.maps[map].packed = pack(cpu_, levels, {.group = *group, .sums = sums});
  layer.maps[map].weight.resize(0, 0);
}

}  // namespace dartquant::detail
