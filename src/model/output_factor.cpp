// SPDX-License-Identifier: Apache-2.0
#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>

#include "model/learn.hpp"
#include "model/weights.hpp"

namespace dartquant::detail {

RowMatrix<double> output_factor(Cpu const& cpu, Model const& model) {
  index_t const channels = model.config().hidden;
  FoldedWeights const weights(cpu, model, nullptr, {}, NormGains::folded);
  RowMatrix<double> sum = RowMatrix<double>::Zero(channels, channels), one(channels, channels);
  for (index_t layer = 0; layer < model.config().layers; ++layer) {
    for (LayerLinear const& linear : weights.linears(layer)) {
      if (linear.norm.empty() || !linear.quantized()) continue;
      cpu.gram<double>(weights.weight(layer, linear), one);
      sum.triangularView<Eigen::Lower>() += one;
    }
    release_pages(model.checkpoint());
  }
  double const mean = sum.trace() / static_cast<double>(channels);
  if (!(mean > 0))
    fail(Error::Kind::numerics,
         "[output_factor] all weights that read the residual stream are zero: there is no output to keep");
  sum *= 1 / mean;
  sum.diagonal().array() += 1e-9;  // weights of any rank have a factor
  CholeskyStatus const status = cpu.cholesky(sum);
  if (!status.ok())
    fail(Error::Kind::numerics, "[output_factor] the mean of W^T W has no Cholesky factor: pivot ",
         status.failed_pivot, " of ", channels);
  return sum;
}

}  // namespace dartquant::detail
