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
  rms_norm(cpu_, hidden, model_.config().norm_epsilon, gain_, normed);
  return normed;
}

}  // namespace dartquant::detail
