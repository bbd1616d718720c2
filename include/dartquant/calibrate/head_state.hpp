// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/platform.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// What a machine keeps about each of several descents that it takes together, as rows of a matrix of doubles
/// [count, heads] in its own memory, so that no step of them waits for the host.
namespace head_state {
enum Field : index_t {
  going,              ///< 1 until a loss or gradient is not finite, or the first gradient vanishes
  finite,             ///< 0 once something was not finite
  rate,               ///< the learning rate before schedule; 0 until the first step chose it
  step_rate,          ///< that of the step being taken
  steps,              ///< of the optimizer, since its state was zero
  taken,              ///< steps in all
  epochs,             ///< whose loss is known
  loss,               ///< of the last batch
  whole_norm,         ///< |O^T dL/dO|_F of the last batch
  gradient_norm,      ///< |dL/dZ|_F of the last batch
  best_loss,          ///< the smallest loss of an epoch
  condition,          ///< of the latent, at its last factorisation
  largest_condition,  ///< of the latents so far
  householder,        ///< 1 once a factorisation had to take that path
  failed,             ///< 1 between a Cholesky path that failed and the Householder path that mends it
  count
};
}  // namespace head_state

/// The state of all heads, for kernels and host alike.
template <Space S>
struct HeadStates {
  MatrixView<double, S> values;  ///< [head_state::count, heads]
  [[nodiscard]] DARTQUANT_HD double& operator()(head_state::Field field, index_t head) const {
    return values(field, head);
  }
};

}  // namespace dartquant
