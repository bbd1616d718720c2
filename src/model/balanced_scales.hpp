// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/model/pipeline.hpp>

namespace dartquant::detail {

/// What balanced scales are found from: rows about the means of their sites (CentredSample::rows, starts),
/// the means, and the mean squares of the down_proj inputs.
struct ChannelPowers {
  RowMatrix<float> const& rows;
  std::vector<index_t> const& starts;
  std::vector<LayerTransforms> const& means;  ///< as shifts
  std::vector<std::vector<double>> const& down;
};

/// s_i = sqrt(a_i / w_i), of geometric mean 1: with X / s and W diag(s), the least of (sum a_i^2 / s_i^2)(sum
/// s_i^2 w_i^2), to which the squared output error of white rounding errors on both sides is proportional.
/// `a` and `w` [channels] are RMS values; channels where one is below 1e-6 of its largest keep the scale 1.
[[nodiscard]] std::vector<double> balance(std::vector<double> const& a, std::vector<double> const& w);

/// Gives every layer of `rotations` such scales at the q_proj, up_proj and down_proj inputs, in the basis of
/// its R1. One tensor in memory at a time.
void add_balanced_scales(Cpu const& cpu, Model const& model, ChannelPowers const& powers,
                         Rotations& rotations);

}  // namespace dartquant::detail
