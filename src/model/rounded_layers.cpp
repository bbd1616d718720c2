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

/// The linear maps that read one input, in the order of the computation.
struct Readers {
  Site site;
  std::array<Linear, 3> linears;
  std::size_t count;
};
constexpr std::array<Readers, 4> readers_of_inputs{
    {{Site::q_proj_input, {Linear::q_proj, Linear::k_proj, Linear::v_proj}, 3},
     {Site::o_proj_input, {Linear::o_proj}, 1},
     {Site::up_proj_input, {Linear::gate_proj, Linear::up_proj}, 2},
     {Site::down_proj_input, {Linear::down_proj}, 1}}};

std::size_t index_of(Linear linear) { return static_cast<std::size_t>(linear); }

/// The pass over the text: all in full precision. R3 would cancel.
ForwardOptions on_text(ForwardOptions const& options, Observer observer) {
  ForwardOptions pass;
  pass.gains = options.gains;
  pass.rotations = options.rotations;
  pass.active = options.active;
  pass.active.r3 = false;
  pass.observer = std::move(observer);
  return pass;
}

}  // namespace

void HessianNotes::add(Hessian const& hessian, double damping) {
  index_t live = 0;
  for (index_t j = 0; j < hessian.channels(); ++j) live += hessian.sum()(j, j) > 0 ? 1 : 0;
  index_t const dead = hessian.channels() - live;
  ++inputs_;
  tokens_ = hessian.tokens();
  dead_inputs_ += dead > 0 ? 1 : 0;
  dead_channels_ += dead;
  raised_inputs_ += damping > least_damping_ ? 1 : 0;
  most_damping_ = std::max(most_damping_, damping);
  if (tokens_ >= live) return;
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
  text_.emplace(cpu, folded, *options.hessian_windows,
                on_text(options, [this](Site site, index_t, index_t, MatrixView<float const> X) {
                  if (collecting_ != nullptr && site == collected_) collecting_->add(cpu_, X);
                }));
}

LayerWeights RoundedLayers::next() {
  if (folded_.model().quantized() != nullptr) return unpacked();
  LayerWeights layer = load_layer(folded_, layer_);
  if (weights_.needs_text()) round_on_text(layer);
  else if (weights_.active()) round_to_nearest(layer);
  ++layer_;
  return layer;
}

LayerWeights RoundedLayers::unpacked() {
  Model const& model = folded_.model();
  LayerWeights layer = load_packed_layer(model, layer_);
  for (LinearRule const& rule : model.family().linears) {
    Levels const levels = read_levels(cpu_, model, layer_, rule);
    auto const index = index_of(rule.linear);
    if (integer() && std::holds_alternative<Int4Matrix>(levels))
      pack_levels(rule.linear, std::get<Int4Matrix>(levels), layer);
    else
      layer.weight[index] = std::visit([&](auto const& matrix) { return dequantize(cpu_, matrix); }, levels);
  }
  release_pages(model.checkpoint());
  ++layer_;
  return layer;
}

void RoundedLayers::round_to_nearest(LayerWeights& layer) {
  QuantizeOptions const options = quantize_options(weights_);
  for (std::size_t i = 0; i < linear_count; ++i) {
    auto const linear = static_cast<Linear>(i);
    if (integer()) pack_levels(linear, quantize(cpu_, layer.weight[i], options), layer);
    else if (sink_ && weights_.bits <= 4) keep(linear, quantize(cpu_, layer.weight[i], options), layer);
    else if (sink_) keep(linear, quantize_int8(cpu_, layer.weight[i], options), layer);
    else fake_quantize(cpu_, MatrixView<float>(layer.weight[i]), options);
  }
}

void RoundedLayers::round_on_text(LayerWeights& layer) {
  for (Readers const& input : readers_of_inputs) {
    std::span<Linear const> const readers(input.linears.data(), input.count);
    if (weights_.bits <= 4) round_readers<4>(input.site, readers, layer);
    else round_readers<8>(input.site, readers, layer);
    if (input.site == Site::o_proj_input) text_->add_attention(layer, layer_);
  }
  text_->add_feed_forward(layer, layer_);
  if (!integer()) return;
  for (std::size_t i = 0; i < linear_count; ++i)
    pack_levels(static_cast<Linear>(i), std::exchange(levels_[i], {}), layer);
}

template <int StorageBits>
void RoundedLayers::round_readers(Site site, std::span<Linear const> readers, LayerWeights& layer) {
  std::vector<MatrixView<float const>> weights;
  for (Linear const linear : readers) weights.emplace_back(layer.weight[index_of(linear)]);
  Hessian hessian(weights.front().cols(), sentence("layer ", layer_, ", ", name_of(site)));
  collecting_ = &hessian;
  collected_ = site;
  text_->observe_until(site, layer, layer_);
  collecting_ = nullptr;
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
void RoundedLayers::keep(Linear linear, IntMatrix<StorageBits> levels, LayerWeights& layer) {
  dequantize(cpu_, levels, MatrixView<float>(layer.weight[index_of(linear)]));
  if constexpr (StorageBits == 4)
    if (integer()) {
      levels_[index_of(linear)] = std::move(levels);
      return;
    }
  if (sink_) sink_(linear, std::move(levels));
}

/// In 4 bits, with scales that fit those of the input, of which there is one per head or token.
void RoundedLayers::pack_levels(Linear linear, Int4Matrix const& levels, LayerWeights& layer) const {
  bool const heads =
      options_.quantization.o_proj_input == Quantization::OutputInput::per_head && linear == Linear::o_proj;
  index_t const input_group = heads ? folded_.model().config().head_dim : levels.cols();
  auto const group = product_group(levels.cols(), input_group, levels.block().cols);
  require(group.has_value(), "[hidden_states] scales of ", input_group,
          " channels of the o_proj input and of ", levels.block().cols,
          " of its weights: for integer products both must be multiples of 8, one dividing "
          "the other");
  bool const sums = options_.quantization.scheme.activations > 4;
  layer.packed[index_of(linear)] = pack(cpu_, levels, {.group = *group, .sums = sums});
  layer.weight[index_of(linear)].resize(0, 0);
}

}  // namespace dartquant::detail
