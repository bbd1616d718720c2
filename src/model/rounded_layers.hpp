// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/model/forward.hpp>
#include <dartquant/quant/hessian.hpp>
#include <dartquant/quant/int_matrix.hpp>

#include "model/decoder_layer.hpp"
#include "model/residual_stream.hpp"
#include "model/weights.hpp"

namespace dartquant::detail {

/// Errors: InvalidArgument where the rounding needs text and `windows` is null.
void require_text(WeightQuantization const& weights, TokenWindows const* windows);

/// What the Hessians of a model's inputs were like, for a few sentences.
class HessianNotes {
 public:
  explicit HessianNotes(double damping) : least_damping_(damping) {}
  /// One input; `damping` is what its factor took.
  void add(Hessian const& hessian, double damping);
  /// An input of an expert that was given no token.
  void add_unseen() { ++unseen_; }
  [[nodiscard]] std::vector<std::string> sentences(WeightQuantization const& weights) const;

 private:
  index_t inputs_ = 0, tokens_ = 0, short_inputs_ = 0, most_channels_ = 0, dead_inputs_ = 0,
          dead_channels_ = 0, raised_inputs_ = 0, unseen_ = 0;
  double least_damping_, most_damping_ = 0;
};

/// Takes the levels of every quantized linear map of a layer as they are decided; `map` is its place in
/// LayerWeights::linears.
using LevelSink = std::function<void(std::size_t map, std::variant<Int4Matrix, Int8Matrix> levels)>;

/// The layers of a model with their weights folded and rounded, one after the other. Where the rounding needs
/// text, its hidden states go along: every group of linear maps that read the same input gets the Hessian of
/// that input with all maps before it rounded, activations in full precision, online rotations active.
class RoundedLayers {
 public:
  /// `options` gives rotations, text and arithmetic. All references must outlive this; `cpu` has kernels
  /// where the arithmetic is integer.
  RoundedLayers(Cpu const& cpu, FoldedWeights const& folded, WeightQuantization const& weights,
                ForwardOptions const& options, LevelSink sink = {});
  RoundedLayers(Cpu const& cpu, FoldedWeights const& folded, ForwardOptions const& options)
      : RoundedLayers(cpu, folded, options.quantization.weights(), options) {}
  RoundedLayers(RoundedLayers const&) = delete;
  RoundedLayers& operator=(RoundedLayers const&) = delete;

  /// The next layer. Errors: Error(format) naming a weight that is not finite; InvalidArgument naming the
  /// layer and the input that is not; those of gptq.
  [[nodiscard]] LayerWeights next();
  /// Sentences on the rounding so far; usually none.
  [[nodiscard]] std::vector<std::string> notes() const { return notes_.sentences(weights_); }

 private:
  /// The layer of a folder of packed weights.
  [[nodiscard]] LayerWeights unpacked();
  /// To nearest where nobody multiplies with the weights: block by block, never as a matrix of floats.
  void hand_on_levels(LayerWeights const& layer);
  template <int StorageBits>
  [[nodiscard]] IntMatrix<StorageBits> levels_to_nearest(LayerLinear const& linear) const;
  void round_to_nearest(LayerWeights& layer);
  void round_to_nearest(std::size_t map, LayerWeights& layer);
  void round_on_text(LayerWeights& layer);
  /// The maps that read the input `site`, of every MLP of a sparse layer.
  void round_site(Site site, index_t blocks, LayerWeights& layer);
  void round_unseen(std::span<std::size_t const> readers, LayerWeights& layer);
  template <int StorageBits>
  void round_readers(Hessian const& hessian, std::span<std::size_t const> readers, LayerWeights& layer);
  template <int StorageBits>
  void keep(std::size_t map, IntMatrix<StorageBits> levels, LayerWeights& layer);
  void pack_levels(std::size_t map, Int4Matrix const& levels, LayerWeights& layer) const;
  [[nodiscard]] bool integer() const { return options_.quantization.arithmetic == Arithmetic::integer; }

  Cpu const& cpu_;
  FoldedWeights const& folded_;
  WeightQuantization weights_;
  ForwardOptions const& options_;
  LevelSink sink_;
  std::optional<ResidualStream> text_;  ///< where the rounding needs it
  std::vector<Int4Matrix> levels_;      ///< of the present layer, for integer products
  HessianNotes notes_;
  index_t layer_ = 0;
};

}  // namespace dartquant::detail
