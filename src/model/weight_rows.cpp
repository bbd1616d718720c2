// SPDX-License-Identifier: Apache-2.0
#include "model/weight_rows.hpp"

#include "model/weights.hpp"

namespace dartquant::detail {
namespace {

bool reads_stream(LayerLinear const& linear) { return linear.input_side == Acts::r1 && linear.quantized(); }

/// Row i of the result is row i total / count of all.
RowMatrix<float> weight_rows(Cpu const& cpu, Model const& model, index_t count) {
  FoldedWeights const weights(cpu, model, nullptr, {}, NormGains::folded);
  index_t const layers = model.config().layers;
  index_t total = 0;
  for (index_t layer = 0; layer < layers; ++layer)
    for (LayerLinear const& linear : weights.linears(layer))
      if (reads_stream(linear)) total += linear.outputs;
  RowMatrix<float> rows(count, model.config().hidden);
  index_t taken = 0, first = 0;
  for (index_t layer = 0; layer < layers; ++layer) {
    for (LayerLinear const& linear : weights.linears(layer)) {
      if (!reads_stream(linear)) continue;
      RowMatrix<double> const W = weights.weight(layer, linear);
      for (; taken < count && taken * total / count < first + W.rows(); ++taken)
        rows.row(taken) = W.row(taken * total / count - first).cast<float>();
      first += W.rows();
    }
    release_pages(model.checkpoint());
  }
  cpu.normalize_rows<float>(rows);
  return rows;
}

}  // namespace

RowMatrix<float> with_weight_rows(Cpu const& cpu, Model const& model, MatrixView<float const> X,
                                  double share) {
  auto const count = static_cast<index_t>(share * static_cast<double>(X.rows()));
  if (count == 0) return {};
  RowMatrix<float> rows(X.rows() + count, X.cols());
  rows << as_eigen(X), weight_rows(cpu, model, count);
  return rows;
}

}  // namespace dartquant::detail
