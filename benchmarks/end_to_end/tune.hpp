// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/model/pipeline.hpp>

namespace dartquant::end_to_end {

/// How rotations are tuned on the output of the quantized network.
struct TuneOptions {
  Quantization quantization{.scheme = {.weights = 16, .activations = 4, .kv = 4}};
  index_t steps = 60;
  index_t batch_windows = 8;    ///< per step, drawn anew
  double relative_step = 0.01;  ///< |R' - R|_F / |R|_F of a steady gradient, of the first step
  double momentum = 0.9;
};

/// Tunes R1 and R2 of `rotations` on KL(original || quantized) over `windows` (OutputDivergence), by steps on
/// the rotations themselves: with A the skew part of R^T dL/dR and moments m, v of A and |A|_F^2,
///
///     m <- momentum m + (1 - momentum) A,  R <- polar(R (I - rate sqrt(n) m / sqrt(v)))
///
/// R1 and every R2 with a v of their own, rate falling as a cosine. Returns the divergence of every step's
/// batch before the step. Errors: InvalidArgument for a model OutputDivergence does not support.
std::vector<double> tune(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                         TuneOptions const& options, std::uint64_t seed, Rotations& rotations);

}  // namespace dartquant::end_to_end
