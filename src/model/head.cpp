// SPDX-License-Identifier: Apache-2.0
#include "model/head.hpp"

#include "model/decoder_layer.hpp"

namespace dartquant::detail {

NormGains gains_of(ForwardOptions const& options) {
  bool const changed =
      options.rotations != nullptr &&
      ((options.active.r1 && options.rotations->r1.size() != 0) || !options.rotations->layers.empty());
  return changed ? NormGains::folded : options.gains;
}

RowMatrix<float> OutputHead::normalize(MatrixView<float const> hidden) const {
  RowMatrix<float> normed(hidden.rows(), hidden.cols());
  detail::normalize(cpu_, hidden, model_.config().norm_epsilon, norm_, normed);
  return normed;
}

void OutputHead::cap(Eigen::Ref<RowMatrix<float>> logits) const {
  auto const cap = static_cast<float>(model_.config().logit_cap);
  if (cap > 0) logits = (cap * (logits.array() / cap).tanh()).matrix();
}

}  // namespace dartquant::detail
