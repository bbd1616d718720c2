// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/forward.hpp>

#include "model/decoder_layer.hpp"
#include "model/weights.hpp"

namespace dartquant::detail {

/// Rows of the residual stream that pass through a layer at a time, in whole windows of `tokens`. They bound
/// the buffers of a layer; with products on another machine there are more, because each group sends the
/// weights.
[[nodiscard]] index_t rows_of_group(Cpu const& cpu, index_t tokens);

/// The embedding of every token [tokens, hidden], learned positions added: the first token of a window is at
/// `first_position`. Each row of the matrix that is used at all is read and turned once, a bounded number at
/// a time.
[[nodiscard]] RowMatrix<float> embed(FoldedWeights const& weights, TokenWindows const& windows,
                                     index_t first_position = 0);

/// Errors: InvalidArgument for windows that do not fit the model.
void check_windows(ModelConfig const& config, TokenWindows const& windows);

/// The hidden states of some windows on their way through the layers of a model.
class ResidualStream {
 public:
  /// At the embedding. `cpu` and `folded` must outlive this. Errors: InvalidArgument for windows that do not
  /// fit the model.
  ResidualStream(Cpu const& cpu, FoldedWeights const& folded, TokenWindows const& windows,
                 ForwardOptions options);
  ResidualStream(ResidualStream const&) = delete;
  ResidualStream& operator=(ResidualStream const&) = delete;

  /// Shows the observer the activations of a layer up to `last`, from the beginning of the half of the layer
  /// that `last` lies in. The stream stays where it is.
  void observe_until(Site last, LayerWeights const& weights, index_t layer, BlockObserver const& observer);
  /// Adds one half of a layer. Errors: Error(numerics) for an output that is not finite.
  void add_attention(LayerWeights const& weights, index_t layer);
  void add_feed_forward(LayerWeights const& weights, index_t layer);

  /// Sentences on experts that saw no token so far; usually none.
  [[nodiscard]] std::vector<std::string> notes() const;
  /// [windows * tokens, hidden].
  [[nodiscard]] RowMatrix<float>& hidden() { return hidden_; }

 private:
  template <class Body>
  void for_groups(Body const& body);

  Cpu const& cpu_;
  ForwardOptions options_;
  index_t tokens_, group_;
  RowMatrix<float> hidden_;
  DecoderLayer decoder_;
};

}  // namespace dartquant::detail
