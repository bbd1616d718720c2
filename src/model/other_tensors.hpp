// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include <dartquant/io/checkpoint.hpp>

#include "model/weights.hpp"

namespace dartquant::detail {

/// Writes what is not a linear map of a layer: embedding, learned positions, norms and lm_head, folded, a
/// block of rows at a time.
class OtherTensors {
 public:
  /// Both must outlive this.
  OtherTensors(FoldedWeights const& weights, TensorSink& writer) : weights_(weights), writer_(writer) {}

  /// The embedding and the learned positions.
  void write_embeddings();
  /// All norms of a layer.
  void write_norms(index_t layer);
  /// The final norm and lm_head.
  void write_head();

 private:
  /// Writes blocks of rows to this tensor.
  [[nodiscard]] UseRows rows_of(std::string_view name) const;
  /// An empty gain is 1, an empty bias 0; a gain 1 + w is stored as w.
  void write_norm(std::string const& name, NormWeights const& norm, index_t channels);

  FoldedWeights const& weights_;
  TensorSink& writer_;
};

}  // namespace dartquant::detail
