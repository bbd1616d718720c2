// SPDX-License-Identifier: Apache-2.0
#include "model/other_tensors.hpp"

#include "model/layout.hpp"

namespace dartquant::detail {

UseRows OtherTensors::rows_of(std::string_view name) const {
  return [this, name = std::string(name)](index_t first, MatrixView<double const> rows) {
    writer_.write_rows(name, first, rows);
  };
}

void OtherTensors::write_norm(std::string const& name, NormWeights const& norm, index_t channels) {
  NormKind const kind = weights_.model().family().norm;
  RowMatrix<float> gain = norm.gain;
  if (gain.size() == 0) gain.setOnes(1, channels);
  if (kind == NormKind::rms_offset) gain.array() -= 1;
  writer_.append(name, MatrixView<float const>(gain));
  if (kind != NormKind::layer) return;
  RowMatrix<float> bias = norm.bias;
  if (bias.size() == 0) bias.setZero(1, channels);
  writer_.append(bias_beside(name), MatrixView<float const>(bias));
}

void OtherTensors::write_embeddings() {
  Family const& family = weights_.model().family();
  weights_.each_embedding_block(rows_of(family.embedding));
  if (!family.positions.empty()) weights_.each_position_block(rows_of(family.positions));
}

void OtherTensors::write_norms(index_t layer) {
  Model const& model = weights_.model();
  Family const& family = model.family();
  for (LayerNorm const& norm : norms_of(family, model.config())) {
    std::string const name = tensor_name(family, layer, norm.name, ".weight");
    if (norm.name == family.attention_norm) write_norm(name, weights_.attention_norm(layer), norm.channels);
    else if (norm.name == family.mlp_norm) write_norm(name, weights_.mlp_norm(layer), norm.channels);
    else {
      RowMatrix<double> const kept = model.checkpoint().read_matrix<double>(name);
      writer_.append(name, MatrixView<double const>(kept));
    }
  }
}

void OtherTensors::write_head() {
  Family const& family = weights_.model().family();
  write_norm(std::string(family.final_norm), weights_.final_norm(), weights_.model().config().hidden);
  weights_.each_head_block(rows_of(family.head));
}

}  // namespace dartquant::detail
