// SPDX-License-Identifier: Apache-2.0
#include "model/other_tensors.hpp"

#include <algorithm>

#include "model/layout.hpp"

namespace dartquant::detail {
namespace {

constexpr index_t rows_per_block = 1024;

}  // namespace

template <class Rows>
void OtherTensors::write_blocks(std::string const& name, index_t total, Rows const& rows) {
  for (index_t first = 0; first < total; first += rows_per_block) {
    RowMatrix<double> const block = rows(first, std::min(rows_per_block, total - first));
    writer_.append(name, MatrixView<double const>(block));
  }
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
  ModelConfig const& config = weights_.model().config();
  write_blocks(std::string(family.embedding), config.vocabulary,
               [&](index_t first, index_t count) { return weights_.embedding_rows(first, count); });
  if (!family.positions.empty())
    write_blocks(std::string(family.positions), config.positions + 2,
                 [&](index_t first, index_t count) { return weights_.position_rows(first, count); });
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
  ModelConfig const& config = weights_.model().config();
  write_norm(std::string(family.final_norm), weights_.final_norm(), config.hidden);
  write_blocks(std::string(family.head), config.vocabulary,
               [&](index_t first, index_t count) { return weights_.head_rows(first, count); });
}

}  // namespace dartquant::detail
