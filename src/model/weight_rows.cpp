// SPDX-License-Identifier: Apache-2.0
#include "model/weight_rows.hpp"

#include "model/weights.hpp"

namespace dartquant::detail {
namespace {

bool reads_stream(LayerLinear const& linear) { return linear.input_side == Acts::r1 && linear.quantized(); }

/// Row i of the result is row i total / count of all rows of the maps of layers first .. last - 1 that
/// `reads` chooses, which have `width` inputs.
template <class Reads>
RowMatrix<float> weight_rows(FoldedWeights const& weights, Model const& model, index_t first_layer,
                             index_t last_layer, Reads const& reads, index_t count, index_t width) {
  index_t total = 0;
  for (index_t layer = first_layer; layer < last_layer; ++layer)
    for (LayerLinear const& linear : weights.linears(layer))
      if (reads(linear)) total += linear.outputs;
  RowMatrix<float> rows(count, width);
  index_t taken = 0, first = 0;
  for (index_t layer = first_layer; layer < last_layer; ++layer) {
    for (LayerLinear const& linear : weights.linears(layer)) {
      if (!reads(linear)) continue;
      RowMatrix<double> const W = weights.weight(layer, linear);
      for (; taken < count && taken * total / count < first + W.rows(); ++taken)
        rows.row(taken) = W.row(taken * total / count - first).cast<float>();
      first += W.rows();
    }
    release_pages(model.checkpoint());
  }
  return rows;
}

/// X, and below it rows of weights at unit RMS.
RowMatrix<float> below(Cpu const& cpu, MatrixView<float const> X, RowMatrix<float> rows) {
  cpu.normalize_rows<float>(rows);
  RowMatrix<float> both(X.rows() + rows.rows(), X.cols());
  both << as_eigen(X), rows;
  return both;
}

index_t count_of(MatrixView<float const> X, double share) {
  return static_cast<index_t>(share * static_cast<double>(X.rows()));
}

}  // namespace

RowMatrix<float> with_weight_rows(Cpu const& cpu, Model const& model, MatrixView<float const> X,
                                  double share) {
  index_t const count = count_of(X, share);
  if (count == 0) return {};
  FoldedWeights const weights(cpu, model, nullptr, {}, NormGains::folded);
  return below(cpu, X, weight_rows(weights, model, 0, model.config().layers, reads_stream, count, X.cols()));
}

RowMatrix<float> with_weight_rows_of(Cpu const& cpu, Model const& model, Rotations const& rotations,
                                     index_t layer, Site site, MatrixView<float const> X, double share) {
  index_t const count = count_of(X, share);
  if (count == 0) return {};
  auto const reads = [site](LayerLinear const& linear) {
    return linear.quantized() && input_of(linear.linear) == site;
  };
  RotationSet const active{.r1 = true, .r2 = static_cast<std::size_t>(layer) < rotations.r2.size()};
  FoldedWeights const weights(cpu, model, &rotations, active, NormGains::folded);
  return below(cpu, X, weight_rows(weights, model, layer, layer + 1, reads, count, X.cols()));
}

}  // namespace dartquant::detail
