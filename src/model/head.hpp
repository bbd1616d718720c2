// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/forward.hpp>

#include "model/weights.hpp"

namespace dartquant::detail {

/// R1 and gains that are kept do not commute, and scales of layers take their place: both fold them.
[[nodiscard]] NormGains gains_of(ForwardOptions const& options);

/// Final norm and lm_head, the vocabulary in blocks, so that neither lm_head nor the logits of many tokens
/// are in memory as a whole.
class OutputHead {
 public:
  /// All references must outlive this.
  OutputHead(Cpu const& cpu, Model const& model, ForwardOptions const& options)
      : cpu_(cpu),
        model_(model),
        weights_(cpu, model, options.rotations, options.active, gains_of(options)),
        norm_(weights_.final_norm()) {}

  [[nodiscard]] index_t blocks() const {
    return (model_.config().vocabulary + rows_per_block - 1) / rows_per_block;
  }
  [[nodiscard]] index_t first(index_t block) const { return block * rows_per_block; }
  [[nodiscard]] index_t count(index_t block) const {
    return std::min(rows_per_block, model_.config().vocabulary - first(block));
  }
  /// Rows of lm_head [count(block), hidden].
  [[nodiscard]] RowMatrix<float> weights(index_t block) const {
    return weights_.head_rows(first(block), count(block)).cast<float>();
  }
  /// The input of lm_head for hidden states [tokens, hidden].
  [[nodiscard]] RowMatrix<float> normalize(MatrixView<float const> hidden) const;

  /// logits <- cap tanh(logits / cap) where the model does that.
  void cap(Eigen::Ref<RowMatrix<float>> logits) const;

 private:
  static constexpr index_t rows_per_block = 4096;
  Cpu const& cpu_;
  Model const& model_;
  FoldedWeights weights_;
  NormWeights norm_;
};

}  // namespace dartquant::detail
